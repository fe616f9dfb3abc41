"""Every field of a request: done, refused by its name or passed over, as the table says."""

import json
from pathlib import Path

import httpx
import pytest
import torch
from openai.types import completion_create_params as of_completions
from openai.types.chat import completion_create_params as of_chats
from transformers import LogitsProcessorList

from lede.decode.chat import chat_text
from lede.decode.load import from_transformers
from lede.decode.prefix import Prefixes
from lede.serve.asked import Chat, Completion
from lede.serve.fields import CHAT, DONE, FIELDS, PASSED, REFUSED, TEXT, table
from lede.serve.generate import generate
from tests.models import END, byte_llama, byte_tokenizer
from tests.serve.serving import serving
from tests.serve.test_generate import random_policy

PROMPT = "def mean(values):"
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}]{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{{ m.tool_call_id }}\n{% endfor %}"
    "{% if documents %}{{ documents | tojson }}{% endif %}{{ reasoning_effort }}{{ mood }}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PATHS = {CHAT: "/v1/chat/completions", TEXT: "/v1/completions"}
HI = [{"role": "user", "content": "hi"}]
BASE = {CHAT: {"messages": HI, "max_tokens": 12}, TEXT: {"prompt": PROMPT, "max_tokens": 12}}
ODD = ["x", 7, True, ["x"], {"type": "x"}]
A, B = (str(byte_tokenizer().convert_tokens_to_ids(letter)) for letter in "ab")
LAST = len(byte_tokenizer()) - 1  # END's id
PLAIN = {"lede": {"policy": None}}
HOT = {"temperature": 1.5, "seed": 7}


def made(**changes):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return from_transformers(byte_llama(**changes), torch.float32, tokenizer=tokenizer, name="tiny")


@pytest.fixture(scope="module")
def model():
    return made(eos_token_id=None)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies") / "one"
    random_policy(model, 0).save(folder)
    with serving(model, {"one": folder}) as served, httpx.Client(base_url=served.url, timeout=30) as client:
        served.post = lambda path="/v1/completions", **body: client.post(path, json=body)  # by one connection
        yield served


def said(answer) -> dict:
    """The one choice of an answer, and its text as `text`."""
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return choice | {"text": choice["message"]["content"] if "message" in choice else choice["text"]}


@pytest.fixture(scope="module")
def without(server):
    """What is said where a field is not given, by the kind of request."""
    return {kind: said(server.post(PATHS[kind], **BASE[kind])) for kind in PATHS}


def kinds(name):
    return [kind for kind in (CHAT, TEXT) if FIELDS[name].of in (kind, "both")]


# What shows that a field is done: what is asked, and what `lede.generate` must then be asked for the same text; or else
# what must hold of the choice, the whole answer and the choice without the field.
GIVEN: dict = {
    "max_tokens": ({"max_tokens": 5}, {"max_new_tokens": 5}),
    "temperature": (PLAIN | HOT, HOT),
    "seed": (PLAIN | HOT | {"seed": 8}, HOT | {"seed": 8}),
    "top_p": (PLAIN | HOT | {"top_p": 0.3}, HOT | {"top_p": 0.3}),
    "top_k": (PLAIN | HOT | {"top_k": -1}, HOT | {"top_k": 0}),
    "min_p": (PLAIN | HOT | {"min_p": 0.2}, HOT | {"min_p": 0.2}),
    "repetition_penalty": ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
}
HOLDS: dict = {
    "max_completion_tokens": ({"max_tokens": None, "max_completion_tokens": 3}, lambda c, a, _: tokens(a) == 3),
    "frequency_penalty": ({"frequency_penalty": 2}, lambda c, a, base: c["text"] != base["text"]),
    "presence_penalty": ({"presence_penalty": 2}, lambda c, a, base: c["text"] != base["text"]),
    "logit_bias": ({"logit_bias": {A: 100, B: -100}}, lambda c, a, _: c["text"] == "a" * 12),
    "allowed_token_ids": ({"allowed_token_ids": [int(A), int(B)]}, lambda c, a, _: set(c["text"]) <= {"a", "b"}),
    "stop": ({"logit_bias": {A: 100}, "stop": "aaa"}, lambda c, a, _: (c["text"], tokens(a)) == ("", 3)),
    "include_stop_str_in_output": (
        {"logit_bias": {A: 100}, "stop": ["aaa"], "include_stop_str_in_output": True},
        lambda c, a, _: (c["text"], c["finish_reason"]) == ("aaa", "stop"),
    ),
    "stop_token_ids": (
        {"logit_bias": {A: 100}, "stop_token_ids": [int(A)]},
        lambda c, a, _: (c["text"], c["finish_reason"]) == ("a", "stop"),
    ),
    "ignore_eos": ({"ignore_eos": True}, lambda c, a, base: c == base),  # more in a test of its own
    "min_tokens": (
        {"logit_bias": {A: 50}, "stop_token_ids": [int(A)], "min_tokens": 4},
        lambda c, a, _: (tokens(a), c["text"][-1]) == (5, "a"),
    ),
    "skip_special_tokens": (
        {"logit_bias": {str(LAST): 100}, "skip_special_tokens": False},
        lambda c, a, _: c["text"] == END * 12,
    ),
    "add_special_tokens": ({"add_special_tokens": False}, lambda c, a, base: c == base),  # more in a test of its own
    "model": ({"model": "tiny"}, lambda c, a, base: c == base and a["model"] == "tiny"),
    "messages": ({"messages": [*HI, *HI]}, lambda c, a, _: a["usage"]["prompt_tokens"] == len("[user]hi\n" * 2) + 11),
    "prompt": ({"prompt": "abc"}, lambda c, a, _: a["usage"]["prompt_tokens"] == 3),
    "add_generation_prompt": ({"add_generation_prompt": False}, lambda c, a, _: a["usage"]["prompt_tokens"] == 9),
    "continue_final_message": ({"continue_final_message": True}, lambda c, a, _: a["usage"]["prompt_tokens"] == 8),
    "chat_template_kwargs": (
        {"chat_template_kwargs": {"mood": "!"}},
        lambda c, a, _: a["usage"]["prompt_tokens"] == 21,
    ),
    "documents": ({"documents": [{"a": "b"}]}, lambda c, a, _: a["usage"]["prompt_tokens"] == 20 + len('[{"a": "b"}]')),
    "reasoning_effort": ({"reasoning_effort": "low"}, lambda c, a, _: a["usage"]["prompt_tokens"] == 23),
    "logprobs": ({"logprobs": 1}, lambda c, a, _: len(c["logprobs"].get("content", c["logprobs"].get("tokens"))) == 12),
    "top_logprobs": (
        {"logprobs": True, "top_logprobs": 2},
        lambda c, a, _: all(len(one["top_logprobs"]) == 2 for one in c["logprobs"]["content"]),
    ),
    "stream": ({"stream": False}, lambda c, a, base: c == base),  # more in the tests of the server
    "stream_options": ({"stream_options": {"include_usage": True}}, lambda c, a, base: c == base),
    "request_id": ({"request_id": "mine"}, lambda c, a, _: a["id"].endswith("cmpl-mine")),
    "lede": (PLAIN, lambda c, a, base: c == base and a["usage"]["drafted_tokens"] == 0),
}


VLLM = """
allowed_token_ids bad_words cache_salt ec_transfer_params echo ignore_eos include_stop_str_in_output kv_transfer_params
length_penalty logprob_token_ids min_p min_tokens priority prompt_logprobs repetition_detection repetition_penalty
request_id return_mm_kwargs return_token_ids return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start
session_id skip_special_tokens spaces_between_special_tokens stop_token_ids stream_interval structured_outputs top_k
thinking_token_budget truncate_prompt_tokens truncation_side use_beam_search vllm_xargs watermarking add_special_tokens
response_format guided_json guided_regex guided_choice guided_grammar guided_decoding_backend early_stopping
guided_whitespace_pattern logits_processors structural_tag
"""
VLLM_CHAT = """
add_generation_prompt chat_template chat_template_kwargs continue_final_message documents include_reasoning
media_io_kwargs mm_processor_kwargs reasoning_effort return_prompt_text
"""


def tokens(answer) -> int:
    return answer["usage"]["completion_tokens"]


def test_the_table_has_every_field_once():
    assert table() in Path(__file__).parents[2].joinpath("docs/serving.md").read_text()
    done = {kind: {name for name in FIELDS if FIELDS[name].what == DONE and kind in kinds(name)} for kind in PATHS}
    assert {CHAT: {*Chat.model_fields}, TEXT: {*Completion.model_fields}} == done
    assert {*GIVEN, *HOLDS} == done[CHAT] | done[TEXT]


def test_the_table_has_what_openai_s_client_and_vllm_s_server_have():
    chats = of_chats.CompletionCreateParamsBase.__annotations__.keys()
    texts = of_completions.CompletionCreateParamsBase.__annotations__.keys()
    assert len(chats) > 30
    assert chats | {"stream"} <= {name for name in FIELDS if CHAT in kinds(name)}
    assert texts | {"stream"} <= {name for name in FIELDS if TEXT in kinds(name)}
    assert {*VLLM.split(), *VLLM_CHAT.split()} <= {name for name in FIELDS if CHAT in kinds(name)}
    assert {*VLLM.split(), "prompt_embeds"} <= {name for name in FIELDS if TEXT in kinds(name)}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in FIELDS for kind in kinds(name)])
