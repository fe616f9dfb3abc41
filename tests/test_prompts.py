"""Prompts as people hold them."""

import numpy as np
import pytest
import torch

from lede.decode.errors import ModelError
from lede.decode.generate import encode, generate
from lede.decode.load import from_transformers
from lede.decode.sampling import Settings
from lede.serve.generate import generate as serve
from tests.models import bpe_tokenizer, llama, sentencepiece_tokenizer

TEXT = "the stopper"
TOKENIZER = bpe_tokenizer()
MODEL = from_transformers(llama(vocab_size=len(TOKENIZER)), torch.float32, tokenizer=TOKENIZER)
IDS = list(TOKENIZER(TEXT)["input_ids"])
FORMS = {
    "text": TEXT,
    "list": IDS,
    "tuple": tuple(IDS),
    "one row": [IDS],
    "list of numpy numbers": list(np.array(IDS)),
    "list of tensors": list(torch.tensor(IDS)),
    "list of a tensor": [torch.tensor(IDS)],
    "1-D tensor": torch.tensor(IDS),
    "2-D tensor": torch.tensor([IDS]),
    "int32 tensor": torch.tensor(IDS, dtype=torch.int32),
    "1-D array": np.array(IDS),
    "2-D array": np.array([IDS]),
    "input_ids": TOKENIZER(TEXT, return_tensors="pt").input_ids,
    "BatchEncoding of tensors": TOKENIZER(TEXT, return_tensors="pt"),
    "BatchEncoding of arrays": TOKENIZER(TEXT, return_tensors="np"),
    "BatchEncoding of lists": TOKENIZER(TEXT),
    "BatchEncoding of one text in a list": TOKENIZER([TEXT]),
    "dict": {"input_ids": IDS},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_prompt_gives_the_same_text(form):
    expected = generate(MODEL, IDS, None, Settings(8))
    for done in (generate(MODEL, FORMS[form], None, Settings(8)), serve(MODEL, FORMS[form], max_new_tokens=8)):
        assert done.prompt_ids == expected.prompt_ids == tuple(IDS)
        assert done.token_ids == expected.token_ids
        assert all(type(token) is int for token in done.prompt_ids)


REFUSED = {
    "two rows": (torch.tensor([IDS, IDS]), "the prompt has 2 rows"),
    "two texts": (TOKENIZER([TEXT, TEXT], return_tensors="pt"), "the prompt has 2 rows"),
    "texts in a list": ([TEXT, TEXT], "not whole numbers"),
    "padding": (
        {"input_ids": [[0, *IDS]], "attention_mask": torch.tensor([[0] + [1] * len(IDS)])},
        "attention_mask hides",
    ),
    "fractions": (torch.tensor([1.5, 2.0]), "not whole numbers"),
    "nothing": (None, "not of the type NoneType"),
    "a number": (torch.tensor(3), "not of the type Tensor"),
    "bytes": (b"abc", "not of the type bytes"),
    "a dict of something else": ({"text": TEXT}, "not of the type NoneType"),
    "an empty list": ([], "the prompt is empty"),
    "an empty row": ([[]], "the prompt is empty"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_prompt_is_refused_in_one_line(form):
    prompt, message = REFUSED[form]
    with pytest.raises(ModelError, match=message) as caught:
        serve(MODEL, prompt)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tokenizer", [bpe_tokenizer(), sentencepiece_tokenizer()], ids=["bpe", "sentencepiece"])
def test_text_that_begins_with_the_begin_token_gets_no_second_one(tokenizer):
    model = from_transformers(llama(vocab_size=len(tokenizer)), torch.float32, tokenizer=tokenizer)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    messages = [{"role": "user", "content": "the stop"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text.startswith("<s>")
    ids = encode(model, text)
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert encode(model, "the stop")[0] == tokenizer.bos_token_id
    assert encode(model, tokenizer.apply_chat_template(messages, return_tensors="pt")) == ids
