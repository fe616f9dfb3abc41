"""Contexts: what a model keeps in memory grows with the text, not with the positions that it could have."""

import gc

import pytest
import torch

from lede.decode.load import from_transformers
from lede.decode.loop import Decoding
from lede.decode.model import Model
from lede.decode.rules import LayerSkip
from lede.decode.sampling import Settings
from lede.decode.source import ModelSource
from tests.models import LLAMA3, llama

POSITIONS = 131_072  # Llama 3.1's


def held() -> int:
    """Bytes of all tensors that there are."""
    gc.collect()
    storages = [o.untyped_storage() for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def bytes_of_decoding(positions: int, native: bool, prompt: int = 100) -> tuple[int, int, Model]:
    """What a model holds beside its weights; what it holds more within a text; the model."""
    library = llama(max_position_embeddings=positions, rope_parameters=LLAMA3 | {"factor": 1.0}, vocab_size=1024)
    before = held()
    model = from_transformers(library, torch.float32, native=native)
    loaded = held()
    decoding = Decoding(ModelSource(model, Settings(20)), [i % 61 for i in range(prompt)], LayerSkip(2, 4))
    list(decoding.rounds())
    return loaded - before, held() - loaded, model


@pytest.mark.parametrize("native", [True, False], ids=["native", "eager"])
def test_memory_does_not_depend_on_the_longest_context(native):
    short, long = bytes_of_decoding(256, native)[:2], bytes_of_decoding(POSITIONS, native)[:2]
    assert long == short
    assert long[0] < 3e6  # of which 1.3 MB are the weights
    assert long[1] < 3e6


@pytest.mark.parametrize("native", [True, False], ids=["native", "eager"])
def test_a_longer_text_is_given_room(native):
    for kind in ({}, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}):
        model = from_transformers(llama(max_position_embeddings=3000, **kind), torch.float32, native=native)
        small = Decoding(ModelSource(model, Settings(4)), [1] * 20, LayerSkip(2, 4))
        long = Decoding(ModelSource(model, Settings(8)), [i % 61 for i in range(2400)], LayerSkip(2, 4))
        assert sum(len(round_.committed) for round_ in long.rounds()) == 8
        again = Decoding(ModelSource(model, Settings(4)), [1] * 20, LayerSkip(2, 4))
        assert [r.committed for r in small.rounds()] == [r.committed for r in again.rounds()]
