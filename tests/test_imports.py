"""lede is found wherever it is imported from: beside scripts of any name, and from an installed wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("adapt", "bench", "collect", "decode", "learn", "replay", "serve", "simulate")
EVERYTHING = (
    "import lede.cli, lede.terminal, "
    + ", ".join(f"lede.{room}" for room in ROOMS)
    + """
import lede.bench.run, lede.collect.collector, lede.learn.config, lede.serve.generate
print(lede.load_model.__module__, lede.open_dataset.__module__)
"""
)


def python(folder: Path, path: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(path)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """What a build needs, copied, so that it leaves nothing here; links stay links."""
    folder = tmp_path_factory.mktemp("source") / "lede"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "data", "*.egg-info", "build")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=ignore)
    return folder


def built(source: Path, out: Path, what: str) -> Path:
    """A wheel or sdist, by the build backend itself: offline, in this environment."""
    pytest.importorskip("setuptools")
    code = f"import setuptools.build_meta as backend; backend.build_{what}({str(out)!r})"
    python(source, source, "-c", code)
    return next(out.iterdir())


def package_files(folder: Path) -> set[str]:
    """The files of the package in a source folder, links followed."""
    walk = os.walk(folder / "lede", followlinks=True)
    files = {Path(top, name).relative_to(folder).as_posix() for top, _, names in walk for name in names}
    return {file for file in files if not file.endswith(".pyc")}


def test_scripts_may_be_called_like_rooms(tmp_path):
    for name in (*ROOMS, "data", "lede_bench", "tests"):
        (tmp_path / f"{name}.py").write_text(EVERYTHING)
    assert python(tmp_path, ROOT, "serve.py").stdout == "lede.loading lede.replay.reader\n"


def test_links_that_were_checked_out_as_plain_files_are_named(source, tmp_path):
    shutil.copytree(source / "lede", tmp_path / "lede", symlinks=True)
    for room in ROOMS:
        (tmp_path / "lede" / room).unlink()
        (tmp_path / "lede" / room).write_text(f"../{room}")
    said = python(tmp_path, tmp_path, "-m", "lede", "--help", code=1).stderr
    assert "should be links, and are plain files: check the repository out again" in said.splitlines()[-1]


def test_a_wheel_holds_all_and_works_from_another_folder(source, tmp_path):
    wheel = built(source, tmp_path / "wheel", "wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")  # what installing a pure wheel does
    assert package_files(tmp_path / "site") == package_files(source)
    assert not any(path.is_symlink() for path in (tmp_path / "site").rglob("*"))
    (tmp_path / "site" / "elsewhere").mkdir()
    options = ("--plain", "--prompt", "def mean(values):", "--max-new-tokens", 4, "--threads", 1)
    done = python(tmp_path / "site" / "elsewhere", tmp_path / "site", "-m", "lede", "generate", *options)
    assert "4 tokens" in done.stderr


def test_a_source_distribution_builds_the_same_package(source, tmp_path):
    archive = built(source, tmp_path / "sdist", "sdist")
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(built(unpacked, tmp_path / "wheel", "wheel")) as wheel:
        files = {name for name in wheel.namelist() if name.startswith("lede/")}
    assert files == package_files(source)
