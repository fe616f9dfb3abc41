"""The server as its clients see it: OpenAI's own client, and clients that misbehave."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from lede.decode.load import from_transformers
from lede.decode.loop import Decoding
from lede.decode.prefix import Prefixes
from lede.serve.generate import generate
from lede.serve.server import Limits
from lede.serve.stream import Until
from tests.models import FIXED, byte_llama, byte_tokenizer
from tests.serve.serving import serving, wait_for
from tests.serve.test_generate import random_policy

PROMPT = "def mean(values):"
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]"


@pytest.fixture(scope="module")
def model():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return from_transformers(byte_llama(eos_token_id=None), torch.float32, tokenizer=tokenizer, name="tiny")


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    made = {}
    for seed, name in enumerate(("one", "two")):
        made[name] = tmp_path_factory.mktemp("policies") / name
        random_policy(model, seed).save(made[name])
    return made


@pytest.fixture(scope="module")
def server(model, folders):
    with serving(model, folders) as served:
        yield served


@pytest.fixture
def client(server):
    with server.openai() as made:
        yield made


def complete(client, prompt=PROMPT, **options):
    return client.completions.create(model="tiny", prompt=prompt, **{"max_tokens": 40} | options)


def streamed(chunks) -> str:
    return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


def test_the_text_is_plain_decoding_s_whoever_steers_it(model, client):
    expected = generate(model, PROMPT, max_new_tokens=40)
    for own in ({}, {"lede": {"policy": "two"}}, {"lede": {"policy": None}}):
        done = complete(client, extra_body=own)
        assert done.choices[0].text == expected.text
        assert (done.choices[0].finish_reason, done.object, done.model) == ("length", "text_completion", "tiny")
        usage = done.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (len(expected.prompt_ids), 40)
        assert (usage.drafted_tokens > 0) == ("policy" not in own.get("lede", {}) or own["lede"]["policy"] is not None)
        assert usage.drafted_tokens >= usage.accepted_tokens
    assert complete(client, list(expected.prompt_ids)).choices[0].text == expected.text


def test_streaming_gives_the_same_text(model, client):
    expected = generate(model, PROMPT, max_new_tokens=40).text
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert len(chunks) > 5
    assert streamed(chunks) == expected
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 40
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    assert streamed(complete(client, stream=True)) == expected


def test_a_conversation_goes_through_the_chat_template(model, client):
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}]
    expected = generate(model, messages, max_new_tokens=20)
    assert model.tokenizer.decode(expected.prompt_ids) == "[system]short\n[user]hi\n[assistant]"
    done = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=20)
    assert done.choices[0].message.content == expected.text
    assert done.choices[0].message.role == "assistant"
    parts = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    chunks = list(
        client.chat.completions.create(model="tiny", messages=messages[:1] + parts, max_tokens=20, stream=True)
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    assert chunks[-1].choices[0].finish_reason == "length"
    to_the_end = client.chat.completions.create(model="tiny", messages=messages)
    assert to_the_end.usage.total_tokens == model.context


def test_a_stop_string_ends_the_text_and_is_left_out(model, client):
    text = generate(model, PROMPT, max_new_tokens=40).text
    stop = next(text[i : i + 2] for i in range(8, 30) if text[i : i + 2].isascii())
    for own in ({}, {"lede": {"policy": None}}):
        done = complete(client, stop=["never there", stop], extra_body=own)
        assert done.choices[0].text == text[: text.index(stop)]
        assert done.choices[0].finish_reason == "stop"
        assert done.usage.completion_tokens < 40
        assert streamed(complete(client, stop=stop, stream=True, extra_body=own)) == text[: text.index(stop)]


def test_a_stop_string_is_found_wherever_pieces_end():
    for stops, text, expected in (
        (["abcd", "c"], "xabcd", "xab"),
        (["aab"], "aaab-", "a"),
        (["bc", "abc"], "zabc", "z"),
        (["ab"], "aaa", "aaa"),
        ([], "abc", "abc"),
    ):
        until = Until(stops)
        given = ""
        for character in text:
            given += until.add(character)
            if until.ended:
                break
        assert given + until.rest() == expected


def test_a_seed_repeats_what_sampling_writes(model, client):
    expected = generate(model, PROMPT, max_new_tokens=30, temperature=1.5, top_p=0.9, seed=7).text
    options = {"temperature": 1.5, "top_p": 0.9, "max_tokens": 30}
    plain = {"lede": {"policy": None}}
    assert complete(client, seed=7, extra_body=plain, **options).choices[0].text == expected
    assert streamed(complete(client, seed=7, stream=True, extra_body=plain, **options)) == expected
    assert complete(client, seed=8, **options).choices[0].text != expected
    steered = [complete(client, seed=3, **options).choices[0].text for _ in range(2)]
    assert steered[0] == steered[1]


def library_logprobs(ids, start):
    """(tokens, vocabulary) log p of what `transformers` has behind each position from `start` on."""
    with torch.no_grad():
        logits = byte_llama(eos_token_id=None)(torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits[start - 1 : -1], -1)


def test_logprobs_are_the_full_model_s(model, client):
    for heat, own in ((0, {}), (1.2, {"lede": {"policy": None}})):
        expected = generate(model, PROMPT, max_new_tokens=20, temperature=heat, seed=1)
        ids, start = [*expected.prompt_ids, *expected.token_ids], len(expected.prompt_ids)
        options = {"max_tokens": 20, "temperature": heat, "seed": 1, "extra_body": own}
        said = complete(client, logprobs=3, **options).choices[0].logprobs
        logp = library_logprobs(ids, start)
        of_ids = [float(row[token]) for row, token in zip(logp, expected.token_ids, strict=True)]
        assert said.token_logprobs == pytest.approx(of_ids, abs=1e-3)
        for likeliest, row in zip(said.top_logprobs, logp.topk(3).values, strict=True):
            assert max(likeliest.values()) == pytest.approx(float(row[0]), abs=1e-3)
        assert (said.text_offset[0], len(said.tokens), len(said.text_offset)) == (0, 20, 20)


def test_logprobs_of_a_chat(model, client):
    messages = [{"role": "user", "content": "hi"}]
    expected = generate(model, messages, max_new_tokens=20)
    done = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=20, logprobs=True, top_logprobs=2, stop="\x00never"
    )
    said = done.choices[0].logprobs.content
    assert bytes(byte for one in said for byte in one.bytes).decode(errors="replace") == expected.text
    assert all(one.logprob == one.top_logprobs[0].logprob for one in said)  # greedy
    assert [len(one.top_logprobs) for one in said] == [2] * 20
    with pytest.raises(openai.BadRequestError, match="whole answers"):
        client.chat.completions.create(model="tiny", messages=messages, logprobs=True, stream=True)


def test_models_are_listed(client):
    assert [card.id for card in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompt": PROMPT, "model": "gpt"}, 404, "there is no model 'gpt'"),
        ({}, 400, "prompt: Field required"),
        ({"prompt": 3}, 400, "prompt"),
        ({"prompt": ["a", "b"]}, 400, "prompt"),
        ({"prompt": ""}, 400, "the prompt is empty"),
        ({"prompt": []}, 400, "the prompt is empty"),
        ({"prompt": [-1]}, 400, "token ids outside"),
        ({"prompt": "x" * 300}, 400, "the prompt has 300 tokens"),
        ({"prompt": PROMPT, "temperature": -1}, 400, "temperature: "),
        ({"prompt": PROMPT, "max_tokens": 0}, 400, "max_tokens: "),
        ({"prompt": PROMPT, "stop": [""]}, 400, "stop"),
        ({"prompt": PROMPT, "n": 2}, 400, "n is not supported"),
        ({"prompt": PROMPT, "logprobs": 6}, 400, "logprobs"),
        ({"prompt": PROMPT, "lede": {"policy": "three"}}, 400, "there is no policy 'three': there are one, two"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_in_openai_s_form(server, body, status, said):
    for stream in (False, True):
        answer = server.post(**body, stream=stream)
        assert answer.status_code == status
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert said in error["message"]


def test_parameters_that_ask_for_nothing_are_taken(server):
    nothing = {"n": 1, "presence_penalty": 0.0, "logit_bias": {}, "echo": False, "logprobs": None, "user": "me"}
    assert server.post(prompt=PROMPT, max_tokens=2, **nothing).status_code == 200


def test_rubbish_is_refused(server):
    url = f"{server.url}/v1/completions"
    for content in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"prompt": "\\ud800"}', b'{"prompt": "a", "top_p": NaN}'):
        answer = httpx.post(url, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400, content
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(url).status_code == 405
    assert httpx.get(f"{server.url}/nowhere").json()["error"]["type"] == "not_found_error"

    def chunks():
        yield from (b"x" * 100_000 for _ in range(100))

    for content in (b"x" * 10_000_000, chunks()):
        assert httpx.post(url, content=content, headers={"content-type": "application/json"}).status_code == 413
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as raw:
        raw.sendall(b"\x00\x01rubbish\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "model": "tiny"}


def test_pages_of_other_sites_cannot_ask(server):
    refused = {"host": "evil.example:8000"}, {"origin": "https://evil.example"}, {"origin": "null"}, {"host": "[::1"}
    for headers in refused:
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 403
    for headers in ({"host": "localhost:1"}, {"host": "[::1]:1"}, {"origin": "http://127.0.0.1:3000"}):
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200


def test_a_key_is_asked_for(model):
    with serving(model, limits=Limits(key="secret")) as served:
        with pytest.raises(openai.AuthenticationError), served.openai() as wrong:
            complete(wrong)
        with served.openai(api_key="secret") as right:
            assert complete(right, max_tokens=2).usage.completion_tokens == 2
        assert httpx.get(f"{served.url}/metrics").status_code == 401
        assert httpx.get(f"{served.url}/health", headers={"host": "evil.example"}).status_code == 200


class Gate:
    """Holds the decoder back at each round, so that requests wait for as long as a test wants."""

    def __init__(self, monkeypatch):
        self.opened, self.entered, rounds = threading.Event(), threading.Event(), Decoding.rounds

        def held(decoding):
            for round_ in rounds(decoding):
                self.entered.set()
                self.opened.wait(30)
                yield round_

        monkeypatch.setattr(Decoding, "rounds", held)


def asking(server, **body) -> threading.Thread:
    """A request in a thread, whose answers go into `.answer`."""
    thread = threading.Thread(target=lambda: setattr(thread, "answer", server.post(prompt=PROMPT, **body)))
    thread.start()
    return thread


def test_a_conversation_s_next_turn_reads_only_what_is_new(model, monkeypatch):
    first = [{"role": "user", "content": "hi"}]
    with serving(model) as served:
        monkeypatch.setattr(model, "prefixes", Prefixes())
        done = served.post("/v1/chat/completions", messages=first, max_tokens=20).json()
        turns = [*first, done["choices"][0]["message"], {"role": "user", "content": "go on"}]
        kept = served.post("/v1/chat/completions", messages=turns, max_tokens=20).json()
        model.prefixes.clear()
        anew = served.post("/v1/chat/completions", messages=turns, max_tokens=20).json()
    assert kept["usage"]["prompt_tokens_details"]["cached_tokens"] >= 15
    assert anew["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert kept["choices"] == anew["choices"]


def test_a_full_queue_refuses_and_the_others_are_answered_in_order(model, monkeypatch):
    gate = Gate(monkeypatch)
    with serving(model, queue=2) as served:
        asked = [asking(served, max_tokens=3)]
        gate.entered.wait(20)
        for waiting in (1, 2):
            asked.append(asking(served, max_tokens=3 + waiting))
            wait_for(lambda: served.metric("lede_queue") == waiting)  # noqa: B023
        refused = served.post(prompt=PROMPT)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        gate.opened.set()
        for thread in asked:
            thread.join()
        assert [thread.answer.json()["usage"]["completion_tokens"] for thread in asked] == [3, 4, 5]
        assert served.metric("lede_requests_total", status="429") == 1


def test_who_waits_too_long_is_told(model, monkeypatch):
    gate = Gate(monkeypatch)
    with serving(model, limits=Limits(seconds=0.3)) as served:
        threads = [asking(served, stream=stream) for stream in (False, True)]
        for thread in threads:
            thread.join()
            assert thread.answer.status_code == 408
        gate.opened.set()
        wait_for(lambda: served.metric("lede_dropped_total") == 2)
        assert served.post(prompt=PROMPT, max_tokens=3).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_decoder(model, stream):
    with serving(model, queue=4) as served:
        body = json.dumps({"prompt": PROMPT, "max_tokens": 200, "stream": stream}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        sockets = []
        for _ in range(4):
            raw = socket.create_connection(("127.0.0.1", int(served.url.rsplit(":", 1)[1])))
            raw.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            sockets.append(raw)
        if stream:
            sockets[0].recv(10)
        for raw in sockets:
            raw.close()
        done = served.post(prompt=PROMPT, max_tokens=3)
        assert done.json()["usage"]["completion_tokens"] == 3
        assert served.metric("lede_dropped_total") + served.metric("lede_tokens_total", kind="completion") > 3
        assert served.metric("lede_queue") == 0


def storm(served, model, clients: int, requests: int) -> None:
    """So many requests from so many clients at a time; one in ten is broken, the others must be answered rightly."""
    prompts = [f"def f{i}(x):" for i in range(7)]
    expected = [generate(model, prompt, max_new_tokens=24).text for prompt in prompts]
    host = ("127.0.0.1", int(served.url.rsplit(":", 1)[1]))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    def ask(number: int) -> None:
        if number % 10 == 3:
            with socket.create_connection(host) as raw:  # leaves before or while it is answered, or says half of it
                body = json.dumps({"prompt": "x", "max_tokens": 200, "stream": number % 40 == 3}).encode()
                raw.sendall(
                    head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[: 20 if number % 20 == 13 else None]
                )
            return
        body = {"prompt": prompts[number % 7], "max_tokens": 24, "stream": number % 2 == 0}
        with served.openai() as client:
            done = client.completions.create(model="tiny", **body)
            assert (streamed(done) if body["stream"] else done.choices[0].text) == expected[number % 7]

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(requests)))
    wait_for(lambda: served.metric("lede_queue") == 0)
    ask(0)


def test_many_clients_some_of_them_broken(model, folders):
    with serving(model, folders) as served:
        storm(served, model, clients=8, requests=100)


def test_what_fails_is_said_and_the_next_request_is_answered(model, monkeypatch, caplog):
    with serving(model) as served:
        with monkeypatch.context() as broken:
            broken.setattr(Decoding, "rounds", lambda decoding: 1 / 0)
            answer = served.post(prompt=PROMPT)
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert "ZeroDivisionError" in caplog.text
        assert served.post(prompt=PROMPT, max_tokens=2).status_code == 200


def test_policies_are_swapped_between_requests(model, folders, tmp_path):
    random_policy(model, 3).save(tmp_path / "next")
    with serving(model, folders) as served:
        before = served.post(prompt=PROMPT, max_tokens=40).json()
        answer = served.post("/admin/policy", folder=str(tmp_path / "next"))
        assert answer.json()["policies"] == {"one": str(tmp_path / "next"), "two": str(folders["two"])}
        after = served.post(prompt=PROMPT, max_tokens=40).json()
        assert before["choices"] == after["choices"]
        assert before["usage"]["drafted_tokens"] != after["usage"]["drafted_tokens"]
        refused = served.post("/admin/policy", folder=str(tmp_path / "none"))
        assert refused.status_code == 400
        assert "there is no such folder" in refused.json()["error"]["message"]
        random_policy(model, 0).save(tmp_path / "next")
        assert httpx.post(f"{served.url}/admin/policy").status_code == 200
        assert served.post(prompt=PROMPT, max_tokens=40).json()["usage"] == before["usage"]


def test_what_was_served_is_counted(server, client):
    before = server.metric("lede_tokens_total", kind="completion")
    complete(client, max_tokens=5)
    assert server.metric("lede_tokens_total", kind="completion") == before + 5
    text = httpx.get(f"{server.url}/metrics").text
    for name in ("lede_requests_total", "lede_queue", "lede_tokens_per_second", "lede_rounds_total"):
        assert name in text
    assert 'kind="accepted"' in text
    assert 'lede_time_to_first_token_seconds_bucket{le="+Inf"}' in text


def test_the_server_s_own_description_holds(server):
    """What is asked at random within OpenAPI's document, and outside of it, is answered as the document says."""
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import negative_data_rejection, status_code_conformance

    checks, statuses = [not_a_server_error, status_code_conformance, negative_data_rejection], set()
    for found in schemathesis.openapi.from_url(f"{server.url}/openapi.json").get_all_operations():
        operation = found.ok()
        for mode in GenerationMode if operation.method == "post" else [GenerationMode.POSITIVE]:

            @settings(FIXED, max_examples=5, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                if mode is GenerationMode.POSITIVE and case.path.startswith("/v1/c"):  # noqa: B023
                    case.body |= {"model": "tiny", "lede": {"policy": "one"}}  # no other names work
                    for name in ("stop_token_ids", "allowed_token_ids", "logit_bias", "min_tokens", "max_tokens"):
                        case.body.pop(name, None)  # token ids, and numbers that go with each other
                answer = case.call_and_validate(checks=checks, timeout=30)
                statuses.add((case.path, answer.status_code))

            ask()
    assert {("/v1/completions", 200), ("/v1/chat/completions", 400), ("/health", 200)} <= statuses
