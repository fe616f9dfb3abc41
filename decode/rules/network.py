"""A learned network as a question: State in, exit or not out.

Between two decisions megabytes of weights have gone through the caches, so every call of numpy is several times as dear
as in a loop of its own: a decision took 11 µs, its sums less than one. Where there is a C compiler the whole network is
one call (decide.c), at 4 µs; elsewhere it is `values`. The two sum in different orders, so that a near tie may fall
either way; each gives the same answer to the same row at any time.
"""

import ctypes
from collections.abc import Callable
from operator import itemgetter

import numpy as np

from lede.decode.backends.compile import library
from lede.decode.state import State
from lede.policy import Policy

WIDEST = 256  # units of a layer, in decide.c


def decider(policy: Policy) -> Callable[[State], bool]:
    """A function that says whether exit is worth more than continue in a State."""
    compiled = library("decide")
    if compiled is not None and max(w.shape[1] for w, _ in policy.matrices) <= WIDEST:
        return _compiled(compiled, policy)
    row, values = feature_row(policy.features, policy.layers), policy.values

    def decide(state: State) -> bool:
        go_on, exit_ = values(row(state)).tolist()
        return bool(exit_ > go_on)

    return decide


def _compiled(compiled: ctypes.CDLL, policy: Policy) -> Callable[[State], bool]:
    matrices, call = policy.matrices, compiled.lede_decide
    call.restype, call.argtypes = ctypes.c_int32, (ctypes.c_void_p,) * 3 + (ctypes.c_int32,)
    weights = np.concatenate([np.concatenate((w.ravel(), b)) for w, b in matrices]).astype(np.float32)
    sizes = np.array([len(policy.features), *(w.shape[1] for w, _ in matrices)], np.int32)
    fill, rows = feature_fill(policy.features, policy.layers)
    pointers = {layer: row.ctypes.data for layer, row in rows.items()}
    numbers = weights.ctypes.data, sizes.ctypes.data, len(matrices)

    def decide(state: State, kept: object = (weights, sizes, rows)) -> bool:  # `kept`: what the pointers point into
        fill(state)
        return call(pointers[state.layer], *numbers) == 1

    return decide


def feature_row(features: tuple[str, ...], layers: tuple[int, ...]) -> Callable[[State], np.ndarray]:
    """A function from a State to the row of numbers that a policy with these feature names takes.

    Names are State fields, or `layer=4`: 1 at that layer, else 0. Raises KeyError for any other name.
    """
    fill, rows = feature_fill(features, layers)

    def row(state: State) -> np.ndarray:
        fill(state)
        return rows[state.layer].copy()

    return row


def feature_fill(
    features: tuple[str, ...], layers: tuple[int, ...]
) -> tuple[Callable[[State], None], dict[int, np.ndarray]]:
    """As `feature_row`, but into rows that are used again and again: one for each layer, (len(features),) float32."""
    plain = [name for name in features if not name.startswith("layer=")]
    unknown = [name for name in plain if name not in State._fields]
    if unknown:
        raise KeyError(f"unknown features: {', '.join(unknown)}")
    rows = {layer: np.array([name == f"layer={layer}" for name in features], np.float32) for layer in layers}
    where = [features.index(name) for name in plain]
    # a slice, which is faster, where they stand first, as in every policy of ours
    columns = slice(len(where)) if where == list(range(len(where))) else np.array(where)
    if not plain:
        return (lambda state: None), rows
    take = itemgetter(*[State._fields.index(name) for name in plain])  # of one column the number, else a tuple

    def fill(state: State) -> None:
        rows[state.layer][columns] = take(state)

    return fill, rows
