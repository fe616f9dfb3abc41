"""Rounds on many texts at once: the batched engine, which plays networks and makes transitions from sweeps.

A round that starts at a position is laid out as a tree of decisions: the walk through C candidates, and behind each of
them a chain of up to K drafts. Node c*K of a round is the walk's decision at candidate c; node c*K + k is the decision
behind draft k + 1 at candidate c; END = C*K. A text, greedy or sampled with a seed, does not depend on the policy, so a
sweep tells for each node its state, and for each action what it commits, what it costs and which node is next.

Exact but for the states of real layers behind a round's first wrong draft, which here are those of the true text: the
cost of drafts that are lost anyway is off by a little. What layer 0 sees there is known (`simulate.rollouts`).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lede.decode.state import AcceptTrace, rounded
from lede.process import ACCEPT_DECAY, CONTINUE, EXIT
from lede.replay.reward import CONTINUE_PENALTY, REJECTED
from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.oracle import accepted_runs
from lede.simulate.texts import COPIED, SWEPT, Texts, Totals

LONGEST = MAX_ROWS - 1  # drafts per round that there are costs for
Float = NDArray[np.float64]
Exits = Callable[[NDArray[np.float32]], NDArray[np.bool_]]  # rows (N, F) of raw features to whether to exit (N,)


@dataclass(frozen=True)
class Prices:
    """Milliseconds of what a network's actions run, for C candidates; the first axis (2) is greedy, sampled text.

    first: (2, C) from the round's start to a candidate, the first that it looks at; past layer 0 if that has no guess.
    walk: (2, C) from a candidate on to the next; from the last to the full model, without a draft. draft: (2, C) to the
    state of a candidate's next draft. finish: (2, C, 32) verify 0…31 drafts; none: as from the last in `walk`. plain:
    (2,) a round without a walk. lookup: one query of the prompt lookup. layers: L, of the model.
    """

    first: Float
    walk: Float
    draft: Float
    finish: Float
    plain: Float
    lookup: float
    layers: int


def prices_of(costs: Costs, features: Collection[str], layers: tuple[int, ...]) -> Prices:
    """What a network with these features and candidates pays for: what it uses. `Costs.price`, part by part."""
    used = costs.for_policy(features, layers)
    missed = used.lookup if layers[0] == 0 else 0.0
    parts = []
    for c in (used, used.sampled()):
        steps = [c.step(before, layer) for before, layer in pairwise((0, *layers))]
        first = [steps[0], *(step + missed for step in steps[1:])]
        finish = [[c.finish(layer, drafts) for drafts in range(MAX_ROWS)] for layer in layers]
        walk = [*steps[1:], finish[-1][0]]
        parts.append((first, walk, [c.draft(layer) for layer in layers], finish, c.price((), 0)))
    first_, walk_, draft, finish_, plain = (np.array(part) for part in zip(*parts, strict=True))
    return Prices(first_, walk_, draft, finish_, plain, used.lookup, used.layers)


class Starts(NamedTuple):
    """B round starts. text, position: (B,) int64. accept: (B,) float32, the generation's `accept_trace` there."""

    text: Tensor
    position: Tensor
    accept: Tensor

    def at(self, index: Tensor) -> "Starts":
        return Starts(self.text[index], self.position[index], self.accept[index])