def test_every_field_is_what_the_table_says(model, server, without, name, kind):
    field, path, base, before = FIELDS[name], PATHS[kind], BASE[kind], without[kind]
    if field.what == REFUSED:
        for value in (one for one in ODD if (type(one), one) not in [(type(off), off) for off in field.off]):
            answer = server.post(path, **base, **{name: value})
            assert answer.status_code == 400, value
            assert answer.json()["error"]["message"] == f"{name} is not supported here: leave it out"
            assert answer.json()["error"]["param"] == name
    if field.what != DONE:
        for value in (None, *(ODD[-2:] if field.what == PASSED else field.off)):
            assert said(server.post(path, **base, **{name: value})) == before
    elif name in GIVEN:
        body, options = GIVEN[name]
        prompt = HI if kind == CHAT else PROMPT
        expected = generate(model, prompt, **{"max_new_tokens": 12} | options).text
        assert said(server.post(path, **base | body))["text"] == expected != before["text"]
    else:
        body, holds = HOLDS[name]
        body = body | ({"logprobs": True} if kind == CHAT and "logprobs" in body else {})
        answer = server.post(path, **base | body)
        assert holds(said(answer), answer.json(), before), answer.json()
    if field.what == DONE and name not in ("messages", "prompt", "max_tokens"):
        assert said(server.post(path, **base | {name: None})) == before


