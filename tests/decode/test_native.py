"""The compiled backend: a row has the same bits however the code was compiled and the work was split."""

import platform
import shutil

import pytest
import torch

import lede.decode.backends.native
from lede.decode.backends.compile import FLAGS, FOLDER, load
from lede.decode.device import cpu_features
from lede.decode.load import from_transformers
from lede.decode.model import Model
from tests.models import llama, variant

PROMPT = [(7 * i + i * i) % 48 for i in range(150)]
X86 = platform.machine() == "x86_64"


def outputs(model: Model, block: int, threads: int = 1) -> torch.Tensor:
    """What layers and head make of PROMPT, so many rows at a time."""
    model.backend.use_threads(threads)
    cache, out = model.cache(len(PROMPT)), []
    cache.store.fill_(1e30)  # what lies behind the text must not matter
    for start in range(0, len(PROMPT), block):
        x = model.run(0, 1, model.embed(PROMPT[start : start + block]), start, cache)
        out.append(model.head(model.run(1, model.layer_count, x, start, cache)))
    return torch.cat(out)


def compiled(monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], dtype: torch.dtype) -> Model:
    """A model whose backend was compiled with `flags`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    loaded = load(FOLDER / "native.c", compiler, flags)
    assert loaded is not None, f"native.c does not compile with {flags}"
    monkeypatch.setattr(lede.decode.backends.native, "library", lambda: loaded)
    return from_transformers(variant("one-key-head, tied"), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_every_tile_and_chunk_have_the_same_bits(dtype):
    model = from_transformers(variant("one-key-head, tied"), dtype)
    alone = outputs(model, 1)
    for block in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 27, 40, 97, 150):
        assert torch.equal(alone, outputs(model, block, 1 + (block > 9) + (block > 90))), block


@pytest.mark.skipif(not X86 or "avx512_bf16" not in cpu_features(), reason="needs AVX512-BF16")
def test_multiplying_pairs_gives_the_bits_of_multiplying_widened_numbers(monkeypatch):
    widened, pairs = (
        outputs(compiled(monkeypatch, (*FLAGS, "-fopenmp", "-DTILES=0", f"-DPAIRS={n}"), torch.bfloat16), 9)
        for n in (0, 1)
    )
    assert torch.equal(widened, pairs)


@pytest.mark.skipif(not X86 or "amx_bf16" not in cpu_features(), reason="needs AMX")
def test_the_matrix_unit_computes_the_same_numbers_and_keeps_rows_apart(monkeypatch):
    vectors, tiles = (compiled(monkeypatch, (*FLAGS, "-fopenmp", f"-DTILES={n}"), torch.bfloat16) for n in (0, 1))
    alone = outputs(tiles, 1)
    torch.testing.assert_close(alone, outputs(vectors, 1), rtol=0, atol=0.3)
    assert not torch.equal(alone, outputs(vectors, 1))  # it sums in another order
    for block in (2, 15, 16, 17, 31, 32, 33, 64, 65, 150):
        assert torch.equal(alone, outputs(tiles, block, 1 + (block > 16))), block


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_vectors_and_no_openmp_compute_the_same_numbers_and_keep_rows_apart(monkeypatch, dtype):
    expected = outputs(from_transformers(variant("one-key-head, tied"), dtype), 13)
    narrow = compiled(monkeypatch, (*FLAGS, *(("-mno-avx512f", "-mno-avx512bf16") if X86 else ())), dtype)
    alone = outputs(narrow, 1)
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.3)
    assert alone.std() > 1
    for block in (2, 3, 4, 5, 6, 7, 13, 150):
        assert torch.equal(alone, outputs(narrow, block)), block


@pytest.mark.parametrize("native", [True, False])
def test_what_was_read_serves_as_what_was_run(native):
    model = from_transformers(llama(), torch.float32, native=native)
    run, read = model.cache(len(PROMPT)), model.cache(len(PROMPT))
    x = model.embed(PROMPT)
    before, past = x.clone(), len(PROMPT) - 1
    model.run(0, model.layer_count, x[:past], 0, run)
    model.read(x[:past], 0, read)
    last = [model.run(0, model.layer_count, x[past:], past, cache) for cache in (run, read)]
    assert torch.equal(*last)
    assert torch.equal(x, before)
    assert not torch.equal(last[0], model.run(0, model.layer_count, x[past:], past, model.cache(len(PROMPT))))
