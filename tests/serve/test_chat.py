"""`lede chat`: turns of a conversation, in Python, in a pipe and at a terminal of 60 columns."""

import fcntl
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lede.decode.generate import generate
from lede.decode.load import from_transformers, load_model
from lede.decode.sampling import Settings
from lede.policy import PolicyError
from lede.serve.chat import Chat
from lede.serve.errors import ChatError
from tests.models import byte_llama, byte_tokenizer
from tests.serve.test_generate import random_policy

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model that never ends by itself, with room for minutes of writing, and its policy in `policy`."""
    folder = tmp_path_factory.mktemp("chat") / "tiny"
    byte_llama(max_position_embeddings=60_000, eos_token_id=None).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    random_policy(load_model(folder, "float32")).save(folder / "policy")
    return folder


def said(chat: Chat, message: str) -> tuple[str, str]:
    """An answer, and the line behind it."""
    pieces: list[str] = []
    closing = chat.answer(message, lambda piece: pieces.append(str(piece)))
    return "".join(pieces), closing


def test_turns_are_what_the_whole_conversation_asks_for_and_reuse_what_was_read(folder):
    model, other = load_model(folder, "float32"), load_model(folder, "float32")
    policy = random_policy(model)
    chat = Chat(model, policy, system="Be brief.", max_new_tokens=24)
    messages = [{"role": "system", "content": "Be brief."}]
    for question in ("What is a list?", "And a tuple?"):
        messages.append({"role": "user", "content": question})
        wanted = generate(other, messages, None, Settings(24))
        text, closing = said(chat, question)
        assert text == wanted.text
        assert re.fullmatch(
            r"24 tokens · \d+ tokens/s · acceptance \d+% · \d\.\d s (saved|lost) · ended by length", closing
        )
        messages.append({"role": "assistant", "content": text})
    assert chat.messages == messages
    first = len(byte_tokenizer()("<system>Be brief.\n<user>What is a list?\n<assistant>")["input_ids"])
    assert generate(model, messages[:-1], None, Settings(1)).reused > first + 10


def test_commands(folder, tmp_path):
    model = load_model(folder, "float32")
    chat = Chat(model, None, max_new_tokens=8)
    assert chat.command("/policy") == "policy: none"
    assert chat.command(f"/policy {folder / 'policy'}").endswith("tiny/policy")
    assert "acceptance" in said(chat, "a")[1]
    assert chat.command("/plain") == "policy: none (plain decoding)"
    assert "acceptance" not in said(chat, "b")[1]
    assert chat.command(" /plain ").endswith("tiny/policy")
    assert chat.command("/trace") == "trace: on"
    assert "/quit" in chat.command("/help")
    assert all(len(line) <= 60 for line in chat.command("/help").splitlines())
    assert chat.command(f"/save {tmp_path / 'talk.jsonl'}").startswith("saved 4 messages in ")
    assert json.loads((tmp_path / "talk.jsonl").read_text()) == {"messages": chat.messages}
    assert chat.command("/reset") == "forgotten"
    assert chat.messages == []
    for wrong in ("/unknown", "/save", "/"):
        with pytest.raises(ChatError):
            chat.command(wrong)
    for wrong in (folder, tmp_path / "nothing"):
        with pytest.raises(PolicyError):
            chat.command(f"/policy {wrong}")
    stranger = from_transformers(byte_llama(seed=1), torch.float32, tokenizer=byte_tokenizer())
    random_policy(stranger).save(tmp_path / "other")
    with pytest.raises(PolicyError, match="other weights"):
        chat.command(f"/policy {tmp_path / 'other'}")
    assert chat.command("/policy").endswith("tiny/policy")
    assert chat.command("/quit") is None


def test_what_was_written_of_an_answer_that_was_stopped_stays(folder):
    chat, seen = Chat(load_model(folder, "float32"), None, max_new_tokens=50), []

    def write(piece):
        seen.append(piece)
        if len(seen) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.answer("What is a list?", write)
    assert chat.messages[0]["content"] == "What is a list?"
    assert chat.messages[1]["content"].startswith("".join(seen))
    assert said(chat, "And?")[0]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lede", "chat", *map(str, arguments), "--threads", "1", "--dtype", "float32"]


def run(stdin: bytes, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(command(*arguments), input=stdin, capture_output=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_in_a_pipe_every_line_is_a_message_and_stdout_has_answers_alone(folder):
    arguments = ("--model", folder, "--policy", folder / "policy", "--max-new-tokens", 12)
    done = run("Grüße?\n\n/trace\nAnd?\n".encode(), *arguments)
    model = load_model(folder, "float32")
    first = said(Chat(model, None, max_new_tokens=12), "Grüße?")[0]
    assert done.stdout.decode().startswith(first + "\n")
    assert b"\x1b" not in done.stdout.replace(first.encode(), b"")
    assert done.stderr.decode().splitlines()[1] == "trace: on"
    assert done.stderr.count(b"12 tokens") == 2
    assert b"no policy: there is no such folder" in run(b"/policy nothing\nHi\n", *arguments, code=2).stderr
    assert b"not UTF-8" in run(b"\xff\xfe\n", *arguments, code=2).stderr


def test_a_model_without_a_chat_template_is_named(checkpoint):
    for arguments in ((), ("--model", checkpoint)):
        stderr = run(b"Hi\n", *arguments, code=2).stderr.decode()
        assert re.fullmatch(r"lede: the model \S+ has no chat template: talk to one .*\n", stderr)


class Terminal:
    """A chat at a terminal of 60 columns."""

    def __init__(self, *arguments: object, stdout: Any = None, **environment: str):
        self.main, side = pty.openpty()
        termios.tcsetwinsize(side, (24, 60))
        environment = os.environ | {"TERM": "xterm-256color"} | environment
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), side) | ({"stdout": stdout} if stdout else {})
        own = {"start_new_session": True, "preexec_fn": lambda: fcntl.ioctl(side, termios.TIOCSCTTY, 0)}
        self.process = subprocess.Popen(command(*arguments), **streams, env=environment, **own)
        os.close(side)
        self.text = b""

    def type(self, keys: str) -> None:
        """Type it, reading meanwhile what is shown: a terminal that nobody reads takes no more keys."""
        left = keys.encode()
        while left:
            readable, writable, _ = select.select([self.main], [self.main], [], 60)
            assert readable or writable, self.text
            if readable:
                self.text += os.read(self.main, 4096)
            if writable:
                left = left[os.write(self.main, left[:512]) :]

    def wait(self, pattern: str, again: str = "") -> str:
        """Read until it matches, typing `again` every other second; what came by then, which is forgotten."""
        ends = time.monotonic() + 60
        while not (found := re.search(pattern.encode(), self.text, re.DOTALL)):
            ready, _, _ = select.select([self.main], [], [], 2)
            assert ready or time.monotonic() < ends, self.text
            self.text += os.read(self.main, 4096) if ready else b""
            self.type("" if ready else again)
        seen, self.text = self.text[: found.end()], self.text[found.end() :]
        return seen.decode(errors="replace")


@pytest.mark.parametrize("colours", [True, False])
def test_at_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_the_program(folder, tmp_path, colours):
    arguments = ("--model", folder, "--policy", folder / "policy", "--max-new-tokens", 50_000, "--trace")
    terminal = Terminal(*arguments, **({} if colours else {"NO_COLOR": "1"}))
    shown = terminal.wait("> ")
    assert "/help" in shown and "layer 1" in shown
    assert bool(re.search(r"\x1b\[[0-9;]*[39][0-7]m", shown)) == colours
    terminal.type("What is a list?\n")
    terminal.wait("list[?]\r\n.{200}")
    terminal.type("\x03")
    terminal.wait("stopped.*> ")
    terminal.type("\x03")  # nothing is being written; what comes just before `input` waits for keys is lost on it
    terminal.wait("stopped.*> ", again="\x03")
    terminal.type("/nonsense\n")
    terminal.wait("no command.*> ")
    terminal.type(f"/save {tmp_path / 'talk.jsonl'}\n")
    terminal.wait("saved 2 messages.*> ")
    assert json.loads((tmp_path / "talk.jsonl").read_text())["messages"][1]["content"]
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
    os.close(terminal.main)


def test_a_conversation_that_has_filled_the_context_says_what_to_do(folder):
    model = from_transformers(byte_llama(max_position_embeddings=80, eos_token_id=None), torch.float32)
    model.tokenizer = byte_tokenizer()
    model.tokenizer.chat_template = TEMPLATE
    chat = Chat(model, None, max_new_tokens=200)
    with pytest.raises(ChatError, match=r"^the message has \d+ tokens, and the model's context is 80: shorten it"):
        said(chat, "long " * 20)
    assert chat.messages == []
    assert said(chat, "Hi")[1].endswith("the context of 80 tokens is full: /reset forgets the conversation")
    before = [*chat.messages]
    with pytest.raises(ChatError, match=r"^the conversation has \d+ .* is 80: /reset forgets it, and /save"):
        said(chat, "And?")
    assert chat.messages == before
    chat.command("/reset")
    assert said(chat, "Hi")[0]


def saved(path: Path, terminal: "Terminal") -> list[str]:
    """What a user has said, by /save."""
    terminal.type(f"/save {path}\r")
    terminal.wait("saved .*> ")
    return [m["content"] for m in json.loads(path.read_text("utf-8"))["messages"] if m["role"] == "user"]


LONG = "long lines " * 900  # 9,900 bytes; a terminal's own line editing keeps 4,095


def test_what_is_piped_arrives_whole(folder, tmp_path):
    stdin = f"\ufeffOne\r\nTwo\rhalves\r\n{LONG}\n\ufeffFour\n/save {tmp_path / 'talk.jsonl'}\n/nonsense\n"
    done = run(stdin.encode(), "--model", folder, "--plain", "--max-new-tokens", 2, code=2)
    assert b"a space before it makes it a message" in done.stderr
    messages = json.loads((tmp_path / "talk.jsonl").read_text("utf-8"))["messages"]
    assert [m["content"] for m in messages[::2]] == ["One", "Two\rhalves", LONG, "Four"]


@pytest.mark.slow
@pytest.mark.parametrize("to_file", [False, True])
def test_what_is_typed_or_pasted_arrives_whole(folder, tmp_path, to_file):
    arguments = ("--model", folder, "--plain", "--max-new-tokens", 3)
    out = (tmp_path / "answers.txt").open("wb") if to_file else None
    terminal = Terminal(*arguments, stdout=out)
    assert "/help" in terminal.wait("> ")
    wanted = []
    for keys, message in (
        (f"{LONG}\r", LONG),
        ("\x1b[200~def f():\r\treturn 1\r\x1b[201~\r", "def f():\n\treturn 1\n"),
        ("\x1b[200~/not a command,\rbut text\x1b[201~\r", "/not a command,\nbut text"),
        ("at once\rwithout brackets\r", "at once\nwithout brackets"),
        (f"\x1b[200~{LONG}\r{LONG}\x1b[201~\r", f"{LONG}\n{LONG}"),
    ):
        terminal.type(keys)
        terminal.wait("3 tokens.*> ")
        wanted.append(message)
    assert saved(tmp_path / "talk.jsonl", terminal) == wanted
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
    os.close(terminal.main)
    if out is not None:
        model = load_model(folder, "float32")
        assert (
            (tmp_path / "answers.txt").read_text("utf-8").startswith(said(Chat(model, None, max_new_tokens=3), LONG)[0])
        )
        assert b"> " not in (tmp_path / "answers.txt").read_bytes()[:2]


@pytest.mark.slow
def test_what_is_typed_or_pasted_while_an_answer_is_written_arrives_whole(folder, tmp_path):
    terminal = Terminal("--model", folder, "--plain", "--max-new-tokens", 400)
    terminal.wait("> ")
    terminal.type("First\r")
    terminal.wait("First\r\n.{20}")
    terminal.type(f"{LONG}\r")
    terminal.type("\x1b[200~a paste\rof two lines\x1b[201~\r")
    for _ in range(3):
        terminal.wait("400 tokens.*> ")
    assert saved(tmp_path / "talk.jsonl", terminal) == ["First", LONG, "a paste\nof two lines"]
    flags = termios.tcgetattr(terminal.main)[3]
    terminal.type("/quit\r")
    assert terminal.process.wait(60) == 0
    assert not flags & termios.ICANON
    os.close(terminal.main)