@pytest.mark.parametrize("kind", PATHS)
def test_what_is_no_field_is_refused(server, kind):
    for name in ("min_pp", "model_", *(name for name in FIELDS if kind not in kinds(name))):
        answer = server.post(PATHS[kind], **BASE[kind], **{name: "x"})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == (name, "unknown_parameter")
        assert error["message"] == f"{name} is no field of this request that is known here: leave it out"


class Penalty:
    """OpenAI's penalties and biases, said token by token."""

    def __init__(self, start, frequency=0.0, presence=0.0, bias=()):
        self.start, self.frequency, self.presence, self.bias = start, frequency, presence, dict(bias)

    def __call__(self, ids, scores):
        scores, written = scores.clone(), ids[0, self.start :].tolist()
        for token in set(written):
            scores[0, token] -= self.frequency * written.count(token) + self.presence
        for token, value in self.bias.items():
            scores[0, token] += value
        return scores


@pytest.mark.parametrize(
    "asks",
    [
        {"frequency": 1.5},
        {"presence": -1.5},
        {"frequency": -0.7, "presence": 1.2, "bias": {int(A): 3.5, 10: -100.0}},
    ],
)
def test_penalties_and_biases_are_those_of_the_full_model_s_greedy_text(model, server, asks):
    most, prompt = 60, model.tokenizer(PROMPT)["input_ids"]
    processor = Penalty(len(prompt), **asks)
    library = byte_llama(eos_token_id=None)
    given = {"do_sample": False, "max_new_tokens": most, "logits_processor": LogitsProcessorList([processor])}
    expected = library.generate(torch.tensor([prompt]), pad_token_id=0, **given)[0, len(prompt) :].tolist()
    body = {"frequency_penalty": asks.get("frequency"), "presence_penalty": asks.get("presence")}
    body["logit_bias"] = {str(token): value for token, value in asks.get("bias", {}).items()}
    for policy in ("one", None):
        answer = server.post(prompt=PROMPT, max_tokens=most, **body, lede={"policy": policy})
        assert said(answer)["text"] == model.tokenizer.decode(expected, skip_special_tokens=True)
        assert (answer.json()["usage"]["drafted_tokens"] > 0) == (policy == "one")


