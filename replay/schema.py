"""Tables of a replay dataset: every column, its type, and how it is encoded on disk.

Columns are only ever added, never renamed or retyped; readers name the columns they want and ignore the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FORMAT = 1

#: What only sampled text has: 0 in greedy text.
OF_SAMPLED = ("token_logp", "noise", "noise_margin", "temperature")
#: The state of a decision, in the order of every feature matrix built from it.
STATE = (
    *("conf_topk", "entropy", "conf_trace", "margin", "top1_logp", "draft_logp", "accept_trace"),
    *("lookup_length", "lookup_agreement", "lookup_match"),
    *OF_SAMPLED,
)
PAPER_STATE = STATE[:3]
#: The features called `extended`, beside layer=… of every candidate. Choosing a layer and drafting on are different
#: questions: with the phase among its inputs, a network need not tell them apart by one draft more or less.
EXTENDED = (*STATE, "draft_index", "phase")
#: Without those that cost something: conf_trace, a pass over the logits of every verified row; and accept_trace, which
#: depends on earlier rounds.
FREE = tuple(name for name in EXTENDED if name not in ("conf_trace", "accept_trace"))
#: 0 at layer 0, which has no logits.
FROM_LOGITS = ("conf_topk", "entropy", "margin", "top1_logp", "draft_logp", "token_logp", "noise_margin")
#: What a sweep has of the state: all that does not depend on what was drafted before.
SWEPT = tuple(name for name in STATE if name not in ("draft_logp", "accept_trace"))
NEXT_STATE = tuple(f"next_{name}" for name in STATE)

#: Key of the file metadata that lists the parts (as flushed by writers) a file holds; see `replay.parts`.
PARTS_KEY = b"lede.parts"


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, dtype, nullable=False) for name, dtype in columns.items()])


_TOKENS = pa.list_(pa.field("element", pa.int32(), nullable=False))

TRANSITIONS = _schema(
    episode=pa.uint32(),
    round=pa.uint32(),
    chain=pa.uint32(),
    step=pa.uint16(),
    position=pa.uint32(),
    phase=pa.uint8(),
    layer=pa.uint8(),
    draft_index=pa.uint8(),
    forced=pa.bool_(),
    **dict.fromkeys(STATE, pa.float32()),
    action=pa.uint8(),
    propensity=pa.float32(),
    reward=pa.float32(),
    **dict.fromkeys(NEXT_STATE, pa.float32()),
    terminal=pa.bool_(),
    truncated=pa.bool_(),
    draft_token=pa.int32(),
    target_token=pa.int32(),
    accepted=pa.bool_(),
)
EPISODES = _schema(
    episode=pa.uint32(),
    prompt_id=pa.string(),
    task=pa.string(),
    prompt_tokens=_TOKENS,
    output_tokens=_TOKENS,
    seed=pa.uint64(),
    rounds=pa.uint32(),
    drafted=pa.uint32(),
    accepted=pa.uint32(),
    seconds=pa.float64(),
    finish=pa.string(),
    split=pa.string(),
    group=pa.string(),
    temperature=pa.float64(),
    top_k=pa.uint32(),
    top_p=pa.float64(),
    options=pa.string(),
)
SWEEPS = _schema(
    episode=pa.uint32(),
    position=pa.uint32(),
    layer=pa.uint8(),
    **dict.fromkeys(SWEPT, pa.float32()),
    draft_token=pa.int32(),
    target_token=pa.int32(),
)

#: Tables in the order in which a part is published: the transitions file is the commit of its part.
TABLES = {"episodes": EPISODES, "sweeps": SWEEPS, "transitions": TRANSITIONS}
#: Columns that files of older versions lack, with what is read from those.
ADDED: dict[str, Any] = {"split": "", "group": "", "temperature": 0.0, "top_k": 0, "top_p": 1.0, "options": ""}
ADDED |= dict.fromkeys((*OF_SAMPLED, *(f"next_{name}" for name in OF_SAMPLED)), 0.0)
#: Columns by which the rows of a file are sorted; together they are unique in a run.
SORT_KEYS = {
    "episodes": ("episode",),
    "sweeps": ("episode", "position", "layer"),
    "transitions": ("episode", "round", "chain", "step"),
}
_FEW = ("conf_trace", "accept_trace", "lookup_length", "lookup_agreement", "lookup_match", "temperature")
#: Floats of few values.
FEW = {*_FEW, *(f"next_{name}" for name in _FEW), "reward", "propensity"}
#: Columns that the writer derives from the others.
DERIVED = ("reward", *NEXT_STATE)


def last_rows(*keys: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) whether the next row differs in any of the keys, as after the last row of a round."""
    last = np.zeros(len(keys[0]), bool)
    last[-1:] = True
    for key in keys:
        last[:-1] |= key[1:] != key[:-1]
    return last


def ascending(keys: Sequence[NDArray[Any]], *, strict: bool = True) -> NDArray[np.bool_]:
    """(N - 1,) whether a row's keys, the first one first, are less than the next row's, or (not strict) equal."""
    less = np.zeros(max(len(keys[0]) - 1, 0), bool)
    equal = ~less
    for key in keys:
        less |= equal & (key[1:] > key[:-1])
        equal &= key[1:] == key[:-1]
    return less if strict else less | equal


def is_sorted(rows: pa.Table, table: str, *, strict: bool) -> bool:
    """Whether rows are sorted by `SORT_KEYS`; `strict`: and no two have the same key."""
    return bool(ascending([rows[key].to_numpy() for key in SORT_KEYS[table]], strict=strict).all())


def parquet_options(schema: pa.Schema) -> dict[str, object]:
    """Keyword arguments of `pyarrow.parquet.write_table`: zstd, a checksum on every page, floats byte-stream-split.

    Those of few values, as a round has one or there are only so many, are smaller with a dictionary.
    """
    floats = [field.name for field in schema if pa.types.is_floating(field.type) and field.name not in FEW]
    leaves = [f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in schema]
    return {
        "compression": "zstd",
        "compression_level": 3,  # an eighth more time than 1, and 3% less space; 6 doubles the time for 4%
        "use_byte_stream_split": floats,
        "use_dictionary": [leaf for leaf in leaves if leaf not in floats],
        "write_page_checksum": True,
        "row_group_size": 2**31 - 1,  # one row group a file
    }
