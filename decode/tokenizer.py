"""A checkpoint's tokenizer, without importing `transformers` where that gives the same ids and text."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from lede.decode.config import chat_template, read_json

GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")  # the library's classes that take tokenizer.json as it is
# settings that change what they take
CHANGES = {"auto_map", "add_bos_token", "add_eos_token", "split_special_tokens"}
CHANGES |= {"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"}


class Tokenizer:
    """Encodes and decodes with tokenizer.json alone; all else is done by the library's, loaded when needed."""

    def __init__(self, folder: Path, backend: Backend, settings: dict[str, Any]):
        backend.no_truncation()
        backend.no_padding()
        bos = content(settings.get("bos_token"))
        self._folder, self._settings, self.backend_tokenizer = folder, settings, backend
        self.bos_token_id = None if bos is None else backend.token_to_id(bos)

    def __call__(self, text: Any, **options: Any) -> Any:
        """{"input_ids": token ids of a text}; for other requests what the library makes of them."""
        if options.keys() - {"add_special_tokens"} or not isinstance(text, str):
            return self.library(text, **options)
        return {"input_ids": self.backend_tokenizer.encode(text, **options).ids}

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        return self.backend_tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, token: int) -> str | None:
        """The vocabulary's entry of a token id."""
        return self.backend_tokenizer.id_to_token(token)

    def get_vocab(self) -> dict[str, int]:
        """Token ids by token, added tokens included."""
        return self.backend_tokenizer.get_vocab()

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens' texts by their names, such as bos_token."""
        named = {name: content(token) for name, token in self._settings.items() if name.endswith("_token")}
        return {name: token for name, token in named.items() if isinstance(token, str)}

    @functools.cached_property
    def chat_template(self) -> Any:
        """See `decode.config.chat_template`."""
        return chat_template(self._folder)

    @functools.cached_property
    def library(self) -> Any:
        """The library's tokenizer of the same folder."""
        return library_tokenizer(str(self._folder))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, name)


def folder_tokenizer(folder: Path) -> Any:
    """The tokenizer in a checkpoint's folder: a `Tokenizer`, else the library's own; None where there is none."""
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if file.exists() and settings.exists() and not (folder / "added_tokens.json").exists():
        given = read_json(settings)
        if given.get("tokenizer_class") in GENERIC and not CHANGES & given.keys():
            special = folder / "special_tokens_map.json"
            backend = Backend.from_file(str(file))
            if adds_nothing(backend, given | (read_json(special) if special.exists() else {})):
                return Tokenizer(folder, backend, given)
    return library_tokenizer(str(folder)) if file.exists() or (folder / "tokenizer.model").exists() else None


def library_tokenizer(name: str, revision: str | None = None) -> Any:
    """`transformers`' tokenizer of a folder or a name on the hub."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, revision=revision)


def adds_nothing(backend: Backend, settings: dict[str, Any]) -> bool:
    """Whether the backend has all tokens that the settings name, with the properties that they give them."""
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    tokens = [value for name, value in settings.items() if name.endswith("_token") and not isinstance(value, bool)]
    for name in ("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"):
        more = settings.get(name) or ()
        tokens += more.values() if isinstance(more, dict) else more
    for token in tokens:
        own, properties = added.get(str(content(token))), token if isinstance(token, dict) else {}
        if token is None:
            continue
        if own is None or any(getattr(own, name, value) != value for name, value in properties.items()):
            return False
    return type(backend.model).__name__ == "BPE"


def content(token: Any) -> Any:
    """A special token's text, however a tokenizer's settings write it."""
    return token.get("content") if isinstance(token, dict) else token
