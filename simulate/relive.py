"""Other candidates from the same sweeps: what they would have drafted, and decisions as exploration would log them.

A sweep holds every swept layer at every position, so candidates are a choice among them; and layer 0 needs no sweep at
all, because what the lookup drafts is a function of the tokens. Transitions that were logged without a candidate cannot
be given it; `explored` draws new ones from the texts instead.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.learn.errors import LearnError
from lede.replay.errors import DatasetError
from lede.replay.reader import Columns, Dataset
from lede.replay.schema import CONTINUE, DRAFT, EXIT, EXTENDED, MAX_DRAFTS, WALK
from lede.simulate.batched import ACCEPT_DECAY, ACCEPT_START
from lede.simulate.texts import LOOKUPS, SWEPT, Texts, read_texts

DRAFT_CHANCE = 2 / 3  # as the collector's uniform exploration


def texts_at(dataset: Dataset, episodes: NDArray[np.int64], candidates: tuple[int, ...]) -> Texts | None:
    """The sweeps of these episodes at these candidates; None unless all of them were swept.

    Raises LearnError if a candidate other than layer 0 was not swept.
    """
    try:
        texts = read_texts(dataset, episodes, candidates)
    except DatasetError as error:
        raise LearnError(str(error)) from None
    return texts if len(texts.numbers) == len(np.unique(episodes)) else None


def explored(texts: Texts, numbers: NDArray[np.int64], seed: int = 0) -> Columns:
    """Decisions of the collector's uniform exploration on these texts: the `round` horizon, `extended` features.

    numbers: (N,) the texts' episode numbers. Each round leaves its walk at every candidate equally often and drafts on
    with probability 2/3. As in exact replay, behind a round's first wrong draft a real layer's states are the true
    text's.
    Rewards are zeros: see `learn.rewards`.
    """
    rows: list[dict[str, Any]] = []
    for n, number in enumerate(numbers.tolist()):
        rng = np.random.default_rng((seed, number & 0xFFFFFFFF, number >> 32))
        _Explorer(texts, n, number, rng, rows).run()
    if not rows:
        raise LearnError("the texts are too short to draft on; collect longer ones")
    column = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    starts = np.append(np.flatnonzero(column["step"] == 0), len(rows)).astype(np.int64)
    terminals = np.zeros(len(rows), bool)
    terminals[starts[1:] - 1] = ~column["truncated"][starts[1:] - 1]
    features = [column[name] for name in EXTENDED]
    features += [column["layer"] == layer for layer in texts.layers]
    return Columns(
        observations=np.stack(features, axis=1).astype(np.float32),
        actions=column["action"].astype(np.uint8),
        rewards=np.zeros(len(rows), np.float32),
        terminals=terminals,
        chain_starts=starts,
        truncated=column["truncated"][starts[1:] - 1],
        propensities=column["propensity"].astype(np.float32),
        episodes=column["number"],
        feature_names=(*EXTENDED, *(f"layer={layer}" for layer in texts.layers)),
        layers=texts.layers,
        raw={name: column[name] for name in
             ("phase", "layer", "draft_index", "forced", "accepted", "draft_token", "target_token", "round")},
    )  # fmt: skip


class _Explorer:
    """One text being explored; appends a dictionary a decision to `rows`."""

    def __init__(self, texts: Texts, n: int, number: int, rng: np.random.Generator, rows: list[dict[str, Any]]) -> None:
        self.texts, self.n, self.number, self.rng, self.rows = texts, n, number, rng, rows
        self.accepted, self.drafted = ACCEPT_START, 1.0

    def run(self) -> None:
        position, number, length = 0, 0, int(self.texts.lengths[self.n])
        while position < length:
            position += self._round(position, number, min(MAX_DRAFTS, length - position - 1)) + 1
            number += 1

    def _round(self, start: int, number: int, most: int) -> int:
        """Log one round from `start`; the drafts it commits."""
        there = [c for c in range(len(self.texts.layers)) if self.texts.found[self.n, start, c]]
        if most == 0 or not there:
            return 0
        step = 0
        for left, c in zip(range(len(there), 0, -1), there, strict=True):
            exits = left == 1 or self.rng.random() < 1 / left
            chance = 1 / left if exits else 1 - 1 / left
            self._log(number, step, start, 0, c, exits, chance, forced=left == 1)
            step += 1
            if exits:
                break
        logp, drafts, good = 0.0, 1, int(self.texts.right[self.n, start, c])
        while drafts < most:
            logp += float(self.texts.states[self.n, start + drafts - 1, c, SWEPT.index("top1_logp")])
            wrong = start + good if good < drafts else None  # where this round's first wrong draft is
            drafts += 1
            right = wrong is None and bool(self.texts.right[self.n, start + drafts - 1, c])
            good += right
            forced = drafts == most
            exits = not forced and self.rng.random() < DRAFT_CHANCE
            chance = 1.0 if forced else DRAFT_CHANCE if exits else 1 - DRAFT_CHANCE
            self._log(number, step, start, drafts, c, exits, chance, forced, right, logp, wrong)
            step += 1
            if not exits:
                break
        self.rows[-1]["truncated"] = drafts == most < MAX_DRAFTS  # by the text's end, which no rule chose
        for k in range(1, drafts + 1):
            self.accepted = ACCEPT_DECAY * self.accepted + (good >= k)
            self.drafted = ACCEPT_DECAY * self.drafted + 1
        return good

    def _log(self, number: int, step: int, start: int, draft: int, c: int, exits: bool, chance: float, forced: bool,
             accepted: bool | None = None, logp: float = 0.0, wrong: int | None = None) -> None:  # fmt: skip
        texts, n = self.texts, self.n
        at = start + max(draft - 1, 0)
        state = dict(zip(SWEPT, texts.states[n, at, c].tolist(), strict=True))
        token = int(texts.drafts[n, at, c])
        if wrong is not None and texts.layers[c] == 0:
            copied = texts.copies.number[n, wrong], at - wrong - 1
            state |= dict(zip(SWEPT[LOOKUPS], texts.copies.states[copied].tolist(), strict=True))
            token = int(texts.copies.tokens[copied])
        state["conf_trace"] = float(texts.states[n, start, c, SWEPT.index("conf_trace")])
        self.rows.append(state | {
            "draft_logp": logp,
            "accept_trace": self.accepted / self.drafted,
            "number": self.number,
            "round": number,
            "step": step,
            "phase": DRAFT if draft else WALK,
            "layer": texts.layers[c],
            "draft_index": max(draft, 1),
            "forced": forced,
            "action": EXIT if exits else CONTINUE,
            "propensity": chance,
            "accepted": bool(texts.right[n, at, c]) if accepted is None else accepted,
            "draft_token": token,
            "target_token": int(texts.targets[n, at]),
            "truncated": False,
        })  # fmt: skip