@dataclass(frozen=True)
class Rounds:
    """B rounds as trees; the action axis (2) is continue, exit.

    rows: (B, C, K, F) float32, features. tokens, milliseconds: (B, C, K, 2) float64, what an action commits and costs
    until the next decision. next: (B, C, K, 2) int64, its node. possible: (B, C, K, 2), whether it can be taken; where
    one of the two can not, the decision is forced. first: (B,) int64, the round's first node, END where nothing
    can be drafted. begin: (B, 2) float64, tokens and milliseconds before the first decision. most: (B,) drafts that
    there is room for.
    """

    rows: Tensor
    tokens: Tensor
    milliseconds: Tensor
    next: Tensor
    possible: Tensor
    first: Tensor
    begin: Tensor
    most: Tensor

    def expected(self, chance: Tensor, gains: Tensor, begin: Tensor) -> Tensor:
        """Expected sums (B, R) over a round in which node n exits with `chance` (B, C, K); differentiable in it.

        gains: (B, C, K, 2, R), what each action adds to each of the R sums; begin: (B, R), what they start with.
        """
        can_stop, can_exit = self.possible[..., CONTINUE], self.possible[..., EXIT]
        chance = torch.where(can_stop, torch.where(can_exit, chance, 0.0), 1.0)[..., None]
        stop, on = gains[..., CONTINUE, :], gains[..., EXIT, :]
        candidates, longest = chance.shape[1:3]
        # from the longest chain back: behind draft k + 1, stop or draft on
        ahead = stop[:, :, -1]
        for k in range(longest - 2, 0, -1):
            ahead = stop[:, :, k] + chance[:, :, k] * (on[:, :, k] + ahead - stop[:, :, k])
        leave = on[:, :, 0] + torch.where(self.most[:, None, None] > 1, ahead, 0.0)
        # from the last candidate back: draft from here, or walk on
        walk = torch.zeros_like(leave[:, 0])
        total = begin
        for c in range(candidates - 1, -1, -1):
            walk = walk + stop[:, c, 0]
            walk = walk + chance[:, c, 0] * (leave[:, c] - walk)
            total = torch.where((self.first == c * longest)[:, None], begin + walk, total)
        return total

    def visited(self, exits: Tensor) -> Tensor:
        """(B, C, K): the decisions that are reached if each node exits or not, `exits` (B, C, K) bool."""
        exits = torch.where(self.possible.all(-1), exits, self.possible[..., EXIT])
        candidates, longest = exits.shape[1:]
        out = torch.zeros_like(exits)
        walking = torch.zeros_like(self.first, dtype=torch.bool)
        for c in range(candidates):
            walking = walking | (self.first == c * longest)
            out[:, c, 0] = walking
            walking = walking & ~exits[:, c, 0]
        chain = (out[:, :, 0] & exits[:, :, 0])[..., None] & (exits[:, :, 1:-1].cumprod(-1) > 0)
        out[:, :, 1] = out[:, :, 0] & exits[:, :, 0]
        out[:, :, 2:] = chain
        return out & (torch.arange(longest) < self.most[:, None, None])


@dataclass(frozen=True)
class Rollout(Totals):
    """paper: (N,) sum of the paper's rewards over walks (§3.1.3, undiscounted). starts: of all rounds, R of them."""

    paper: Float
    starts: Starts


