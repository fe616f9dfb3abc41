"""The numbers that the paper prints (arXiv 2606.03113, Tables 1–3), to set beside ours. Its device: one A100, batch 1.

The values stand here as printed, two misprints included; they are marked. Table 2 has no LEDE row for CodeLLaMA-34B.
"""

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
    "lede-paper": "LEDE",
    "lede-fixed-exit": "w/o Dynamic Exit",
    "lede-fixed-length": "w/o Adaptive Drafting",
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


def paper_row(model: str, task: str, method: str) -> PaperRow | None:
    """What the paper reports for our `model` (hub name or folder), `task` and `method` names; None where nothing.

    The ablations (`lede-fixed-exit`, `lede-fixed-length`) are from Table 3, which gives one number for no named task:
    the row is returned for every task of Table 1, with its `task` None.
    """
    theirs, name = METHODS.get(method), MODELS.get(PurePath(model).name.lower())
    return next((r for r in ROWS if (r.model, r.method) == (name, theirs) and r.task in (task, _unnamed(task))), None)


def _unnamed(task: str) -> str | None:
    """What Table 3 calls a task."""
    return None if task in TASKS else task


# fmt: off
# Table 1 by model and method: for each task E, d, acceptance, speedup, ROUGE-L.
_TABLE_1: dict[str, dict[str, tuple[tuple[float | None, ...], ...]]] = {
    "LLaMA-3.2-1B": {
        "AR": ((None, None, None, 1.0, .117), (None, None, None, 1.0, .108),
               (None, None, None, 1.0, .068), (None, None, None, 1.0, .153)),
        "LS": ((4, 4, .632, 1.60, .113), (4, 4, .740, 1.81, .108), (4, 4, .771, 1.86, .068), (4, 4, .751, 1.73, .153)),
        "LITE": ((10.36, 11.83, .922, 1.07, .117), (9.77, 11.63, .844, 1.30, .108),
                 (9.27, 11.76, .863, 1.45, .68),  # ROUGE-L misprinted: 0.068 in every other row of this column
                 (10.07, 11.59, .849, 1.09, .155)),
        "DV": ((6, 5.61, .882, 1.44, .116), (6, 7.26, .868, 1.65, .108),
               (3, 6.94, .905, 1.78, .068), (6, 6.05, .867, 1.23, .156)),
        "LEDE": ((5.70, 6.84, .924, 2.04, .116), (4.62, 6.40, .881, 2.28, .107),
                 (6.88, 6.40, .911, 1.98, .068), (3.96, 4.70, .867, 2.04, .156)),
    },
    "LLaMA-2-7B": {
        "AR": ((None, None, None, 1.0, .194), (None, None, None, 1.0, .225),
               (None, None, None, 1.0, .095), (None, None, None, 1.0, .207)),
        "LS": ((4, 4, .254, 1.22, .193), (4, 4, .553, 1.95, .225), (4, 4, .732, 2.47, .094), (4, 4, .724, 2.37, .206)),
        "LITE": ((15.39, 11.82, .955, 1.54, .193), (19.17, 11.88, .806, 1.32, .225),
                 (18.0, .881, 10.417, 1.52, .094),  # d and acceptance misprinted, it seems in each other's place
                 (18.49, 11.83, .881, 1.37, .204)),
        "DV": ((8, 7.57, .858, 2.09, .194), (8, 5.60, .865, 2.13, .225),
               (8, 6.29, .779, 1.94, .094), (8, 7.57, .893, 2.35, .205)),
        "LEDE": ((6.82, 7.82, .923, 2.64, .193), (7.05, 6.20, .904, 2.72, .225),
                 (8.72, 6.72, .900, 2.23, .094), (7.40, 9.40, .981, 2.58, .205)),
    },
    "LLaMA-2-13B": {
        "AR": ((None, None, None, 1.0, .200), (None, None, None, 1.0, .248),
               (None, None, None, 1.0, .157), (None, None, None, 1.0, .246)),
        "LS": ((8, 4, .743, 2.27, .199), (8, 4, .711, 2.12, .247), (8, 4, .808, 2.28, .156), (8, 4, .799, 2.25, .246)),
        "LITE": ((25.42, 11.73, .817, 1.39, .199), (26.58, 11.86, .780, 1.21, .246),
                 (24.53, 11.85, .868, 1.46, .156), (25.0, 11.85, .861, 1.27, .246)),
        "DV": ((15, 6.64, .958, 2.23, .200), (15, 6.25, .925, 2.11, .246),
               (15, 5.98, .915, 2.43, .153), (15, 5.64, .944, 2.13, .246)),
        "LEDE": ((9.36, 5.19, .928, 2.55, .199), (9.69, 4.63, .969, 2.57, .246),
                 (12.73, 8.06, .955, 2.56, .155), (10.70, 7.17, .969, 2.51, .246)),
    },
}

# Table 2, HumanEval: E, d, acceptance, speedup.
_TABLE_2: dict[str, dict[str, tuple[float | None, ...]]] = {
    "CodeLLaMA-7B": {
        "AR": (None, None, None, 1.0), "LS": (7, 6, .645, 1.94), "LITE": (20.24, 11.72, .838, 1.30),
        "DV": (8, 5.90, .790, 2.02), "LEDE": (8.35, 5.93, .748, 2.18),
    },
    "CodeLLaMA-34B": {
        "AR": (None, None, None, 1.0), "LS": (6, 12, .272, 1.61), "LITE": (30.79, 11.47, .826, 1.25),
        "DV": (12, 5.57, .765, 1.88),
    },
}

# Table 3, the ablation. Its full method is in no column of Table 1, nor their mean; `paper_row` finds Table 1's.
_TABLE_3: dict[str, tuple[float | None, ...]] = {
    "LEDE": (7.39, 7.84, .858, 2.70),
    "w/o Adaptive Drafting": (7.2, 6.0, .700, 2.04),
    "w/o Dynamic Exit": (6.0, 6.87, .690, 1.99),
}
# fmt: on


def _row(table: int, model: str, task: str | None, method: str, values: tuple[float | None, ...]) -> PaperRow:
    exit_layer, length, acceptance, speedup, *rouge = values
    assert speedup is not None
    return PaperRow(table, model, task, method, exit_layer, length, acceptance, speedup, rouge[0] if rouge else None)


ROWS = (
    *(
        _row(1, model, task, method, cell)
        for model, methods in _TABLE_1.items()
        for method, cells in methods.items()
        for task, cell in zip(TASKS, cells, strict=True)
    ),
    *(_row(2, m, "humaneval", method, cell) for m, methods in _TABLE_2.items() for method, cell in methods.items()),
    *(_row(3, "LLaMA-2-7B", None, method, cell) for method, cell in _TABLE_3.items()),
)
