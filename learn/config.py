"""What can be chosen when learning, and the recipes people start from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lede.learn.errors import LearnError
from lede.learn.rewards import check_reward
from lede.replay.schema import EXTENDED, FREE, PAPER_STATE
from lede.simulate.costs import MAX_ROWS

ALGORITHMS = ("double_dqn", "dqn", "fitted")
FEATURES: Mapping[str, tuple[str, ...]] = {"paper": PAPER_STATE, "free": FREE, "extended": EXTENDED}
# Offline, the paper's one update every 4 agent steps (§4.1) is one update for every 4 logged decisions.
STEPS_PER_UPDATE = 4


@dataclass(frozen=True)
class LearnConfig:
    """Everything a training run depends on besides the dataset. The defaults are the preset `default`."""

    #: All but `fitted` are d3rlpy's; `fitted` ascends the exact value of rounds on sweeps, to compare with.
    algorithm: Literal["double_dqn", "dqn", "fitted"] = "double_dqn"
    #: Both actions from `sweeps`, or the logged ones. None: sweeps where there are any and the other options allow it.
    source: Literal["sweeps", "log"] | None = None
    #: A chain is one layer `walk`, which exit ends (the paper's), or the walk and the drafts of a whole `round`.
    horizon: Literal["walk", "round"] = "round"
    #: `paper` (§3.1.3), `accepted`, `time` or a file of one's own: see `learn.rewards`.
    reward: str = "time"
    #: Inputs: `paper`, three numbers; `extended`, all that is known; `free`, of these those that cost nothing.
    features: Literal["paper", "free", "extended"] = "free"
    #: Layers to exit at, some of the dataset's; None: all of them. Layer 0 may be added to swept datasets.
    candidates: tuple[int, ...] | None = None
    #: Without named candidates: whether layer 0 is one. The paper has no layer 0.
    layer0: bool = True
    #: Whether a walk may go on past its last candidate: no draft, one token of the full model's. None: from sweeps,
    #: yes; from a log, which does not have it, no, as in the paper.
    bypass: bool | None = None
    #: Drafts per round; learning from a log, no more than were ever logged. The paper has 12.
    max_drafts: int = MAX_ROWS - 1
    #: The target is the n-step return + gamma^n * max over actions of the target network (§3.2). 5 steps do as well.
    gamma: float = 1.0
    n_steps: int = 3
    #: Learning from a log: cut the n-step return where the logged action is not the network's greedy one (Watkins).
    watkins: bool = True
    #: Of Adam; `anneal`: to 0, by a cosine.
    learning_rate: float = 3e-3
    anneal: bool = True
    #: Transitions per update; for `fitted`, round starts.
    batch_size: int = 256
    #: None: one for every 4 logged training decisions.
    updates: int | None = 8_000
    #: Updates between hard copies into the target network. The paper copies "every 512 steps" and updates "every 4
    #: agent steps": if the former are agent steps too, that is 128 updates. The preset `paper` takes 512 updates.
    target_interval: int = 100
    #: Initial noise of the factorised noisy layers (§4.1: 0.1); 0 makes them plain linear layers.
    sigma0: float = 0.0
    #: Widths of the hidden layers. The paper says "a small MLP".
    hidden: tuple[int, ...] = (32, 32)
    #: Weight of the past, per 100 updates, in the running average of the weights that is exported; 0: the last weights.
    averaging: float = 0.8
    #: Updates between two scores on the validation texts; the best-scoring network is kept.
    score_every: int = 500
    #: Bytes that the whole process may take; a dataset that needs more is learned from one part after the other, a
    #: new one after each score. None: all at once.
    memory: int | None = None
    #: Of initial weights, noise and batches.
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {"algorithm": ALGORITHMS, "source": ("sweeps", "log"), "horizon": ("walk", "round")}
        for name, allowed in {**choices, "features": tuple(FEATURES)}.items():
            value = getattr(self, name)
            if value not in allowed and (name, value) != ("source", None):
                raise LearnError(f"{name} is {value!r}; choose {' or '.join(allowed)}")
        check_reward(self.reward)
        chosen = self.candidates
        if chosen is not None and (not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 0):
            raise LearnError(f"candidates must be layers in ascending order, not {list(chosen)}")
        if self.from_sweeps_only and (self.source == "log" or not self.fits_sweeps):
            raise LearnError(
                "fitted, a bypass and --source sweeps learn from sweeps, with the time reward over whole rounds: "
                "leave them out, or --source log, --reward and --horizon"
            )
        if self.reward == "time" and self.horizon == "walk":
            raise LearnError("the time reward counts whole rounds; use --horizon round with --reward time")

    @property
    def from_sweeps_only(self) -> bool:
        """Whether nothing but sweeps will do."""
        return self.source == "sweeps" or self.algorithm == "fitted" or bool(self.bypass)

    @property
    def fits_sweeps(self) -> bool:
        """Whether transitions can be made from sweeps, which tell what both actions lead to and the time it takes."""
        return self.reward == "time" and self.horizon == "round"

    def updates_for(self, rows: int) -> int:
        """Updates in total when there are so many logged training rows."""
        return self.updates if self.updates is not None else max(rows // STEPS_PER_UPDATE, 1)

    def to_dict(self) -> dict[str, Any]:
        """As it is written into `policy.json`: JSON has no tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


PRESETS: Mapping[str, LearnConfig] = {
    "default": LearnConfig(),
    # §3.2, §4.1 to the letter. The paper does not say how wide the network is, nor whether inputs are scaled: as in
    # every preset, they are standardised with the training rows' mean and scale.
    "paper": LearnConfig(
        algorithm="dqn",
        source="log",
        horizon="walk",
        reward="paper",
        features="paper",
        layer0=False,
        max_drafts=12,
        gamma=0.99,
        watkins=False,
        learning_rate=6.25e-5,
        anneal=False,
        batch_size=32,
        updates=None,
        target_interval=512,
        sigma0=0.1,
        hidden=(64, 64),
        averaging=0.0,
    ),
    "fitted": LearnConfig(
        algorithm="fitted", learning_rate=1e-2, batch_size=512, updates=800, averaging=0.0, score_every=50
    ),
}


def preset(name: str = "default", **overrides: Any) -> LearnConfig:
    """The preset of that name with some fields replaced; an override of None means the preset's own value.

    The algorithm `fitted` starts from the preset `fitted`, whatever the name.
    Raises LearnError if there is no such preset, or options exclude each other.
    """
    if name not in PRESETS:
        raise LearnError(f"there is no preset {name!r}; choose {' or '.join(PRESETS)}")
    chosen = {key: value for key, value in overrides.items() if value is not None}
    if chosen.get("algorithm") == "fitted":
        name = "fitted"
    return LearnConfig(**(vars(PRESETS[name]) | chosen))