class Engine:
    """Rounds of some texts under policies of one set of features.

    features: names of the F inputs of a policy, as in `Columns.feature_names`; what they need is computed and charged,
    and nothing else. bypass: at the last candidate a walk may go on: no draft, one token of the full model's.
    max_drafts: per round.
    """

    def __init__(
        self, texts: Texts, costs: Costs, features: tuple[str, ...], bypass: bool = False, max_drafts: int = LONGEST
    ) -> None:
        self.texts, self.features, self.bypass, self.longest = texts, features, bypass, max_drafts
        self.prices = prices = prices_of(costs, features, texts.layers)
        tables = prices.first, prices.walk, prices.draft, prices.finish, prices.plain
        self._first, self._walk, self._draft, self._finish, self._plain = map(torch.from_numpy, tables)
        self._sampled = torch.from_numpy(texts.temperatures > 0)
        self._states, self._found = torch.from_numpy(texts.states), torch.from_numpy(texts.found)
        self._errs = torch.from_numpy(texts.copies.number >= 0)  # whether layer 0 drafts a wrong token there
        self.runs, self._lengths = torch.from_numpy(accepted_runs(texts)), torch.from_numpy(texts.lengths)
        self._k = torch.arange(max_drafts)
        #: Tokens per millisecond of plain decoding.
        self.plain_rate = float(self._lengths.sum() / (self._lengths * self._plain[self._sampled.long()]).sum())
        text, position = torch.nonzero(torch.arange(self.runs.shape[1]) < self._lengths[:, None], as_tuple=True)
        #: Every text and position at which a round may start, as if nothing had been drafted before.
        self.everywhere = Starts(text, position, torch.full((len(text),), AcceptTrace().value))

    def rates(self, rollout: Totals) -> Float:
        """(2,) tokens per millisecond of a rollout's greedy texts, and of its sampled ones; 0 where there are none."""
        sampled = self._sampled.numpy()
        spent = np.array([rollout.milliseconds[sampled == kind].sum() for kind in (0, 1)])
        tokens = np.array([rollout.tokens[sampled == kind].sum() for kind in (0, 1)])
        return tokens / np.where(spent > 0, spent, 1.0)

    def time_is_worth(self, rates: "float | Float", starts: Starts) -> Tensor:
        """(B,) the rate, of `rates` (2,) or one for all, at the texts of some rounds: of greedy or of sampled ones."""
        both = torch.from_numpy(np.array(np.broadcast_to(rates, 2), float))
        return both[self._sampled[starts.text].long()]

    def rounds(self, starts: Starts) -> Rounds:
        """Lay out the rounds that start there."""
        text, position, _ = starts
        candidates, longest, k = len(self.texts.layers), self.longest, self._k
        shape = (len(text), candidates, longest)
        most = torch.clamp(self._lengths[text] - position - 1, 0, longest)
        room = most[:, None, None]
        hit = (self.runs[text, position][..., None] > k).double()
        single, end = room <= 1, candidates * longest
        numbers = torch.arange(end).reshape(candidates, longest)

        tokens = torch.stack((hit + 1, hit), -1)
        tokens[:, :, 0, CONTINUE] = 0.0
        tokens[:, :, 0, EXIT] += single[:, :, 0]
        kind = self._sampled[text].long()
        begin, draft, finish = self._first[kind], self._draft[kind], self._finish[kind]
        stop, on = finish[..., 1 : longest + 1].clone(), draft[..., None].expand(shape).clone()
        stop[:, :, 0] = self._walk[kind]
        tokens[:, -1, 0, CONTINUE] = 1.0
        on[:, :, 0] = torch.where(single[:, :, 0], finish[..., 1], draft)

        goes_on = k + 1 < room  # whether there is a decision behind the next draft
        following = torch.full((*shape, 2), end)
        following[:, :-1, 0, CONTINUE] = numbers[1:, 0]
        following[..., EXIT] = torch.where(goes_on, numbers + 1, end)
        possible = torch.ones((*shape, 2), dtype=torch.bool)
        possible[..., EXIT] = goes_on | (k == 0)
        possible[:, -1, 0, CONTINUE] = self.bypass

        # a lookup without a guess is no candidate
        absent = ~self._found[text, position, 0]
        first = torch.where(absent, longest, 0)
        spent = torch.where(absent, begin[:, 1] if candidates > 1 else self.prices.lookup, begin[:, 0])
        nothing = (most == 0) | (first == end)
        spent = torch.where(nothing, torch.where(most == 0, 0.0, spent) + self._plain[kind], spent)
        return Rounds(
            rows=self._rows(starts),
            tokens=tokens,
            milliseconds=torch.stack((stop, on), -1),
            next=following,
            possible=possible,
            first=torch.where(nothing, end, first),
            begin=torch.stack((nothing.double(), spent), -1),
            most=most,
        )

    def _rows(self, starts: Starts) -> Tensor:
        """(B, C, K, F): the features of every decision."""
        text, start, accept = starts
        layers, k = self.texts.layers, self._k
        at = torch.minimum(start[:, None] + k, self._lengths[text][:, None] - 1)
        seen = self._states[text[:, None], at].permute(0, 2, 1, 3)  # (B, C, K, 12)
        if layers[0] == 0:
            self._go_astray(seen[:, 0], text, start)
        drawn, likeliest = (seen[..., SWEPT.index(name)] for name in ("token_logp", "top1_logp"))
        logp = torch.where(self._sampled[text][:, None, None], drawn, likeliest)
        known = dict(zip(SWEPT, seen.unbind(-1), strict=True)) | {
            # over committed tokens: a round's drafts leave it as it was
            "conf_trace": self._states[text, start][..., SWEPT.index("conf_trace")][..., None],
            "draft_logp": rounded((logp.cumsum(-1) - logp).double()),
            "accept_trace": rounded(accept.double())[:, None, None],
            "draft_index": k + 1,
            "phase": k > 0,
        }
        for name in self.features:
            if name.startswith("layer="):
                known[name] = torch.tensor([f"layer={layer}" == name for layer in layers])[:, None]
        out = torch.empty((len(text), len(layers), self.longest, len(self.features)))
        for column, name in enumerate(self.features):
            out[..., column] = known[name]
        return out

    def _go_astray(self, seen: Tensor, text: Tensor, start: Tensor) -> None:
        """Put into layer 0's states (B, K, 12) what it sees behind the first wrong draft of each round."""
        good = self.runs[text, start, 0]
        wrong = torch.minimum(start + good, self._lengths[text] - 1)
        behind = self._k - good[:, None]
        row, k = torch.nonzero((behind > 0) & self._errs[text, wrong][:, None], as_tuple=True)
        copied = self.texts.copies.seen(text[row].numpy(), wrong[row].numpy(), behind[row, k].numpy())
        seen[row, k, COPIED] = torch.from_numpy(copied)

    def gains(self, rounds: Rounds) -> tuple[Tensor, Tensor]:
        """What a rollout adds up, for `Rounds.expected`: (B, C, K, 2, 5) and (B, 5).

        Tokens, milliseconds, drafts, exit layer, and the paper's reward of a walk.
        """
        layers = torch.tensor(self.texts.layers, dtype=torch.float64)
        out = torch.zeros((*rounds.tokens.shape, 5), dtype=torch.float64)
        out[..., 0], out[..., 1] = rounds.tokens, rounds.milliseconds
        out[:, :, 1:, CONTINUE, 2] = (self._k[1:] + 1).double()
        out[:, :, 0, EXIT, 2] = (rounds.most == 1).double()[:, None]
        out[:, :, 0, EXIT, 3] = layers
        right = rounds.tokens[:, :, 0, EXIT] > (rounds.most <= 1).double()[:, None]
        saved = (self.prices.layers - layers) / self.prices.layers
        out[:, :, 0, EXIT, 4] = torch.where(right, 1.0, REJECTED) + saved
        out[:, :, 0, CONTINUE, 4] = CONTINUE_PENALTY
        out[:, -1, 0, CONTINUE, 4] += 1  # the full model's own token, as an exit at layer L
        return out, torch.nn.functional.pad(rounds.begin, (0, 3))

    def play(self, exits: Exits) -> Rollout:
        """Write all texts with a policy, given as a function of its features."""
        return self.rollout(
            lambda _, rounds: torch.from_numpy(exits(rounds.rows.flatten(0, 2).numpy())).reshape(rounds.rows.shape[:3])
        )

    @torch.no_grad()
    def rollout(self, choose: Callable[[Starts, Rounds], Tensor]) -> Rollout:
        """Write all texts, in step; `choose` gives the exits (B, C, K) bool of the rounds that are laid out."""
        count = len(self.texts.lengths)
        sums, rounds, drafting = np.zeros((count, 5)), np.zeros(count), np.zeros(count)
        position, starts = torch.zeros(count, dtype=torch.int64), []
        accepted, drafted = torch.full((count,), AcceptTrace().value).double(), torch.ones(count).double()
        while len(active := torch.nonzero(position < self._lengths)[:, 0]):
            starts.append(Starts(active, position[active], (accepted / drafted)[active].float()))
            laid_out = self.rounds(starts[-1])
            exits = choose(starts[-1], laid_out)
            sum_of = laid_out.expected(exits.double(), *self.gains(laid_out))
            tokens, made = sum_of[:, 0].round(), sum_of[:, 2].round()
            sums[active.numpy()] += sum_of.numpy()
            rounds[active.numpy()] += 1
            drafting[active.numpy()] += (made > 0).numpy()
            position[active] += tokens.long()
            # `AcceptTrace.add` in closed form: the accepted drafts come first
            decay, faded = ACCEPT_DECAY**made, ACCEPT_DECAY ** (made - tokens + 1)
            accepted[active] = decay * accepted[active] + (faded - decay) / (1 - ACCEPT_DECAY)
            drafted[active] = decay * drafted[active] + (1 - decay) / (1 - ACCEPT_DECAY)
        every = Starts(*(torch.cat(part) for part in zip(*starts, strict=True)))
        tokens_, milliseconds, made_, depth, paper = sums.T
        return Rollout(milliseconds, tokens_, rounds, drafting, depth, made_, tokens_ - rounds, paper, every)
