"""Compiled code and what else is kept in the user's cache folder: whatever happened to it there, decoding works."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lede.decode.backends.compile import FLAGS, FOLDER, load
from lede.ground import cache_folder, fingerprint

COMPILER = shutil.which("cc") or shutil.which("gcc") or ""


def works(compiler: str = COMPILER) -> bool:
    """Whether a small C file of ours can be used."""
    loaded = load(FOLDER / "lookup.c", compiler, FLAGS)
    return loaded is not None and loaded.lede_copy is not None


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lede"


def test_a_library_is_compiled_once(cache):
    assert works()
    (kept,) = cache.glob("*.so")
    assert works("/no/compiler") is False  # another compiler is another library
    written = kept.stat().st_mtime_ns
    assert works()
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [written]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: bytes(len(b))])
def test_a_library_that_was_cut_short_is_compiled_anew(cache, damage):
    assert works()
    (kept,) = cache.glob("*.so")
    content = kept.read_bytes()
    kept.unlink()  # and not written over: this process has it open
    kept.write_bytes(damage(content))
    assert works()
    assert content in [path.read_bytes() for path in cache.glob("*.so")]


def test_a_library_for_another_machine_is_compiled_anew(cache):
    assert works()
    (kept,) = cache.glob("*.so")
    kept.unlink()
    other = b"\x7fELF for another machine"
    foreign = kept.with_name(f"{kept.stem.rpartition('-')[0]}-{fingerprint(other)}.so")
    foreign.write_bytes(other)
    assert works()
    assert len(list(cache.glob("*.so"))) == 2


def test_without_a_cache_folder_it_is_compiled_for_this_process(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_folder() is None and works()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None and works()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")  # a folder that nobody can write to
    assert works()


def test_a_compiler_that_fails_leaves_nothing_behind(cache):
    assert not works(shutil.which("false") or "")
    assert list(cache.iterdir()) == []


def test_processes_may_compile_at_once(cache):
    with ThreadPoolExecutor() as pool:
        assert all(pool.map(lambda _: works(), range(3)))
    assert all(path.suffix == ".so" for path in cache.iterdir())
