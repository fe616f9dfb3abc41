"""What the operations of speculative decoding cost on one device: the measured base of the time reward."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lede.decode.device import device_facts
from lede.replay.errors import DatasetError

if TYPE_CHECKING:
    from lede.decode.rules import ExitRule
    from lede.replay.reader import Dataset

MAX_ROWS = 32  # the last committed token and up to 31 drafts
TRUSTED = 0.15  # the largest error of predicted speedups with which costs are taken at their word


@dataclass(frozen=True)
class Costs:
    """Milliseconds of each operation. Layers are counted 1..`layers`; layer 0 is the prompt lookup.

    What runs layers takes longer the more positions the cache holds. All costs are those at `context` positions;
    methods that take a `position` give those at another (None: at `context`).

    As measured they are the costs of a rule that looks at everything. `for_policy` and `for_rule` give those of a rule
    that looks at less: what it does not use is free there. Every engine and every reward takes its costs from these.
    """

    layers: int
    layer: tuple[float, ...]  # one layer over 1, 2, …, 32 rows; over one as the drafts behind a round's first see it
    head: tuple[float, ...]  # final norm and head over as many
    features: float  # the state of one row, from its logits
    decision: float  # one call of the exit rule
    lookup: float  # one query of the prompt-lookup index, and one push to it
    round: float  # what a round of drafts costs whatever it does
    context: int = 0  # cached positions at which the above was measured
    cache: float = 0.0  # what each cached position more adds to a layer's pass, however many rows it has
    attention: float = 0.0  # and what it adds for each of its rows
    prefill: float = 0.0  # one token of a prompt, all layers
    autoregressive: float = 0.0  # one token of plain decoding; 0: as many layers over one row, and a head
    index: float = 0.0  # a round's keeping of the lookup index, for rules that use it
    trace: float = 0.0  # a round's keeping of what states remember, and its first look, for rules that see states
    error: float = 0.0  # of predicted speedups of rounds held out of the fit; 0: not known
    interrupted: float = 0.0  # share of the measured rounds during which another process took a core
    queries: float = 1.0  # of the lookup index for each state at a real layer
    moved: float = 0.0  # by how much what processes took from rounds changed speedups, over all of them; 0: not known
    speak: float = 0.0  # an exit layer's output to a draft: exit head, draft vocabulary; 0: as the head over one row
    choose: float = 0.0  # of sampled text: a token of the full model's, from its logits
    choose_draft: float = 0.0  # and a draft's, from those of a real layer

    def __post_init__(self) -> None:
        if not self.speak:
            object.__setattr__(self, "speak", self.head[0])
        if not self.autoregressive:
            object.__setattr__(self, "autoregressive", self.layers * self.layer[0] + self.head[0])

    @property
    def doubt(self) -> str | None:
        """Why these costs cannot be trusted, in a line; None where nothing speaks against them."""
        reasons = []
        if self.error > TRUSTED:
            reasons.append(f"they are off by {self.error:.0%} for rounds held out of their fit")
        if self.moved > TRUSTED:
            words = f"other work, which interrupted {self.interrupted:.0%} of the rounds, changed speedups"
            reasons.append(f"{words} by {self.moved:.0%}")
        if not reasons:
            return None
        return f"these costs cannot be trusted: {' and '.join(reasons)}; measure again when the machine is idle"

    def for_policy(self, features: Collection[str], layers: Sequence[int]) -> Costs:
        """The costs of a network with these features (names as in `State`) and candidate layers."""
        lookup = any(name.startswith("lookup_") for name in features)
        return self._used(states=True, trace="conf_trace" in features, lookup=lookup, copies=0 in layers)

    def for_rule(self, rule: ExitRule) -> Costs:
        """The costs of what this rule looks at. Its decisions cost those of a network, if it sees states."""
        states, copies = rule.needs_state, 0 in rule.layers
        return self._used(states=states, trace=states and rule.needs_trace, lookup=rule.needs_lookup, copies=copies)

    def sampled(self) -> Costs:
        """The costs in sampled text, where every token is also chosen by noise: with what makes its logits."""
        return replace(
            self,
            head=tuple(head + rows * self.choose for rows, head in enumerate(self.head, 1)),
            speak=self.speak + self.choose_draft,
            autoregressive=self.autoregressive + self.choose,
            choose=0.0,
            choose_draft=0.0,
        )

    def _used(self, *, states: bool, trace: bool, lookup: bool, copies: bool) -> Costs:
        """states: whether states are seen; trace, lookup: with conf_trace, with the lookup columns; copies: layer 0."""
        index = (self.index if copies or lookup else 0.0) + (self.lookup if lookup and not copies else 0.0)
        return replace(
            self,
            features=self.features if states else 0.0,
            decision=self.decision if states else 0.0,
            trace=self.trace if trace else 0.0,
            queries=1.0 if states and lookup else 0.0,
            index=index,
        )

    def further(self, rows: int, position: int | None) -> float:
        """What one layer over `rows` rows takes at `position` more than at `context` (less: negative)."""
        return 0.0 if position is None else (self.cache + self.attention * rows) * (position - self.context)

    def first(self, position: int | None = None) -> float:
        """One layer over one row where all layers ran since it last did, as in plain decoding and in a walk.

        The layers that draft stay in a CPU's cache from one draft to the next; these do not.
        """
        return (self.autoregressive - self.head[0]) / self.layers + self.further(1, position)

    def again(self, position: int | None = None) -> float:
        """One layer over one row right after it ran: that of a draft behind a round's first."""
        return self.layer[0] + self.further(1, position)

    def step(self, lo: int, hi: int, position: int | None = None) -> float:
        """Walk from candidate `lo` (0 also at a round's start) on to candidate `hi`, and decide there."""
        if hi == 0:
            return self.lookup + self.decision
        return (hi - lo) * self.first(position) + self.speak + self.features + self.decision

    def look(self, exit_layer: int) -> float:
        """See what `exit_layer` says behind a draft that it has run, and decide there."""
        if exit_layer == 0:
            return self.lookup + self.decision
        return self.speak + self.features + self.queries * self.lookup + self.decision

    def draft(self, exit_layer: int, position: int | None = None) -> float:
        """Reach the state of the next draft at `exit_layer`, and decide there."""
        return exit_layer * self.again(position) + self.look(exit_layer)

    def finish(self, exit_layer: int, drafts: int, position: int | None = None) -> float:
        """Verify up to 31 `drafts`: the bonus token's early pass, and the upper layers over drafts + 1 rows.

        No drafts are the upper layers over the row that a walk left at `exit_layer`.
        """
        kept = self.trace + self.index
        if drafts == 0:
            return self.plain(position) - exit_layer * self.first(position) + kept
        upper = (self.layers - exit_layer) * (self.layer[drafts] + self.further(drafts + 1, position))
        return exit_layer * self.again(position) + upper + self.head[drafts] + self.round + kept

    def price(
        self,
        walk: Sequence[int],
        drafts: int,
        position: int | None = None,
        *,
        looks: int | None = None,
        missed: bool = False,
    ) -> float:
        """A whole round. What one costs is said here; who wants it action by action has it from the parts summed.

        walk: the candidates that were looked at; from the last of them the drafts were made, if any. looks: states seen
        behind drafts (None: behind all but the last). missed: the lookup was asked, and had no guess.
        """
        spent, reached = self.lookup if missed else 0.0, 0
        for layer in walk:
            spent += self.step(reached, layer, position)
            reached = layer
        if drafts:
            seen = drafts - 1 if looks is None else looks
            spent += (drafts - 1) * reached * self.again(position) + seen * self.look(reached)
        return spent + self.finish(reached, drafts, position)

    def blind(self, copies: bool) -> Costs:
        """The costs of a rule that sees no states and decides nothing; copies: it drafts from the text."""
        return self._used(states=False, trace=False, lookup=False, copies=copies)

    def fixed(self, exit_layer: int, drafts: int, position: int | None = None) -> float:
        """A round of a rule that always drafts so many tokens at one layer.

        No drafts are a token of plain decoding; at layer 0 one for want of anything to copy.
        """
        copies, walk = exit_layer == 0, (exit_layer,) if drafts else ()
        return self.blind(copies).price(walk, drafts, position, missed=copies and not drafts)

    def shadow(self, rows: int) -> float:
        """Make drafts and states of one layer's output over `rows` rows: rows are as dear to it as to the head."""
        return self.speak * self.head[rows - 1] / max(self.head[0], 1e-12) + rows * self.features

    def plain(self, position: int | None = None) -> float:
        """One token of autoregressive decoding."""
        return self.autoregressive + self.layers * self.further(1, position)

    def read(self, prompt_tokens: NDArray[np.int64]) -> NDArray[Any]:
        """Read prompts of so many tokens, all layers."""
        return prompt_tokens * self.prefill

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Costs:
        """Inverse of `to_json`; other keys are ignored. Raises `DatasetError` for what is missing or is no time."""
        values = {field.name: data[field.name] for field in fields(cls) if data.get(field.name) is not None}
        if missing := [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]:
            raise DatasetError(f"costs lack {', '.join(missing)}: measure them again")
        for name, value in values.items():
            rows, what = [value], "a time"
            if name in ("layer", "head"):
                rows, what = value, f"the times of 1 to {MAX_ROWS} rows"
                values[name] = tuple(value) if isinstance(value, list | tuple) and len(value) == MAX_ROWS else ()
            if values[name] == () or not all(map(_is_cost, rows)):
                raise DatasetError(f"costs have {name} = {value!r}, not {what}: measure them again")
        return cls(**values)