def test_the_model_s_own_end_is_ignored_where_that_is_asked():
    text = generate(made(eos_token_id=None), PROMPT, max_new_tokens=30).token_ids
    end = text[9]
    with serving(made(eos_token_id=end)) as served:
        first = text.index(end) + 1
        for more, count in (
            ({}, first),
            ({"ignore_eos": True}, 30),
            ({"ignore_eos": True, "stop_token_ids": [text[20]]}, text.index(text[20]) + 1),
            ({"stop_token_ids": [text[2]]}, min(first, text.index(text[2]) + 1)),
        ):
            answer = served.post(prompt=PROMPT, max_tokens=30, **more)
            assert tokens(answer.json()) == count, more
            assert said(answer)["finish_reason"] == ("length" if count == 30 else "stop")


def test_special_tokens_of_the_prompt_are_as_asked(tmp_path):
    from tests.models import bpe_tokenizer

    tokenizer = type(bpe_tokenizer())(tokenizer_object=bpe_tokenizer().backend_tokenizer, bos_token="<s>")
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    model = from_transformers(byte_llama(vocab_size=len(tokenizer)), torch.float32, tokenizer=tokenizer, name="tiny")
    with serving(model) as served:
        for kind, given, count in (
            (TEXT, {"prompt": "zz"}, 3),
            (TEXT, {"prompt": "zz", "add_special_tokens": True}, 3),
            (TEXT, {"prompt": "zz", "add_special_tokens": False}, 2),
            (CHAT, {"messages": [{"role": "user", "content": "zz"}]}, 3),
            (CHAT, {"messages": [{"role": "user", "content": "zz"}], "add_special_tokens": True}, 4),
        ):
            answer = served.post(PATHS[kind], max_tokens=1, **given)
            assert answer.json()["usage"]["prompt_tokens"] == count, (given, answer.text)


CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def test_all_of_a_message_goes_to_the_template(model, server):
    asked = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}]},
        {"role": "user", "content": "1 + 1?", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "annotations": []},
        {"role": "tool", "content": "2", "tool_call_id": "c"},
        {"role": "assistant", "content": "It is"},
    ]
    read = CALL | {"function": CALL["function"] | {"arguments": {"a": 1}}}
    given = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": "1 + 1?", "name": "Ann"},
        {"role": "assistant", "tool_calls": [read]},
        {"role": "tool", "content": "2", "tool_call_id": "c"},
        {"role": "assistant", "content": "It is"},
    ]
    text = chat_text("tiny", model.tokenizer, given, continue_final_message=True)
    assert text.endswith('[assistant]{"a": 1}[tool]2c\n[assistant]It is') or '"arguments": {"a": 1}' in text
    assert text.endswith("[tool]2c\n[assistant]It is") and "[user Ann]" in text
    answer = server.post(PATHS[CHAT], messages=asked, max_tokens=20, continue_final_message=True)
    assert answer.json()["usage"]["prompt_tokens"] == len(text.encode())
    assert said(answer)["text"] == generate(model, text, max_new_tokens=20).text


