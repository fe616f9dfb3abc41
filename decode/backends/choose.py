"""Choosing tokens on a CPU in one call into compiled code (choose.c): what people sample with, without a dispatch."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_uint64, c_void_p
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lede.decode.backends.compile import library
from lede.decode.choice import Choice, Chooser, not_numbers
from lede.decode.state import rounded

ROOM = 10  # floats of scratch for each token, see choose.c


class _Settings(Structure):
    _fields_ = [("top_k", c_int32), ("suppressed", c_int32)]
    _fields_ += [(name, c_double) for name in ("temperature", "top_p", "min_p", "penalty")]
    _fields_ += [("seed", c_uint64), ("suppress", c_void_p)]


class _Tokens(Structure):
    _fields_ = [("ids", c_void_p), ("places", c_void_p), ("n", c_int32)]


class Compiled(Chooser):
    """A `Chooser` for fp32 logits on a CPU. Parameters as in `transformers`; temperature 0: the most likely token.

    ids: of the draft vocabulary, None where it is all of it. Raises OSError without a compiler.
    """

    def __init__(
        self,
        vocabulary: int,
        ids: Sequence[int] | None,
        *,
        temperature: float,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        penalty: float = 1.0,
        suppressed: Sequence[int] = (),
        seed: int | None = None,
    ):
        loaded = library("choose")
        if loaded is None:
            raise OSError("no C compiler")
        self._call, self._noise = _prototypes(loaded)
        self.temperature, self.seed, self._penalised = temperature, seed, penalty != 1.0
        self._key = (seed or 0) % 2**64
        barred = np.array([token for token in suppressed if 0 <= token < vocabulary], np.int32)
        sizes = temperature, top_p, min_p, penalty, self._key, barred.ctypes.data
        settings = _Settings(top_k, len(barred), *sizes)
        every = draft = _Tokens(None, None, vocabulary)
        self._kept: list[Any] = [barred]  # what the structures point into
        if ids is not None:
            by_place, by_id = np.array(ids, np.int32), np.full(vocabulary, -1, np.int32)
            by_id[by_place] = np.arange(len(by_place))
            self._kept += [by_place, by_id]
            draft = _Tokens(by_place.ctypes.data, by_id.ctypes.data, len(by_place))
        self._every, self._draft, self._settings = (ctypes.byref(x) for x in (every, draft, settings))
        self._scratch = torch.empty(ROOM * vocabulary)
        self._first = 0 if ids is None else ids[0]
        self._text, self._known = np.empty(0, np.int32), 0  # the text, of which so many tokens are there

    def drafts(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> list[Choice]:
        rows = len(logits)
        out = self._choose(self._draft, logits, prefix, drafts, len(prefix) + len(drafts) + 1 - rows)
        return [
            Choice.of(*out[4 * i : 4 * i + 4]) if out[4 * i] >= 0 else Choice(self._first)  # any: it is not right
            for i in range(rows)
        ]

    def targets(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> list[int]:
        out = self._choose(self._every, logits, prefix, drafts, len(prefix))
        tokens = [int(token) for token in out[::4]]
        if min(tokens) < 0:
            raise not_numbers(min(tokens, key=lambda token: token if token < 0 else 1))
        return tokens

    def noise(self, position: int, token: int) -> float:
        return rounded(self._noise(self._key, position, token)) if self.temperature else 0.0

    def _choose(self, tokens: Any, logits: Tensor, prefix: list[int], drafts: list[int], length: int) -> Any:
        """(rows × 4) doubles, of rows the first of which is behind `length` tokens."""
        rows, out = len(logits), (c_double * (4 * len(logits)))()
        text = self._texts(prefix, drafts) if self._penalised else None
        given = self._settings, text, length, self._scratch.data_ptr()
        self._call(logits.data_ptr(), rows, logits.stride(0), tokens, *given, out)
        return out

    def _texts(self, prefix: list[int], drafts: list[int]) -> int:
        """The address of the text with the drafts behind it; only what is new of it is written."""
        length = len(prefix) + len(drafts)
        if length > len(self._text):
            self._text, self._known = np.empty(2 * length, np.int32), 0
        self._text[self._known : length] = prefix[self._known :] + drafts
        self._known = len(prefix)
        return self._text.ctypes.data


def _prototypes(loaded: ctypes.CDLL) -> tuple[Any, Any]:
    """Declare the arguments of the functions in choose.c."""
    call, noise = loaded.lede_choose, loaded.lede_noise
    call.restype, noise.restype = None, c_double
    call.argtypes = (
        *(c_void_p, c_int32, c_int32, POINTER(_Tokens), POINTER(_Settings)),
        *(c_void_p, c_int32, c_void_p, c_void_p),
    )
    noise.argtypes = (c_uint64, c_int64, c_int32)
    return call, noise
