"""Per-prompt results as JSON lines in Spec-Bench's layout, so that its `evaluation/speed.py` reads a bench's files.

One line a prompt; a run that was killed leaves at most one torn line, the last, which `read` leaves out and
`write_line` cuts off before it appends. Two habits of `speed.py` to know: it takes the mean of the prompts' speeds, not
the ratio of sums that `bench.summary` takes, and it counts a *baseline's* tokens by encoding `turns` again and leaving
one out (a tokenizer's BOS).
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def line(
    question_id: str,
    category: str,
    model_id: str,
    *,
    text: str,
    new_tokens: int,
    seconds: float,
    accept_lengths: Sequence[int],
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One prompt's line, JSON-ready.

    `category` is the prompt's task, `model_id` names the model and the method; `text` is what was written, in
    `new_tokens` tokens and `seconds` of wall time, the prompt's reading included; `accept_lengths` are the tokens
    committed by each round, the full model's own included (one a token for a decoder without rounds). `extra` holds
    further keys for the line itself; Spec-Bench ignores them. Raises ValueError where one of them is Spec-Bench's own.
    """
    choice = {
        "index": 0,
        "turns": [text],  # one turn: each list has one element
        "decoding_steps": [len(accept_lengths)],
        "new_tokens": [new_tokens],
        "wall_time": [seconds],
        "accept_lengths": list(accept_lengths),
    }
    own = {"question_id": question_id, "category": category, "model_id": model_id, "choices": [choice]}
    if taken := own.keys() & (extra or {}).keys():
        raise ValueError(f"{', '.join(sorted(taken))}: keys of Spec-Bench's own")
    return own | dict(extra or {})


def write_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append `row` to the file, whole, in one write; a torn line that an interrupted run left is cut off first.

    The folder must exist. Raises OSError.
    """
    content = (json.dumps(row) + "\n").encode()
    with open(path, "a+b", buffering=0) as file:
        _cut_torn(file.fileno())
        file.write(content)


def read(path: Path) -> list[dict[str, Any]]:
    """The file's lines in order, without a torn last one; [] where there is no file.

    Raises ValueError that names a line which is damaged elsewhere; OSError.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    rows = []
    *whole, _torn = content.split(b"\n")  # behind the last newline there is nothing, or what was being written
    for number, raw in enumerate(whole, 1):
        try:
            row = json.loads(raw)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object; remove the line or measure afresh")
        rows.append(row)
    return rows


def _cut_torn(descriptor: int) -> None:
    """Shorten the file to the end of its last whole line."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    keep = end
    while keep > 0:
        start = max(keep - 65536, 0)
        newline = os.pread(descriptor, keep - start, start).rfind(b"\n")
        if newline >= 0:
            keep = start + newline + 1
            break
        keep = start
    if keep != end:
        os.ftruncate(descriptor, keep)
