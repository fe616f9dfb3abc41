"""Learn a policy from sweeps, with full information: what every action would have led to is known, not estimated.

At the start of a round everything that a policy could do is laid out: the walk through the candidates, and each one's
chain of drafts, with the state that would be seen at every decision and the number of drafts that would be accepted.
For a policy that exits with a probability at each decision, the round's expected tokens - rate * milliseconds is then
a sum over that small tree, exact and differentiable (`RoundTrees.value`), and the network is fitted by ascending it:
no sampled actions, no bootstrapped targets, no importance weights. The rate is that of the policy so far, as in
Dinkelbach's method, and most rounds start where the policy so far starts them.

The features are those that do not depend on earlier rounds' drafts (all of the extended set but `accept_trace`), so
that a round's tree depends on the text alone. As elsewhere (`simulate.batched`), the states of a real layer behind a
wrong draft are those of the true text; layer 0's are known. The two outputs are not values: their difference is the
log-odds of exiting.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lede.learn.errors import LearnError
from lede.learn.offpolicy import Score
from lede.learn.split import scaling
from lede.replay.schema import EXTENDED, MAX_DRAFTS
from lede.serve.policy import Policy
from lede.simulate.batched import simulate
from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.oracle import accepted_runs
from lede.simulate.texts import LOOKUPS, SWEPT, Texts

# All of the extended set, and layer=… of every candidate, but accept_trace, and conf_trace, which takes a pass over
# each verification's logits and brings less than that.
FEATURES = tuple(name for name in EXTENDED if name not in ("accept_trace", "conf_trace"))
LOOKS_FIRST = 1.0  # log-odds of exiting before training: drafts must be long enough for their ends to be seen


@dataclass(frozen=True)
class FittedConfig:
    """How to fit. The defaults take about a minute for 200 texts of 256 tokens.

    hidden: widths of the hidden layers. steps: gradient steps, `batch` round starts each. explore: share of the starts
    drawn from anywhere in the texts, the others from where the policy so far starts its rounds. refresh: steps between
    two looks at what the policy achieves. bypass: a walk may go on past its last candidate and draft nothing; the
    policy's layers then end with the model's last. max_drafts: a round; sweeps tell of rounds longer than were ever
    tried, up to the 31 that costs are measured for.
    """

    hidden: tuple[int, ...] = (32, 32)
    steps: int = 400
    batch: int = 512
    learning_rate: float = 1e-2
    explore: float = 0.3
    refresh: int = 50
    bypass: bool = False
    max_drafts: int = MAX_DRAFTS
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1 or min(self.steps, self.batch, self.refresh) < 1:
            raise LearnError("hidden widths, steps, batch and refresh must be at least 1")
        if not 2 <= self.max_drafts < MAX_ROWS:
            raise LearnError(f"max_drafts must be 2 to {MAX_ROWS - 1}, not {self.max_drafts}")
        if not 0 <= self.explore <= 1 or self.learning_rate <= 0:
            raise LearnError("explore must be between 0 and 1 and learning_rate positive")


@dataclass(frozen=True)
class FittedResult:
    """policy: the best on the validation texts. score: its exact score there. history: (steps, training rate,
    validation rate) at every refresh, in tokens a millisecond. kept: after how many steps."""

    policy: Policy
    score: Score
    history: tuple[tuple[int, float, float], ...]
    kept: int


class RoundTrees:
    """Texts of which any round can be laid out as a tree of decisions; N texts, C candidates, K drafts at most.

    names: of the F features of a decision. layers: the policy's candidates, the model's last among them with a bypass.
    """

    def __init__(self, texts: Texts, costs: Costs, bypass: bool = False, max_drafts: int = MAX_DRAFTS) -> None:
        layers = texts.layers
        self.texts, self.costs, self.bypass, self.longest = texts, costs, bypass, max_drafts
        self.layers = (*layers, costs.layers) if bypass else layers
        self.names = (*FEATURES, *(f"layer={layer}" for layer in self.layers))
        self._reach = [costs.visit0 if b == 0 else costs.step(a, b) for a, b in pairwise((0, *layers))]
        finish = [[costs.finish(layer, d, states=False) for d in range(1, self.longest + 1)] for layer in layers]
        self._draft = torch.tensor([costs.draft(layer) for layer in layers], dtype=torch.float64)
        self._finish = torch.tensor(finish, dtype=torch.float64)
        self._states, self._found = torch.from_numpy(texts.states), torch.from_numpy(texts.found)
        self._errs = torch.from_numpy(texts.copies.number >= 0)  # whether layer 0 drafts a wrong token there
        self._runs, self._lengths = torch.from_numpy(accepted_runs(texts)), torch.from_numpy(texts.lengths)

    def rows(self, text: Tensor, start: Tensor) -> Tensor:
        """(B, C, K, F): the features of every decision of the rounds that start at positions `start` (B,)."""
        texts, count = self.texts, len(text)
        at = torch.minimum(start[:, None] + torch.arange(self.longest), self._lengths[text][:, None] - 1)
        seen = self._states[text[:, None], at].permute(0, 2, 1, 3)  # (B, C, K, 8)
        if texts.layers[0] == 0:
            self._go_astray(seen[:, 0], text, start)
        shape = (count, len(texts.layers), self.longest)
        logp = seen[..., SWEPT.index("top1_logp")]
        own = {
            "draft_logp": logp.cumsum(-1) - logp,
            "draft_index": torch.arange(1, self.longest + 1, dtype=torch.float32).expand(shape),
            "phase": (torch.arange(self.longest) > 0).float().expand(shape),
        }
        for name in self.names[len(FEATURES) :]:
            here = torch.tensor([f"layer={layer}" == name for layer in texts.layers], dtype=torch.float32)
            own[name] = here[None, :, None].expand(shape)
        return torch.stack([own[name] if name in own else seen[..., SWEPT.index(name)] for name in self.names], -1)

    def _go_astray(self, seen: Tensor, text: Tensor, start: Tensor) -> None:
        """Put into layer 0's states (B, K, 8) what it sees behind the first wrong draft of each round."""
        good = self._runs[text, start, 0]
        wrong = torch.minimum(start + good, self._lengths[text] - 1)
        behind = torch.arange(self.longest) - good[:, None]
        row, k = torch.nonzero((behind > 0) & self._errs[text, wrong][:, None], as_tuple=True)
        copied = self.texts.copies.seen(text[row].numpy(), wrong[row].numpy(), behind[row, k].numpy())
        seen[row, k, LOOKUPS] = torch.from_numpy(copied)

    def value(self, chance: Tensor, text: Tensor, start: Tensor, rate: float) -> Tensor:
        """Expected tokens - `rate` * milliseconds (B,) of a round in which each decision exits with `chance` (B, C, K).

        The first decision of a candidate is its walk's, the k-th is behind its k-th draft: exit drafts on.
        """
        costs, last = self.costs, len(self.texts.layers) - 1
        most = torch.clamp(self._lengths[text] - start - 1, 0, self.longest)  # drafts that there is room for
        wide = most[:, None].expand(-1, last + 1)
        drafts = torch.arange(1, self.longest + 1)
        committed = torch.minimum(self._runs[text, start][..., None], drafts) + 1
        verified = committed - rate * self._finish  # (B, C, K): verify so many drafts
        # from the longest chain back: behind draft k, stop or draft on
        ahead = verified[..., -1]
        for k in range(self.longest - 1, 1, -1):
            stop, on = verified[..., k - 1], ahead - rate * self._draft
            ahead = torch.where(wide <= k, stop, stop + chance[..., k - 1] * (on - stop))
        leave = torch.where(wide >= 2, ahead - rate * self._draft, verified[..., 0])
        # from the last candidate back: draft from here, or walk on
        plain = 1 - rate * (costs.plain() + costs.index)
        walk = torch.full_like(leave[:, 0], plain)
        if self.bypass:
            walk = torch.full_like(walk, 1 - rate * costs.finish(self.texts.layers[last], 0, states=False))
        for c in range(last, -1, -1):
            on, forced = walk, c == last and not self.bypass
            walk = leave[:, c] if forced else on + chance[:, c, 0] * (leave[:, c] - on)
            walk = walk - rate * self._reach[c]
            if self.texts.layers[c] == 0:  # a lookup without a guess is no candidate
                walk = torch.where(self._found[text, start, c], walk, on - rate * costs.lookup)
        return torch.where(most > 0, walk, torch.full_like(walk, plain))

    @torch.no_grad()
    def play(self, policy: Policy) -> tuple[float, NDArray[np.float64], NDArray[np.int64]]:
        """Write all texts with the policy: tokens a millisecond, milliseconds a text (N,), its round starts (R, 2)."""
        count = len(self.texts.lengths)
        position, spent, starts = np.zeros(count, np.int64), np.zeros(count), []
        while len(active := np.flatnonzero(position < self.texts.lengths)):
            text, start = torch.from_numpy(active), torch.from_numpy(position[active])
            starts.append(np.stack([active, position[active]], 1))
            rows = self.rows(text, start)
            exits = policy.exits(rows.reshape(-1, rows.shape[-1]).numpy()).reshape(rows.shape[:-1])
            chance = torch.from_numpy(exits).double()
            tokens = self.value(chance, text, start, 0.0)
            spent[active] += (tokens - self.value(chance, text, start, 1.0)).numpy()
            position[active] += np.rint(tokens.numpy()).astype(np.int64)
        return float(self.texts.lengths.sum() / spent.sum()), spent, np.concatenate(starts)


