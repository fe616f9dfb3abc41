"""Machines as they are: no home, no user, no display, folders that cannot be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lede.cli import app
from tests.replay.synthetic import write_dataset

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("machines") / "data"
    write_dataset(path, 30, seed=0, max_new_tokens=20)
    return path


def unknown_user(*command: object) -> list[str]:
    """The command as a user whom /etc/passwd does not know, as in many containers."""
    unshare = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this system has no user namespaces")
    return [*unshare, *map(str, command)]


def run(command: list[str], folder: Path, *without: str, code: int = 0, **variables: str) -> tuple[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


COMMANDS = {
    "inspect": ("inspect", "DATA", "--plot", "OUT/new/p.png"),
    "generate": ("generate", "--model", "MODEL", "--prompt", "x", "--max-new-tokens", "4"),
    "learn": ("learn", "--dataset", "DATA", "--out", "OUT/policy", "--updates", "4"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_home_or_a_user_in_a_folder_that_is_read_only(command, data, checkpoint, tmp_path):
    places = {"DATA": data, "MODEL": checkpoint, "OUT": tmp_path / "out"}
    (tmp_path / "here").mkdir(mode=0o555)
    arguments = list(COMMANDS[command])
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    line = unknown_user(sys.executable, "-m", "lede", *arguments)
    stdout, stderr = run(line, tmp_path / "here", "HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "MPLCONFIGDIR")
    assert stdout
    assert "atplotlib" not in stderr and "Traceback" not in stderr


def test_a_read_only_folder_is_named(data, tmp_path):
    (tmp_path / "here").mkdir(mode=0o555)
    line = unknown_user(sys.executable, "-m", "lede", "inspect", data, "--plot", "new/p.png")
    assert run(line, tmp_path / "here", code=2)[1] == "lede: Permission denied: new\n"


def test_pictures_need_no_backend_and_no_cache(data, tmp_path):
    command = [sys.executable, "-m", "lede", "inspect", str(data), "--plot", "p.png"]
    settings = {
        "MPLBACKEND": "module://nowhere.backend_inline",
        "MPLCONFIGDIR": "/proc/nowhere",
        "HOME": "/proc/nowhere",
    }
    assert run(command, tmp_path, "DISPLAY", **settings)[1] == ""
    assert (tmp_path / "p.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "command",
    [("inspect", "nothing"), ("evaluate", "--dataset", "nothing"), ("bench",)],
    ids=lambda command: command[0],
)
def test_the_format_of_a_picture_is_checked_before_the_work(command, tmp_path):
    done = CliRunner().invoke(app, [*command, "--plot", str(tmp_path / "p.nope")])
    assert done.exit_code == 2
    assert done.output.startswith(f"lede: cannot draw into {tmp_path / 'p.nope'}: the name must end in one of .")


@pytest.mark.parametrize("columns", ["0", "x"])
def test_a_terminal_of_unknown_width(columns, data, tmp_path):
    stdout, _ = run([sys.executable, "-m", "lede", "inspect", str(data)], tmp_path, COLUMNS=columns)
    assert "\nepisodes     30 " in stdout