WRONG = [
    ({"messages": [{"role": "user"}]}, "messages[0]: it has no content"),
    ({"messages": [*HI, {"content": "x"}]}, "messages[1].role: Field required"),
    ({"messages": [*HI, {"role": "user", "content": 3}]}, "messages[1].content: Input should be a text or a list of"),
    ({"messages": [*HI, 3]}, "messages[1]: Input should be"),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}
            ]
        },
        "messages[0].content[1].type: 'image_url' is not supported here, text alone is",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text: Field required"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]: Input should be"),
    (
        {"messages": [{"role": "user", "content": "x", "audio": {"id": "1"}}]},
        "messages[0].audio: the chat template of tiny does not read it in a message of the role 'user': leave it out",
    ),
    (
        {"messages": [*HI, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "messages[1].tool_calls[0].function.arguments: this is no JSON",
    ),
    ({"chat_template_kwargs": {"loud": 1}}, "chat_template_kwargs.loud: the chat template of tiny does not read it"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages: the request has a field of this name"),
    ({"chat_template_kwargs": {"name": "x"}}, "chat_template_kwargs.name: the chat template of tiny does not read it"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "exclude each other"),
    ({"top_logprobs": 2}, "top_logprobs goes with logprobs"),
    ({"max_completion_tokens": 3}, "max_tokens and max_completion_tokens differ"),
    ({"min_tokens": 13}, "min_tokens is above the 12 tokens of max_tokens"),
    ({"stop": 3}, "stop: Input should be a text or a list of texts"),
    ({"stop": ["a", ""]}, "stop[1]: String should have at least 1 character"),
    ({"stop": ["\ud800"]}, "stop[0]: Input should be a valid string"),
    ({"logit_bias": {"a": 1}}, "logit_bias: 'a' is no token id"),
    ({"logit_bias": {"9999": 1}}, "logit_bias: 9999 is no token id of 0…256"),
    ({"logit_bias": {"9": 101}}, "logit_bias.9: Input should be less than or equal to 100"),
    ({"allowed_token_ids": []}, "allowed_token_ids: List should have at least 1 item"),
    ({"allowed_token_ids": [-1]}, "allowed_token_ids: -1 is no token id"),
    ({"stop_token_ids": [257]}, "stop_token_ids: 257 is no token id of 0…256"),
    ({"repetition_penalty": 0}, "repetition_penalty: Input should be greater than 0"),
    ({"stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats: Extra inputs"),
    ({"lede": {"speed": 1}}, "lede.speed: Extra inputs"),
]


@pytest.mark.parametrize(("body", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_is_wrong_is_said_with_its_place(server, body, message):
    content = json.dumps(BASE[CHAT] | body)
    answer = httpx.post(server.url + PATHS[CHAT], content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"] and "\n" not in error["message"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (3, "prompt: Input should be a text or a list of token ids"),
        (["a", 3], "prompt[1]: Input should be a valid string"),
        ([3, "a"], "prompt[1]: Input should be a valid integer"),
        ([[3, "a"]], "prompt[0][1]: Input should be a valid integer"),
        (["a", "b"], "prompt has 2 texts, and one is written at a time: give one"),
        ([], "the prompt is empty"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_said_with_its_place(server, prompt, message):
    answer = server.post(prompt=prompt)
    assert (answer.status_code, answer.json()["error"]["message"][: len(message)]) == (400, message)


def test_requests_that_change_logits_meet_kept_prefixes(model, server, monkeypatch):
    monkeypatch.setattr(model, "prefixes", Prefixes())
    asks = {"prompt": PROMPT, "max_tokens": 20, "frequency_penalty": 1, "logit_bias": {A: 2}}
    first, again = server.post(**asks).json(), server.post(**asks).json()
    assert (
        again["usage"]["prompt_tokens_details"]["cached_tokens"]
        > 0
        == first["usage"]["prompt_tokens_details"]["cached_tokens"]
    )
    assert first["choices"] == again["choices"]
