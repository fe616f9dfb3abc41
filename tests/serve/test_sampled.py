"""A seed's sampled text is one text, whoever asks for it: Python, the server, chat, `transformers`."""

import pytest
import torch

from lede.decode.generate import generate
from lede.decode.load import from_transformers
from lede.decode.sampling import Settings
from lede.serve.chat import Chat
from lede.serve.custom_generate import export
from tests.models import byte_llama, byte_tokenizer
from tests.serve.serving import serving
from tests.serve.test_generate import random_policy

PROMPT = "def mean(values):"
LIBRARY = byte_llama(eos_token_id=None)


@pytest.fixture(scope="module")
def model():
    return from_transformers(LIBRARY, torch.float32, tokenizer=byte_tokenizer(), name="tiny")


def text(model, seed, prompt=PROMPT, temperature=0.9, tokens=32):
    return generate(model, prompt, None, Settings(tokens, temperature, 50, 0.95, seed))


def test_served(model, tmp_path):
    random_policy(model).save(tmp_path / "policy")
    asked = {"prompt": PROMPT, "max_tokens": 32, "temperature": 0.9, "top_k": 50, "top_p": 0.95}
    with serving(model, {"lede": tmp_path / "policy"}) as served:
        for seed in (1, 2, -1):
            for policy in ("lede", None):
                answer = served.post(**asked, seed=seed, lede={"policy": policy})
                assert answer.json()["choices"][0]["text"] == text(model, seed).text
        unseeded = [served.post(**asked).json()["choices"][0]["text"] for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_in_a_chat(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
    chat = Chat(model, random_policy(model), max_new_tokens=32, temperature=0.9, top_p=0.95, seed=7)
    pieces: list[str] = []
    chat.answer(PROMPT, lambda piece: pieces.append(str(piece)))
    assert "".join(pieces) == text(model, 7, [{"role": "user", "content": PROMPT}]).text


def test_behind_transformers_generate(model, tmp_path):
    export(tmp_path / "exported", random_policy(from_transformers(LIBRARY, torch.float32)), "tiny")
    custom = {"custom_generate": str(tmp_path / "exported"), "trust_remote_code": True}
    inputs = byte_tokenizer()(PROMPT, return_tensors="pt")
    found = []
    for more in ({}, {"policy": None}):
        torch.manual_seed(11)
        options = {"do_sample": True, "temperature": 0.9, "top_k": 50, "top_p": 0.95, "max_new_tokens": 32}
        found.append(LIBRARY.generate(**inputs, **options, pad_token_id=0, **custom, **more)[0].tolist())
    torch.manual_seed(11)
    assert found[0] == found[1] == [*inputs["input_ids"][0].tolist(), *text(model, None).token_ids]