def costs_run(dataset: Dataset) -> dict[str, Any]:
    """The newest run with costs that were measured on this device with as many threads as decode the model here, else
    with others, else of another device.

    Raises DatasetError where no run has costs.
    """
    runs = [run for run in reversed(dataset.runs) if run.get("costs")]
    if not runs:
        raise DatasetError(
            f"{dataset.path} has no measured costs: measure its model's with `lede calibrate`, for lede evaluate "
            "--calibration, or collect again"
        )
    return max(runs, key=lambda run: _alike(run, dataset))  # the newest of the most alike


def costs_device(dataset: Dataset) -> dict[str, Any] | None:
    """{type, name, threads} of the run whose costs `dataset_costs` has; None where there is none, or none is told."""
    try:
        return costs_run(dataset).get("device")
    except DatasetError:
        return None


def _alike(run: Mapping[str, Any], dataset: Dataset) -> int:
    """0: another device; 1: this one, with another number of threads than decode the model; 2: the same."""
    here, there = dict(device_facts()), run.get("device", {})
    same = all(there.get(name) == here[name] for name in ("type", "name"))
    if same and here["type"] == "cpu":
        from lede.decode.threads import usual_threads

        here["threads"] = usual_threads(
            dataset.header["model"].get("config_hash_v2", ""), run["arguments"].get("dtype", "")
        )
    return same + (same and there.get("threads") == here["threads"])


def dataset_costs(dataset: Dataset) -> tuple[Costs, str]:
    """The costs of `costs_run`, and whose they are, in a line. Raises DatasetError where no run has costs."""
    run = costs_run(dataset)
    there = run.get("device", {})
    words = (
        f"costs: run {run['id']}, {there.get('name', 'an unknown device')}, {there.get('threads', '?')} threads, "
        f"{run['arguments'].get('dtype', 'unknown dtype')}, {run.get('started', 'at an unknown time')} "
        f"({('another device', 'this device, with other threads', 'this device')[_alike(run, dataset)]})"
    )
    return Costs.from_json(run["costs"]), words


def _is_cost(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
