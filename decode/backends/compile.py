"""Building C files with the machine's compiler, once for each CPU and version; kept in the user's cache folder."""

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lede.decode.device import cpu_features
from lede.ground import cache_folder, cache_name, fingerprint

FOLDER = Path(__file__).parent
# -ffast-math is left out on purpose: it would let sums be reordered, and a row's bits depend on its neighbours.
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")


@functools.cache
def library(name: str = "native") -> ctypes.CDLL | None:
    """`name`.c of this folder, compiled; None where no C compiler is there that can do it, or LEDE_NATIVE=0 is set."""
    if os.environ.get("LEDE_NATIVE") == "0":
        return None
    compilers = map(shutil.which, (os.environ.get("CC") or "cc", "cc", "gcc", "clang"))
    if (compiler := next(filter(None, compilers), None)) is None:
        return None
    for flags in ((*FLAGS, "-fopenmp"), FLAGS):  # without OpenMP where the compiler has none: one thread
        loaded = load(FOLDER / f"{name}.c", compiler, flags)
        if loaded is not None:
            return loaded
    return None


def load(source: Path, compiler: str, flags: tuple[str, ...]) -> ctypes.CDLL | None:
    """A C file as a library, compiled before or now; None where the compiler fails.

    A file in the cache is named after what it was compiled from and for, and after its content, so that one cut short
    is not loaded (which can end the process). One that does not load here is compiled anew.
    """
    texts = [file.read_text() for file in (source, *sorted(source.parent.glob("*.h")))]
    folder, prefix = cache_folder(), cache_name(source.stem, texts, compiler, flags, cpu_features())
    for kept in folder.glob(f"{prefix}-*.so") if folder is not None else ():
        with contextlib.suppress(OSError):
            if kept.name == f"{prefix}-{fingerprint(kept.read_bytes())}.so":
                return ctypes.CDLL(str(kept))
    for parent in dict.fromkeys((folder, None)):  # None: the system's folder for temporary files
        try:
            with tempfile.TemporaryDirectory(dir=parent) as scratch:
                fresh = Path(scratch) / f"{prefix}.so"
                command = [compiler, *flags, "-o", str(fresh), str(source), "-lm"]
                subprocess.run(command, check=True, capture_output=True, timeout=120)
                loaded = ctypes.CDLL(str(fresh))
                if parent is not None:
                    fresh.replace(parent / f"{prefix}-{fingerprint(fresh.read_bytes())}.so")
                return loaded
        except subprocess.SubprocessError:
            return None
        except OSError:  # a folder that cannot be written, or not be run from
            continue
    return None
