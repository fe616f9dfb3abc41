"""The numbers that the paper prints (arXiv 2606.03113, Tables 1–3; one A100, batch 1), to set beside ours."""

from dataclasses import dataclass
from pathlib import PurePath

TASKS = ("cnn_dm_summarization", "cnn_dm_lm", "topv2", "alpaca")  # the columns of Table 1

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
    "lede-paper-fixed-exit": "w/o Dynamic Exit",
    "lede-paper-fixed-length": "w/o Adaptive Drafting",
}

# Below each table's number and model, one line per method: E, d, acceptance, speedup and, in Table 1, ROUGE-L, for each
# of the table's tasks. Two misprints are kept, both LITE on topv2: the ROUGE-L of .68 (1B; .068 in every other row of
# that column), and d and acceptance in each other's place (7B). Table 3 names no task; its full method is in no column
# of Table 1.
_TABLES = """\
1 LLaMA-3.2-1B
AR | - - - 1 .117 | - - - 1 .108 | - - - 1 .068 | - - - 1 .153
LS | 4 4 .632 1.6 .113 | 4 4 .74 1.81 .108 | 4 4 .771 1.86 .068 | 4 4 .751 1.73 .153
LITE | 10.36 11.83 .922 1.07 .117 | 9.77 11.63 .844 1.3 .108 | 9.27 11.76 .863 1.45 .68 | 10.07 11.59 .849 1.09 .155
DV | 6 5.61 .882 1.44 .116 | 6 7.26 .868 1.65 .108 | 3 6.94 .905 1.78 .068 | 6 6.05 .867 1.23 .156
LEDE | 5.7 6.84 .924 2.04 .116 | 4.62 6.4 .881 2.28 .107 | 6.88 6.4 .911 1.98 .068 | 3.96 4.7 .867 2.04 .156
1 LLaMA-2-7B
AR | - - - 1 .194 | - - - 1 .225 | - - - 1 .095 | - - - 1 .207
LS | 4 4 .254 1.22 .193 | 4 4 .553 1.95 .225 | 4 4 .732 2.47 .094 | 4 4 .724 2.37 .206
LITE | 15.39 11.82 .955 1.54 .193 | 19.17 11.88 .806 1.32 .225 | 18 .881 10.417 1.52 .094 | 18.49 11.83 .881 1.37 .204
DV | 8 7.57 .858 2.09 .194 | 8 5.6 .865 2.13 .225 | 8 6.29 .779 1.94 .094 | 8 7.57 .893 2.35 .205
LEDE | 6.82 7.82 .923 2.64 .193 | 7.05 6.2 .904 2.72 .225 | 8.72 6.72 .9 2.23 .094 | 7.4 9.4 .981 2.58 .205
1 LLaMA-2-13B
AR | - - - 1 .2 | - - - 1 .248 | - - - 1 .157 | - - - 1 .246
LS | 8 4 .743 2.27 .199 | 8 4 .711 2.12 .247 | 8 4 .808 2.28 .156 | 8 4 .799 2.25 .246
LITE | 25.42 11.73 .817 1.39 .199 | 26.58 11.86 .78 1.21 .246 | 24.53 11.85 .868 1.46 .156 | 25 11.85 .861 1.27 .246
DV | 15 6.64 .958 2.23 .2 | 15 6.25 .925 2.11 .246 | 15 5.98 .915 2.43 .153 | 15 5.64 .944 2.13 .246
LEDE | 9.36 5.19 .928 2.55 .199 | 9.69 4.63 .969 2.57 .246 | 12.73 8.06 .955 2.56 .155 | 10.7 7.17 .969 2.51 .246
2 CodeLLaMA-7B
AR | - - - 1
LS | 7 6 .645 1.94
LITE | 20.24 11.72 .838 1.3
DV | 8 5.9 .79 2.02
LEDE | 8.35 5.93 .748 2.18
2 CodeLLaMA-34B
AR | - - - 1
LS | 6 12 .272 1.61
LITE | 30.79 11.47 .826 1.25
DV | 12 5.57 .765 1.88
LEDE | 14.57 4.41 .864 2.07
3 LLaMA-2-7B
LEDE | 7.39 7.84 .858 2.7
w/o Adaptive Drafting | 7.2 6 .7 2.04
w/o Dynamic Exit | 6 6.87 .69 1.99
"""


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
    rows, table, model = [], 0, ""
    for line in _TABLES.splitlines():
        method, *cells = line.split(" | ")
        if not cells:
            table, model = int(line[0]), line[2:]
        for task, cell in zip({1: TASKS, 2: ("humaneval",), 3: (None,)}[table], cells, strict=False):
            e, d, acceptance, speedup, *rouge = [None if part == "-" else float(part) for part in cell.split()]
            assert speedup is not None
            rows.append(PaperRow(table, model, task, method, e, d, acceptance, speedup, *(rouge or [None])))
    return rows


ROWS = _rows()


def paper_row(model: str, task: str, method: str) -> PaperRow | None:
    """What the paper reports for our `model` (hub name or folder), `task` and `method` names; None where nothing.

    The ablations are Table 3's, which names no task: the row is returned for every task of Table 1, with `task` None.
    """
    name, theirs = MODELS.get(PurePath(model).name.lower()), METHODS.get(method)
    tasks = (task, None) if task in TASKS else (task,)
    return next((r for r in ROWS if (r.model, r.method) == (name, theirs) and r.task in tasks), None)
