"""OpenAI's own client: streams, usage, errors, retries, and what it says of tokens."""

import asyncio
import threading

import openai
import pytest
import torch

from lede.decode.load import from_transformers
from lede.serve.generate import generate
from lede.serve.server import Limits
from tests.models import byte_llama, byte_tokenizer
from tests.serve.serving import serving
from tests.serve.test_server import TEMPLATE, Gate, asking, streamed

PROMPT = "def mean(values):"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def model():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return from_transformers(byte_llama(eos_token_id=None), torch.float32, tokenizer=tokenizer, name="tiny")


@pytest.fixture(scope="module")
def server(model):
    with serving(model) as served:
        yield served


@pytest.fixture
def client(server):
    with server.openai() as made:
        yield made


def test_all_ways_to_read_an_answer_give_the_same_text(model, server, client):
    expected = generate(model, HI, max_new_tokens=20).text
    asks = {"model": "tiny", "messages": HI, "max_tokens": 20}
    raw = client.chat.completions.with_raw_response.create(**asks)
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].message.content == expected
    with client.chat.completions.with_streaming_response.create(**asks) as answer:
        assert answer.parse().choices[0].message.content == expected
    stop = expected[-1]  # the client's stream takes only answers that are whole
    with client.chat.completions.stream(**asks, stop=stop, stream_options={"include_usage": True}) as events:
        seen = {event.type for event in events}
        final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= seen
    text = expected[: expected.index(stop)]
    assert (final.choices[0].message.content, final.choices[0].finish_reason) == (text, "stop")
    assert final.usage.total_tokens == final.usage.prompt_tokens + final.usage.completion_tokens

    async def later() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as made:
            whole = await made.chat.completions.create(**asks)
            pieces = [piece async for piece in await made.chat.completions.create(**asks, stream=True)]
        return [whole.choices[0].message.content, "".join(piece.choices[0].delta.content or "" for piece in pieces)]

    assert asyncio.run(later()) == [expected, expected]


def test_a_stream_that_is_left_is_closed(client, server):
    with client.completions.create(model="tiny", prompt=PROMPT, max_tokens=200, stream=True) as stream:
        assert next(iter(stream)).object == "text_completion"
    assert client.completions.create(model="tiny", prompt=PROMPT, max_tokens=1).usage.completion_tokens == 1


def test_errors_are_the_client_s_own(client, model):
    ask = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as caught:
        ask(model="tiny", messages=HI, tools=[{"type": "function", "function": {"name": "f"}}])
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError, match="response_format is not supported here"):
        ask(model="tiny", messages=HI, response_format={"type": "json_object"})
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        ask(model="gpt", messages=HI)
    with pytest.raises(openai.BadRequestError, match="the chat template of tiny does not read it") as caught:
        ask(model="tiny", messages=[{"role": "user", "content": "hi", "name": "Ann"}])
    assert caught.value.param == "messages[0].name"
    limits = Limits(key="secret")
    with serving(model, limits=limits) as served, served.openai(api_key="wrong") as wrong:
        answer = wrong.models.with_raw_response
        with pytest.raises(openai.AuthenticationError):
            answer.list()


def test_the_client_tries_again_when_the_queue_was_full(model, monkeypatch):
    gate = Gate(monkeypatch)
    with serving(model, queue=1) as served, served.openai(max_retries=5) as client:
        first = asking(served, max_tokens=1)
        gate.entered.wait(20)
        second = asking(served, max_tokens=2)
        threading.Timer(0.3, gate.opened.set).start()
        done = client.completions.with_raw_response.create(model="tiny", prompt=PROMPT, max_tokens=3)
        assert done.parse().usage.completion_tokens == 3
        for thread in (first, second):
            thread.join()


def test_the_client_does_not_ask_again_for_what_took_too_long(model, monkeypatch):
    gate = Gate(monkeypatch)
    with serving(model, limits=Limits(seconds=0.2)) as served, served.openai(max_retries=3) as client:
        with pytest.raises(openai.APIStatusError, match="took too long") as caught:
            client.completions.create(model="tiny", prompt=PROMPT)
        assert caught.value.status_code == 408
        assert served.metric("lede_requests_total", status="408") == 1
        gate.opened.set()


def test_an_answer_that_breaks_off_is_an_error_of_the_stream(model, monkeypatch):
    gate = Gate(monkeypatch)
    gate.opened.set()
    with serving(model, limits=Limits(seconds=1)) as served, served.openai() as client:
        stream = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=200, stream=True)
        pieces = iter(stream)
        next(pieces)
        gate.opened.clear()
        with pytest.raises(openai.APIError, match="took too long"):
            list(pieces)
        gate.opened.set()


def test_what_a_request_may_need_is_imported_outside_of_its_time(model):
    with serving(model, limits=Limits(seconds=10)) as served:
        served.worker.imports.join()
        there = threading.Event()  # not yet
        served.worker.imports = threading.Thread(target=there.wait, args=(30,))
        served.worker.imports.start()
        for more in ({}, {"temperature": 1.0, "top_p": 0.9}, {"repetition_penalty": 1.1}):  # need nothing, do not wait
            assert served.post(prompt=PROMPT, max_tokens=1, **more).status_code == 200
        assert served.worker.imports.is_alive()
        waiting = [asking(served, max_tokens=1, **more) for more in ({"min_tokens": 1}, {"presence_penalty": 1})]
        waiting[0].join(0.5)
        assert all(thread.is_alive() for thread in waiting)
        there.set()
        for thread in waiting:
            thread.join()
            assert thread.answer.status_code == 200


def test_waiting_for_imports_is_not_of_the_answer_s_time(model):
    with serving(model, limits=Limits(seconds=2)) as served:
        served.worker.imports.join()
        served.worker.imports = threading.Timer(3, lambda: None)
        served.worker.imports.start()
        assert served.post(prompt=PROMPT, max_tokens=1, presence_penalty=1).status_code == 200


@pytest.mark.parametrize("stop", ["<end>", ["never", "<end>"], "<end><end>"])
def test_a_stop_string_that_is_a_special_token_ends_the_answer_as_in_generate(model, client, stop):
    end = len(byte_tokenizer()) - 1
    stops = [stop] if isinstance(stop, str) else stop
    expected = generate(model, PROMPT, max_new_tokens=9, stop_strings=stops, sequence_bias=[[[end], 200.0]])
    assert (expected.finish, set(expected.token_ids)) == ("stop_string", {end})
    asks = {"model": "tiny", "prompt": PROMPT, "max_tokens": 9, "logit_bias": {str(end): 100}, "stop": stop}
    done = client.completions.create(**asks)
    assert (done.choices[0].text, done.choices[0].finish_reason) == ("", "stop")
    assert done.usage.completion_tokens == len(expected.token_ids)
    assert streamed(client.completions.create(**asks, stream=True)) == ""
    shown = client.completions.create(
        **asks, extra_body={"skip_special_tokens": False, "include_stop_str_in_output": True}
    )
    assert shown.choices[0].text == "<end>" * len(expected.token_ids)


def test_tokens_inside_of_a_character_are_told_apart(client):
    bias = {str(token): 100 for token in byte_tokenizer()("日x", add_special_tokens=False)["input_ids"]}
    penalties = {"frequency_penalty": 2, "presence_penalty": 2}
    asks = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "logprobs": 5, "logit_bias": bias} | penalties
    said = client.completions.create(**asks).choices[0].logprobs
    assert {*said.tokens} == {"x", "bytes:\\xe6", "bytes:\\x97", "bytes:\\xa5"}
    assert [len(ones) for ones in said.top_logprobs] == [5] * 12  # halves of characters are not one and the same
