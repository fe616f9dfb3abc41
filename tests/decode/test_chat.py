"""Conversations: the chat template's text and ids are those of `transformers`, and what it refuses is said plainly."""

import pytest
import torch

from lede.decode.chat import MessageError, chat_text
from lede.decode.errors import ModelError
from lede.decode.generate import encode
from lede.decode.load import from_transformers
from lede.decode.tokenizer import Tokenizer, folder_tokenizer
from tests.models import bpe_tokenizer, byte_llama, byte_tokenizer

TEMPLATES = {
    "llama 3's": (
        "{{- bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] | trim }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "without a beginning": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "all that templates use": (
        "{%- set ns = namespace(turns=0) -%}\n"
        "{% for m in messages %}\n"
        "    {% if not m.content %}{% continue %}{% endif %}\n"
        "    {% set ns.turns = ns.turns + 1 %}\n"
        "    {% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}\n"
        "    {{ m | tojson }} {{ strftime_now('%Y') }}{% endif %}\n"
        "{% endfor %}\n"
        "{{ ns.turns }}{% if tools is not none %}{{ raise_exception('no tools') }}{% endif %}"
    ),
}
CONVERSATION = (
    {"role": "system", "content": "Be <brief> & kind. "},
    {"role": "user", "content": "the stopper"},
    {"role": "assistant", "content": "at the top"},
    {"role": "user", "content": 'ünd "so"\n'},
)


def saved(folder, template):
    """A folder with a tokenizer that begins texts with <s>, and this template."""
    tokenizer = type(bpe_tokenizer())(
        tokenizer_object=bpe_tokenizer().backend_tokenizer, bos_token="<s>", eos_token="<end>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return tokenizer


TOOLS = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}{% if m.name %} {{ m['name'] }}{% endif %}>{{ m.content }}"
    "{% if 'tool_calls' in m %}{% for call in m.tool_calls %}{{ call.function.name }}"
    "({{ call.function.arguments | tojson }}){% endfor %}{% endif %}"
    "{% if m.role == 'tool' %}#{{ m.get('tool_call_id') }}{% endif %}\n{% endfor %}"
    "{% if documents %}{{ documents | tojson }}{% endif %}{% if loud is defined %}!{% endif %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
USED = (
    {"role": "user", "content": "1 + 1?", "name": "Ann"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "2", "tool_call_id": "1"},
)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_conversation_is_what_the_library_makes_of_it(tmp_path, template):
    theirs, model = saved(tmp_path, template), from_transformers(byte_llama(), torch.float32)
    for tokenizer in (folder_tokenizer(tmp_path), theirs):
        text = theirs.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
        assert chat_text("m", tokenizer, CONVERSATION) == text
        model.tokenizer = tokenizer
        ids = encode(model, CONVERSATION)
        assert ids == list(theirs.apply_chat_template(CONVERSATION, add_generation_prompt=True)["input_ids"])
        assert ids.count(theirs.bos_token_id) == ("bos_token" in template)
    assert isinstance(folder_tokenizer(tmp_path), Tokenizer)


def test_what_a_template_refuses_is_said(tmp_path):
    saved(tmp_path, "{{ raise_exception('users come first') }}")
    tokenizer = folder_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="the chat template of m takes no such conversation: users come first"):
        chat_text("m", tokenizer, CONVERSATION)
    with pytest.raises(ModelError, match="an object with role and content, both of them text"):
        chat_text("m", tokenizer, [{"role": "user"}])
    with pytest.raises(ModelError, match="the model m has no chat template"):
        chat_text("m", byte_tokenizer(), CONVERSATION)
    saved(tmp_path, "{{ messages.append(1) }}")
    with pytest.raises(ModelError, match="takes no such conversation"):
        chat_text("m", folder_tokenizer(tmp_path), CONVERSATION)


@pytest.mark.parametrize("messages", [CONVERSATION, CONVERSATION[:3], USED, USED[:1]])
@pytest.mark.parametrize("trimmed", [False, True])
def test_what_else_a_template_reads_is_given_to_it_as_the_library_does(tmp_path, messages, trimmed):
    theirs = saved(tmp_path, TOOLS.replace("{{ m.content }}", "{{ m.content | trim }}") if trimmed else TOOLS)
    tokenizer = folder_tokenizer(tmp_path)
    for options in (
        {},
        {"add_generation_prompt": False},
        {"continue_final_message": True},
        {"variables": {"documents": [{"title": "sums", "text": "1 + 1 = 2"}], "loud": True}},
    ):
        given = {"add_generation_prompt": "continue_final_message" not in options} | options
        given |= given.pop("variables", {})
        text = theirs.apply_chat_template(list(messages), tokenize=False, **given)
        assert chat_text("m", tokenizer, messages, **options) == text
    assert "add(" not in text or "Ann" in text


def test_a_message_that_goes_on_keeps_the_space_at_its_end(tmp_path):
    tokenizer = saved(tmp_path, TOOLS)
    text = chat_text("m", tokenizer, [{"role": "assistant", "content": "so: "}], continue_final_message=True)
    assert text == "<s><assistant>so: "
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(ModelError, match="does not write the last message as it is"):
        chat_text("m", tokenizer, CONVERSATION[:1], continue_final_message=True)
    with pytest.raises(ModelError, match=r"messages\[1\]: it has no content that an answer could go on from"):
        chat_text("m", tokenizer, USED[:2], continue_final_message=True)


@pytest.mark.parametrize(
    ("template", "messages", "options", "place", "said"),
    [
        ("without a beginning", USED, {}, "messages[0].name", "in a message of the role 'user': leave it out"),
        ("without a beginning", USED[1:], {}, "messages[0].tool_calls", "does not read it"),
        ("without a beginning", USED[2:], {}, "messages[0].tool_call_id", "does not read it"),
        ("without a beginning", CONVERSATION, {"variables": {"documents": []}}, "documents", "does not read it"),
        ("without a beginning", CONVERSATION, {"add_generation_prompt": False}, "add_generation_prompt", "not read it"),
        ("llama 3's", CONVERSATION, {"variables": {"messages": []}}, "messages", "does not read it"),
        ("llama 3's", CONVERSATION, {"variables": {"raise_exception": 1}}, "raise_exception", "does not read it"),
        ("users alone", CONVERSATION, {}, "messages[0]", "no message of the role 'system' here"),
        ("users alone", CONVERSATION[1:], {}, "messages[1]", "no message of the role 'assistant' here"),
    ],
)
def test_what_a_template_would_pass_over_is_refused(tmp_path, template, messages, options, place, said):
    users = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    tokenizer = saved(tmp_path, TEMPLATES.get(template, users))
    with pytest.raises(MessageError, match=said) as caught:
        chat_text("m", tokenizer, messages, **options)
    assert caught.value.place == place and str(caught.value).startswith(f"{place}: the chat template of m ")


def test_faults_of_a_template_are_no_crash(tmp_path):
    for fault in (
        "{{ 1 / 0 }}",
        "{{ 'a' + messages }}",
        "{{ messages[9]['role'].x }}",
        "{{ {}['a'].b }}",
        "{{ ''.join(1) }}",
    ):
        with pytest.raises(ModelError, match="takes no such conversation"):
            chat_text("m", saved(tmp_path, fault), CONVERSATION)
