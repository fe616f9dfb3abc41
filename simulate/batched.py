"""Exact scores from sweeps: simulate a policy on texts whose every layer's draft at every position is known.

In greedy decoding the text does not depend on the policy, so a sweep answers what any policy would have seen and what
would have been accepted; nothing is estimated but the states of real layers behind a round's first wrong draft. Those
a policy would see given that wrong draft; here it sees the ones on the true text, so that only the cost of drafts that
are lost anyway is off by a little. What layer 0 sees there is known (`simulate.rollouts`).

All texts are walked in step, so that each decision of the policy is one product for all of them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lede.learn.offpolicy import Score
from lede.learn.rate import Static
from lede.replay.reward import CONTINUE_PENALTY, REJECTED
from lede.replay.schema import MAX_DRAFTS
from lede.simulate.costs import Costs
from lede.simulate.texts import LOOKUPS, SWEPT, Texts

ACCEPT_DECAY, ACCEPT_START = 0.85, 0.5  # of `accept_trace`, as the decoder keeps it

Float = NDArray[np.float64]


def simulate(
    texts: Texts,
    features: tuple[str, ...],
    exits: Callable[[NDArray[np.float32]], NDArray[np.bool_]],
    costs: Costs,
    rate: float | None,
    bypass: bool = False,
    max_drafts: int = MAX_DRAFTS,
) -> Score:
    """What the policy does on these texts. `exits`: rows (N, len(features)) → exit or not.

    bypass: whether a walk that does not exit at the last candidate drafts nothing, instead of exiting there anyway.
    max_drafts: a round; as many as there are costs for, at most.
    The reward of the Score is a round's: its mean tokens - `rate` * milliseconds, or without a rate the paper's over
    its walk (§3.1.3, undiscounted). Errors are standard errors over texts.
    """
    count, last = len(texts.lengths), len(texts.layers) - 1
    layers, every = np.array(texts.layers), np.arange(count)
    rows_of = _row_builder(texts, features)
    to_lookup = [i for i, name in enumerate(features) if name in SWEPT[LOOKUPS]]
    from_lookup = [SWEPT[LOOKUPS].index(features[i]) for i in to_lookup]
    position = np.zeros(count, np.int64)  # of the next token to commit
    candidate = np.zeros(count, np.int64)
    draft = np.zeros(count, np.int64)  # which draft the next decision is about; 0 in the walk
    good = np.zeros(count, np.int64)  # drafts of this round that will be committed
    whole = np.ones(count, bool)  # no draft of this round is wrong yet
    wrong = np.zeros(count, np.int64)  # position of its first wrong draft
    logp = np.zeros(count)
    accepted_trace, drafted_trace = np.full(count, ACCEPT_START), np.ones(count)
    spent, rounds, drafting, drafted, accepted, depth = (np.zeros(count) for _ in range(6))
    visit = np.array([[_visit(costs, a, b) for b in layers] for a in (0, *layers)])  # to candidate b from candidate a
    redraft = np.array([costs.draft(int(layer)) for layer in layers])
    traced = "conf_trace" in features  # which takes a pass over each verification's logits
    finish = np.array(
        [[costs.finish(int(layer), d, states=traced) for d in range(1, max_drafts + 1)] for layer in layers]
    )
    earned = np.zeros(count)  # the paper's reward
    bare_finish = costs.finish(texts.layers[-1], 0, states=traced) if bypass else 0.0
    plain = costs.plain() + (costs.trace if traced else 0.0) + costs.index  # what networks keep from round to round
    arrived = np.zeros(count, bool)  # whether the walk's current candidate was paid for

    while (active := position < texts.lengths).any():
        room = texts.lengths - position
        bare = active & (draft == 0) & (candidate == 0) & ~arrived & (room == 1)
        spent[bare] += plain
        rounds[bare] += 1
        position[bare] += 1
        active &= ~bare

        at = np.minimum(position + np.maximum(draft - 1, 0), texts.lengths - 1)
        walking = active & (draft == 0)
        # a lookup without a guess is no candidate; alone, it leaves a plain token
        absent = walking & ~texts.found[every, at, candidate]
        spent[absent] += costs.lookup
        alone = absent & (candidate == last)
        spent[alone] += plain
        rounds[alone] += 1
        position[alone] += 1
        candidate[absent & ~alone] += 1
        active &= ~absent
        walking &= ~absent

        new = walking & ~arrived
        before = np.where(candidate > 0, candidate, 0)  # row 0 of `visit` starts from nothing
        spent[new] += visit[before[new], candidate[new]]
        arrived[new] = True

        most = np.minimum(max_drafts, room - 1)
        trace = accepted_trace / drafted_trace
        choice = np.zeros(count, bool)
        index = np.flatnonzero(active)
        if len(index):
            k = np.maximum(draft[index], 1)
            rows = rows_of(index, position[index], at[index], candidate[index], k, logp[index], trace[index])
            astray = ~whole[index] & (layers[candidate[index]] == 0)
            lost = index[astray]
            seen = texts.copies.seen(lost, wrong[lost], at[lost] - wrong[lost])
            rows[np.ix_(astray, to_lookup)] = seen[:, from_lookup]
            choice[index] = exits(rows)
        # the walk
        passing = walking & (candidate == last) & ~choice & bypass
        spent[passing] += bare_finish
        earned[passing] += CONTINUE_PENALTY + 1
        rounds[passing] += 1
        position[passing] += 1
        candidate[passing] = 0
        arrived[passing] = False
        walking &= ~passing
        leaving = walking & (choice | (candidate == last))
        deeper = walking & ~leaving
        earned[deeper] += CONTINUE_PENALTY
        candidate[deeper] += 1
        arrived[deeper] = False
        # this decision's token becomes a draft: at the walk's exit, and at every decision of the draft phase
        drafting_now = active & (draft > 0)
        taken = leaving | drafting_now
        hit = texts.right[every, at, candidate] & (position + np.maximum(draft, 1) - 1 < texts.lengths)
        right = np.where(hit, 1.0, REJECTED) + (costs.layers - layers[candidate]) / costs.layers
        earned[leaving] += right[leaving]
        first = taken & whole & ~hit
        wrong[first] = at[first]
        whole[first] = False
        good[taken] += whole[taken]
        logp[taken] += texts.states[every, at, candidate, SWEPT.index("top1_logp")][taken]
        draft[leaving] = 1
        stopping = (leaving & (most <= 1)) | (drafting_now & (~choice | (draft >= most)))
        going = taken & ~stopping
        spent[going] += redraft[candidate[going]]
        draft[going] += 1
        if stopping.any():
            s = stopping
            spent[s] += finish[candidate[s], draft[s] - 1]
            rounds[s] += 1
            drafting[s] += 1
            drafted[s] += draft[s]
            accepted[s] += good[s]
            depth[s] += layers[candidate[s]]
            for number in range(1, int(draft[s].max()) + 1):
                told = s & (draft >= number)
                accepted_trace[told] = ACCEPT_DECAY * accepted_trace[told] + (good[told] >= number)
                drafted_trace[told] = ACCEPT_DECAY * drafted_trace[told] + 1
            position[s] += good[s] + 1
            candidate[s] = draft[s] = good[s] = 0
            logp[s] = 0
            whole[s] = True
            arrived[s] = False
    tokens = texts.lengths.astype(float)
    gained = earned if rate is None else tokens - rate * spent
    return _score(tokens, spent, gained, rounds, drafting, drafted, accepted, depth)


def _visit(costs: Costs, before: int, layer: int) -> float:
    """Reach candidate `layer` from candidate `before` (0: from the round's start, or from the lookup)."""
    return costs.visit0 if layer == 0 else costs.step(before, layer)


def _row_builder(texts: Texts, features: tuple[str, ...]) -> Callable[..., NDArray[np.float32]]:
    """A function that fills rows of the policy's features."""
    constant = "conf_trace"  # it is over committed tokens, so a round's drafts leave it as it was
    swept = [(i, SWEPT.index(name)) for i, name in enumerate(features) if name in SWEPT and name != constant]
    own = {name: i for i, name in enumerate(features) if name not in SWEPT or name == constant}
    to, source = [i for i, _ in swept], [j for _, j in swept]

    def rows(index: NDArray[np.int64], start: NDArray[np.int64], at: NDArray[np.int64], candidate: NDArray[np.int64],
             draft: NDArray[np.int64], logp: Float, trace: Float) -> NDArray[np.float32]:  # fmt: skip
        out = np.zeros((len(index), len(features)), np.float32)
        out[:, to] = texts.states[index, at, candidate][:, source]
        for name, column in own.items():
            if name == constant:
                out[:, column] = texts.states[index, start, candidate, SWEPT.index(name)]
            elif name == "draft_logp":
                out[:, column] = logp
            elif name == "accept_trace":
                out[:, column] = trace
            elif name == "draft_index":
                out[:, column] = draft
            elif name == "phase":
                out[:, column] = draft > 1
            else:  # layer=4
                out[:, column] = np.array(texts.layers)[candidate] == int(name.removeprefix("layer="))
        return out

    return rows


def _score(
    tokens: Float,
    spent: Float,
    gained: Float,
    rounds: Float,
    drafting: Float,
    drafted: Float,
    accepted: Float,
    depth: Float,
) -> Score:
    total = spent.sum()
    achieved = tokens.sum() / total
    spread = np.std(tokens - achieved * spent) * np.sqrt(len(tokens)) / total
    reward = gained.sum() / rounds.sum()
    return Score(
        reward=float(reward),
        reward_error=float(np.std(gained - reward * rounds) * np.sqrt(len(tokens)) / rounds.sum()),
        rate=float(achieved),
        rate_error=float(spread),
        exit_layer=float(depth.sum() / drafting.sum()) if drafting.any() else float("nan"),
        drafts=float(drafted.sum() / drafting.sum()) if drafting.any() else float("nan"),
        acceptance=float(accepted.sum() / drafted.sum()) if drafted.any() else float("nan"),
        effective=float(rounds.sum()),
    )


def best_static(texts: Texts, costs: Costs) -> Static:
    """The fixed (E, d) with the highest rate on these texts; with no drafts at all where none is faster."""
    rules = [static(texts, costs, layer, drafts) for layer in texts.layers for drafts in range(1, MAX_DRAFTS + 1)]
    return max([Static(0, 0, 1.0, 1 / costs.plain()), *rules], key=lambda rule: rule.rate)


def static(texts: Texts, costs: Costs, layer: int, drafts: int) -> Static:
    """What always drafting `drafts` tokens at `layer` gives on these texts.

    A fixed rule reads no features and decides nothing, so it pays for neither.
    """
    if drafts == 0:
        return Static(0, 0, 1.0, 1 / costs.plain())
    c = texts.layers.index(layer)
    spending = [costs.fixed(layer, count) for count in range(drafts + 1)]
    spent, rounds = 0.0, 0
    for n, length in enumerate(texts.lengths):
        t = 0
        while t < length:
            most = min(drafts, int(length) - t - 1)
            rounds += 1
            if most == 0 or not texts.found[n, t, c]:
                spent += spending[0]
                t += 1
                continue
            hits = texts.right[n, t : t + most, c]
            t += (most if hits.all() else int(hits.argmin())) + 1
            spent += spending[most]
    return Static(layer, drafts, float(texts.lengths.sum() / rounds), float(texts.lengths.sum() / spent))
