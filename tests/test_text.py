"""Text from outside: whatever its encoding and whatever it looks like, it is printed as it is or refused in a line."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.table import Table
from typer.testing import CliRunner

from lede import replay, terminal
from lede.cli import app
from lede.commands.options import parse_text
from lede.errors import replace_unprintable
from tests.replay.synthetic import facts, header, make_episode, write_dataset

HOSTILE = "[/INST] [x] [bold]b[/] :smile: [/]"


def invoke(*arguments: object, stdin: bytes = b"", code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], input=stdin, env={"COLUMNS": "300"})
    assert done.exit_code == code, done.output
    return done.output


def test_names_of_a_dataset_are_never_markup(tmp_path):
    path = tmp_path / HOSTILE.replace("/", "|")
    model = header()
    model["model"]["name"] = f"model {HOSTILE}"
    replay.open_for_writing(path, model)
    run = replay.start_run(path, {"seed": 0}, {**facts(), "behaviour": {"explore": f"rule {HOSTILE}"}})
    with replay.EpisodeWriter(run) as writer:
        episode, transitions, _ = make_episode(0)
        writer.add({**episode, "task": f"task {HOSTILE}"}, transitions)
    (path / "transitions" / "[b]strange").touch()
    shown = invoke("inspect", path, "--plot", path / "p.png")
    for text in (str(path), f"model {HOSTILE}", f"rule {HOSTILE}", f"task {HOSTILE} 1", "[b]strange"):
        assert text in shown
    assert f"drawn in {path / 'p.png'}" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", HOSTILE),
        ("evaluate", "--dataset", HOSTILE),
        ("learn", "--dataset", HOSTILE),
        ("compact", HOSTILE),
        ("collect", "--task", HOSTILE),
        ("collect", "--prompts", HOSTILE),
        ("bench", "--methods", HOSTILE),
        ("generate", "--policy", HOSTILE, "--prompt", "x"),
        (HOSTILE,),
    ],
    ids=" ".join,
)
def test_errors_say_arguments_as_they_are(arguments):
    assert HOSTILE in " ".join(invoke(*arguments, code=2).replace("│", " ").split())


def test_tables_bars_and_lines_print_strings_as_they_are(capsys):
    table = Table(HOSTILE, title=f"title {HOSTILE}")
    table.add_row(f"cell {HOSTILE}")
    terminal.wide().print(table)
    terminal.say(f"line {HOSTILE}", "dim")
    terminal.warn(f"note {HOSTILE}")
    with terminal.bar(f"task {HOSTILE}", 2) as advance:
        advance(2, HOSTILE)
    shown = capsys.readouterr()
    assert all(f"{what} {HOSTILE}" in shown.out for what in ("title", "cell", "line"))
    assert f"note {HOSTILE}" in shown.err and f"task {HOSTILE}" in " ".join(shown.err.split())


@pytest.mark.parametrize("prompt", [None, "-", "caf\udce9"])
def test_a_prompt_that_is_not_utf8_is_refused(prompt, checkpoint):
    option = [] if prompt is None else ["--prompt", prompt]
    shown = invoke("generate", "--model", checkpoint, *option, stdin=b"caf\xe9", code=2)
    assert shown == "lede: the text is not UTF-8: convert it first, as with iconv -t UTF-8\n"


def test_a_prompt_in_utf8_is_read_whatever_the_locale(monkeypatch):
    assert parse_text("naïve".encode().decode("ascii", "surrogateescape")) == "naïve"  # as the C locale has arguments
    for encoding in ("ascii", "latin-1", "utf-8"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("naïve".encode()), encoding))
        assert parse_text("-") == "naïve"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("option", ["--plain", "--trace"])
def test_generate_writes_what_the_terminal_can_show(encoding, option, checkpoint, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding))
    replace_unprintable()
    arguments = ["generate", "--prompt", "naïve – ", option, "--model", str(checkpoint), "--max-new-tokens", "24"]
    app([*arguments, "--threads", "1"], standalone_mode=False)
    out.flush()
    written = out.buffer.getvalue()  # type: ignore[attr-defined]
    assert written and written.decode(encoding)


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_help_in_an_ascii_terminal(environment):
    command = [sys.executable, "-m", "lede", "learn", "--help"]
    done = subprocess.run(command, capture_output=True, env=os.environ | environment, timeout=60, check=True)
    assert b"Learn a policy" in done.stdout and done.stdout.isascii()
    assert done.stderr == b""


def test_inspect_in_a_latin_1_terminal(tmp_path):
    write_dataset(tmp_path / "дата", 1, seed=0)
    command = [sys.executable, "-m", "lede", "inspect", tmp_path / "дата"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=True)
    assert "???? · " in done.stdout.decode("latin-1")
    assert done.stderr == b""


ESCAPES = "\x1b[35mred\x1b]0;title\x07\x9b2J\x7f"


def at_terminal(*arguments: object) -> str:
    """What a command prints on a terminal."""
    main, side = pty.openpty()
    environment = os.environ | {"NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "300"}
    command = [sys.executable, "-m", "lede", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=side, stderr=side, env=environment)
    os.close(side)
    shown = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while part := os.read(main, 4096):
            shown += part
    os.close(main)
    assert process.wait(60) in (0, 2)
    # rich's own: lines, the cursor, bold and italics
    return re.sub(r"\x1b\[(\?25[lh]|\d?[AK]|(0|1|2|3|31)?m)", "", shown.decode(errors="replace"))


@pytest.mark.slow
def test_control_characters_do_not_reach_the_terminal(tmp_path):
    path = tmp_path / "data\x1b[35m"
    model = header()
    model["model"]["name"] = f"model {ESCAPES}"
    replay.open_for_writing(path, model)
    run = replay.start_run(path, {"seed": 0}, facts())
    with replay.EpisodeWriter(run) as writer:
        episode, transitions, _ = make_episode(0)
        writer.add({**episode, "task": f"task {ESCAPES}"}, transitions)
    short = ("--plain", "--threads", 1, "--max-new-tokens", 2, "--prompt", f"{ESCAPES} def f(")
    for arguments, words in (
        (("inspect", path), "task \u241b[35mred"),
        (("evaluate", "--dataset", path), "data\u241b[35m"),
        (("generate", "--policy", path, "--prompt", "x"), "data\u241b[35m"),
        (("generate", "--trace", *short), "\u241b[35mred"),
    ):
        shown = at_terminal(*arguments)
        assert words in shown
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", shown), shown


def test_a_model_s_text_is_shown_without_control_characters_and_written_with_them(monkeypatch, capsys):
    terminal.show(ESCAPES + "\t\n")
    assert capsys.readouterr().out == ESCAPES + "\t\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    terminal.show(ESCAPES + "\t\n")
    assert capsys.readouterr().out == "\u241b[35mred\u241b]0;title\u2407\ufffd2J\u2421\t\n"


def test_a_piped_prompt_keeps_its_ends_of_lines_and_loses_its_mark(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa\r\nb\rc\n")))
    assert parse_text("-") == "a\r\nb\rc\n"
