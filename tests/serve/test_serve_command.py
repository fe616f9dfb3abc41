"""`lede serve` as a process: what it prints, and what signals do."""

import re
import shutil
import signal
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from lede.cli import app
from lede.decode.load import load_model
from tests.serve.test_generate import random_policy


def test_signals_swap_policies_and_finish_what_runs(checkpoint, tmp_path):
    model = load_model(checkpoint, "float32", "cpu")
    random_policy(model, 0).save(tmp_path / "mine")
    options = ["--model", checkpoint, "--dtype", "float32", "--threads", "1", "--port", "0"]
    command = [sys.executable, "-m", "lede", "serve", *map(str, options), "--policy", str(tmp_path / "mine")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            assert said.startswith("tiny at http://127.0.0.1:")
            assert said.endswith(", mine\n")
            url = re.search(r"http://[^,]+", said)[0]

            def ask(tokens):
                answer = httpx.post(f"{url}/completions", json={"prompt": "def ", "max_tokens": tokens}, timeout=30)
                return answer.json()

            before = ask(60)
            random_policy(model, 3).save(tmp_path / "mine")
            process.send_signal(signal.SIGHUP)
            while (after := ask(60))["usage"] == before["usage"]:
                pass
            assert after["choices"] == before["choices"]
            shutil.rmtree(tmp_path / "mine")
            process.send_signal(signal.SIGHUP)
            assert "the policies stay as they were" in process.stderr.readline()
            assert ask(60)["usage"] == after["usage"]

            running = {"prompt": "def ", "max_tokens": 240, "stream": True}
            with httpx.stream("POST", f"{url}/completions", json=running, timeout=30) as streaming:
                lines = streaming.iter_lines()
                assert next(lines).startswith("data: ")
                process.send_signal(signal.SIGTERM)
                assert [line for line in lines if line][-1] == "data: [DONE]"
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: other machines can reach this address, so give --api-key"),
        (["--policy", "a/x", "--policy", "b/x"], "there is a policy x already"),
        (["--plain", "--policy", "x"], "exclude each other"),
        (["--epsilon", "0.1"], "--record-text and --epsilon go with --record"),
        (["--plain", "--record", "x"], "name one with --policy"),
        (["--policy", "nowhere"], "there is no such folder"),
        (
            ["--allow-origin", "https://a.example/page"],
            "--allow-origin https://a.example/page: give a scheme and a host",
        ),
    ],
)
def test_what_cannot_work_is_said_in_a_line(options, said, monkeypatch):
    monkeypatch.delenv("LEDE_API_KEY", raising=False)
    done = CliRunner().invoke(app, ["serve", *options])
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = CliRunner().invoke(app, ["serve"])
    assert done.stderr == "lede: this needs the package uvicorn: install it with pip install 'lede[server]'\n"
