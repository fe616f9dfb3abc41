"""The numbers that the paper prints (arXiv 2606.03113, Tables 1–3; one A100, batch 1), to set beside ours.

They are in `paper.csv`. Two misprints are kept, both LITE on topv2: the ROUGE-L of .68 (1B; .068 in every other row of
that column), and d and acceptance in each other's place (7B). Table 3 names no task; its full method is in no column
of Table 1.
"""

import csv
from dataclasses import dataclass
from pathlib import Path, PurePath

# Model names are compared by their last part, so that a local copy of a checkpoint is known too.
MODELS = {
    "layerskip-llama3.2-1b": "LLaMA-3.2-1B",
    "layerskip-llama2-7b": "LLaMA-2-7B",
    "layerskip-llama2-13b": "LLaMA-2-13B",
    "layerskip-codellama-7b": "CodeLLaMA-7B",
    "layerskip-codellama-34b": "CodeLLaMA-34B",
}

# Our method names → the paper's. `lede` is set beside the paper's LEDE as well: it is what a user would run instead.
METHODS = {
    "autoregressive": "AR",
    "layerskip": "LS",
    "lite": "LITE",
    "draft-verify": "DV",
    "lede": "LEDE",
    "lede-fixed-exit": "w/o Dynamic Exit",
    "lede-fixed-length": "w/o Adaptive Drafting",
    "lede-paper": "LEDE",
}


@dataclass(frozen=True)
class PaperRow:
    """One row of one of the paper's tables; None where nothing is printed."""

    table: int
    model: str  # as the paper names it
    task: str | None  # ours; None in Table 3, which names none
    method: str  # as the paper names it
    exit_layer: float | None  # E
    draft_length: float | None  # d
    acceptance: float | None  # accepted / drafted
    speedup: float  # over its own autoregressive decoding
    rouge_l: float | None


def _rows() -> list[PaperRow]:
    _, *lines = csv.reader(Path(__file__).with_suffix(".csv").read_text(encoding="utf-8").splitlines())
    return [
        PaperRow(int(table), model, task or None, method, *(float(x) if x else None for x in values))  # type: ignore
        for table, model, task, method, *values in lines
    ]


ROWS = _rows()


def paper_row(model: str, task: str, method: str) -> PaperRow | None:
    """What the paper reports for our `model` (hub name or folder), `task` and `method` names; None where nothing.

    The ablations are Table 3's, which names no task: the row is returned for every task of Table 1, with `task` None.
    """
    name, theirs = MODELS.get(PurePath(model).name.lower()), METHODS.get(method)
    tasks = (task, None) if any((row.table, row.task) == (1, task) for row in ROWS) else (task,)
    return next((r for r in ROWS if (r.model, r.method) == (name, theirs) and r.task in tasks), None)