def fit(
    train: Texts,
    validation: Texts,
    costs: Costs,
    config: FittedConfig | None = None,
    watch: Callable[[int, Policy, float], None] | None = None,
) -> FittedResult:
    """Fit a policy on the training texts; of the networks on the way, keep the fastest on the validation texts.

    watch: called at every refresh with the steps done, the policy so far, and its rate on the training texts.
    Both must have the same candidate layers, one or more texts each, else LearnError. The same arguments give the
    same weights.
    """
    config = config or FittedConfig()
    if train.layers != validation.layers:
        raise LearnError(f"training texts are swept at {train.layers}, validation texts at {validation.layers}")
    if not len(train.lengths) or not len(validation.lengths):
        raise LearnError("there are no swept texts to fit to, or none to validate on; collect more episodes")
    trees, held = (RoundTrees(texts, costs, config.bypass, config.max_drafts) for texts in (train, validation))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for matrices this small more only get in the way
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            return _fit(trees, held, config, watch or (lambda *_: None))
    finally:
        torch.set_num_threads(threads)


def _fit(
    trees: RoundTrees, held: RoundTrees, config: FittedConfig, watch: Callable[[int, Policy, float], None]
) -> FittedResult:
    rng = np.random.default_rng(config.seed)
    lengths = trees.texts.lengths
    everywhere = np.argwhere(np.arange(trees.texts.right.shape[1]) < lengths[:, None])
    network = _network(len(trees.names), config.hidden)
    sample = trees.rows(*_tensors(everywhere[rng.integers(0, len(everywhere), 2000)])).reshape(-1, len(trees.names))
    mean, scale = scaling(sample.numpy())
    optimiser = torch.optim.Adam(network.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    history: list[tuple[int, float, float]] = []
    best = (0.0, 0, _export(network, trees, mean, scale))
    for step in range(config.steps + 1):
        if step % config.refresh == 0 or step == config.steps:
            policy = _export(network, trees, mean, scale)
            achieved, _, own = trees.play(policy)
            rate = max(achieved, 1 / trees.costs.plain())
            history.append((step, achieved, held.play(policy)[0]))
            watch(step, policy, achieved)
            best = max(best, (history[-1][2], step, policy), key=lambda found: found[0])
        if step == config.steps:
            break
        far = int(config.batch * config.explore)
        drawn = (own[rng.integers(0, len(own), config.batch - far)], everywhere[rng.integers(0, len(everywhere), far)])
        text, start = _tensors(np.concatenate(drawn))
        outputs = network((trees.rows(text, start) - torch.from_numpy(mean)) / torch.from_numpy(scale))
        chance = torch.sigmoid(outputs[..., 1] - outputs[..., 0])
        gain = trees.value(chance.double(), text, start, rate).mean()
        optimiser.zero_grad()
        (-gain).backward()
        optimiser.step()
        schedule.step()
    _, kept, policy = best
    texts, costs = held.texts, held.costs
    score = simulate(texts, policy.features, policy.exits, costs, rate, config.bypass, config.max_drafts)
    return FittedResult(policy, score, tuple(history), kept)


def _network(inputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """A ReLU network of two outputs, continue and exit."""
    parts: list[nn.Module] = []
    for before, after in pairwise((inputs, *hidden)):
        parts += [nn.Linear(before, after), nn.ReLU()]
    last = nn.Linear(hidden[-1], 2)
    nn.init.constant_(last.bias, LOOKS_FIRST / 2)
    with torch.no_grad():
        last.bias[0] *= -1
    return nn.Sequential(*parts, last)


def _tensors(starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Texts and positions (R,) of starts (R, 2)."""
    return torch.from_numpy(starts[:, 0].copy()), torch.from_numpy(starts[:, 1].copy())


def _export(network: nn.Sequential, trees: RoundTrees, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> Policy:
    """The network as the artefact that is served."""
    weights = tuple(
        (part.weight.detach().numpy().copy(), part.bias.detach().numpy().copy())
        for part in network
        if isinstance(part, nn.Linear)
    )
    return Policy(trees.names, trees.layers, weights, mean, scale)
