"""Conversations: the chat template's text and ids are those of `transformers`, and what it refuses is said plainly."""

import pytest
import torch

from lede.decode.chat import chat_text
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
        "    {% if m.role == 'system' %}{% continue %}{% endif %}\n"
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
