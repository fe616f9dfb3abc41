"""The tutorial does what it says, from start to end."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLEAN = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"  # what is served, if a later step fails


@pytest.mark.slow
def test_every_step_of_the_tutorial_works(tmp_path):
    text = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    steps = [code if kind == "sh" else f"python <<'END'\n{code}END\n" for kind, code in blocks]
    assert len(steps) > 10 and "lede serve" in "".join(steps)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "lede").write_text(f'#!/bin/sh\nexec {sys.executable} -m lede "$@"\n')
    (tmp_path / "bin" / "lede").chmod(0o755)
    path = os.pathsep.join((str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["bash", "-euo", "pipefail", "-c", CLEAN + "".join(steps).replace("8000", port)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "one text: True" in done.stdout
    assert len(re.findall(r"^(?:all|layers|None) 60 tokens", done.stdout, re.MULTILINE)) == 3
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!doctype html>")
