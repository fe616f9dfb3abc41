"""Building C files with the machine's compiler, once for each CPU and version; kept in the user's cache folder."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lede.decode.device import cpu_features

FOLDER = Path(__file__).parent
# -ffast-math is left out on purpose: it would let sums be reordered, and a row's bits depend on its neighbours.
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")


@functools.cache
def library(name: str = "native") -> ctypes.CDLL | None:
    """`name`.c of this folder, compiled; None where no C compiler is there that can do it, or LEDE_NATIVE=0 is set."""
    if os.environ.get("LEDE_NATIVE") == "0":
        return None
    compiler = next(
        (found for tool in (os.environ.get("CC"), "cc", "gcc", "clang") if tool and (found := shutil.which(tool))), None
    )
    if compiler is None:
        return None
    for flags in ((*FLAGS, "-fopenmp"), FLAGS):  # without OpenMP where the compiler has none: one thread
        path = built(FOLDER / f"{name}.c", compiler, flags)
        if path is not None:
            return ctypes.CDLL(str(path))
    return None


def built(source: Path, compiler: str, flags: tuple[str, ...]) -> Path | None:
    """The library's file, compiled now or before; None where the compiler fails."""
    described = [source.read_text(), compiler, *flags, cpu_features()]
    name = f"{source.stem}-{hashlib.sha256(repr(described).encode()).hexdigest()[:16]}.so"
    folder = cache_folder()
    path = folder / name
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fresh = Path(scratch) / name
            command = [compiler, *flags, "-o", str(fresh), str(source), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            ctypes.CDLL(str(fresh))  # a library that does not load is not kept
            fresh.replace(path)
    except (OSError, subprocess.SubprocessError):
        return None
    return path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/lede or ~/.cache/lede."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lede"
