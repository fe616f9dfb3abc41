"""What can be chosen when learning, and the recipes people start from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lede.ground import Bytes, option
from lede.learn.errors import LearnError
from lede.process import LONG_DRAFTS

Algorithm = Literal["double_dqn", "dqn", "fitted"]
Source = Literal["sweeps", "log"]
Horizon = Literal["walk", "round"]
Features = Literal["paper", "free", "extended"]
# Offline, the paper's one update every 4 agent steps (§4.1) is one update for every 4 logged decisions.
STEPS_PER_UPDATE = 4


@dataclass(frozen=True)
class LearnConfig:
    """Everything a training run depends on besides the dataset. The defaults are the preset `default`."""

    #: `fitted` ascends the exact value of rounds on sweeps, to compare with.
    algorithm: Algorithm = option("double_dqn", "double_dqn or dqn, both d3rlpy's; or fitted (from sweeps alone).")
    source: Source | None = option(
        None,
        "sweeps (both actions of every state are known) or log (what was tried). "
        "[dim]Default: sweeps where there are any and no option needs the log[/]",
    )
    #: See `learn.rewards`.
    reward: str = option(
        "time", "paper, accepted, time (tokens less their time's worth), or FILE.py with a function reward."
    )
    features: Features = option("free", "paper (three numbers), free (what costs nothing to know) or extended (all).")
    #: What a chain is: the paper's is the walk through the layers, which exit ends.
    horizon: Horizon = option("round", "walk (a layer walk is a chain) or round (the walk with the round's drafts).")
    candidates: tuple[int, ...] | None = option(
        None, "Some of the dataset's candidates, as 0,4,6; 0 may be added to a swept one."
    )
    #: Without named candidates: whether layer 0 is one. The paper has no layer 0.
    layer0: bool = True
    #: Whether a walk may go on past its last candidate: no draft, one token of the full model's. A log has none.
    bypass: bool | None = option(
        None, "Let a round draft nothing, which the paper has not. [dim]Default: if learned from sweeps[/]"
    )
    max_drafts: int = option(
        LONG_DRAFTS, "Drafts per round, from a log no more than were logged; the paper has 12.", min=2, max=LONG_DRAFTS
    )
    #: The target is the n-step return + gamma^n * max over actions of the target network (§3.2). 5 steps do as well.
    gamma: float = option(1.0, "Discount per decision.", min=0.0, max=1.0)
    n_steps: int = option(3, "Steps of the n-step return.", "--n-step", min=1)
    #: Learning from a log: cut the n-step return where the logged action is not the network's greedy one (Watkins).
    watkins: bool = True
    #: Of Adam; `anneal`: to 0, by a cosine.
    learning_rate: float = 3e-3
    anneal: bool = True
    #: Transitions per update; for `fitted`, round starts.
    batch_size: int = 256
    #: None: one for every 4 logged training decisions.
    updates: int | None = option(8_000, "Gradient steps.", min=1)
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
    seed: int = option(0, "Of initial weights, noise and batches.", min=0)
    #: A new part after each score.
    memory: Bytes | None = option(
        None,
        "The most memory that this process may take, as 4GB: what does not fit is learned from part by part. "
        "[dim]Default: all at once[/]",
    )

    def __post_init__(self) -> None:
        from lede.learn.rewards import check_reward  # here, so that a command's options import no numpy

        choices = {"algorithm": Algorithm, "source": Source, "horizon": Horizon, "features": Features}
        for name, kind in choices.items():
            value, allowed = getattr(self, name), get_args(kind)
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


PRESETS: Mapping[str, dict[str, Any]] = {
    "default": {},
    # §3.2, §4.1 to the letter. The paper does not say how wide the network is, nor whether inputs are scaled: as in
    # every preset, they are standardised with the training rows' mean and scale.
    "paper": {
        "algorithm": "dqn",
        "source": "log",
        "horizon": "walk",
        "reward": "paper",
        "features": "paper",
        "layer0": False,
        "max_drafts": 12,
        "gamma": 0.99,
        "watkins": False,
        "learning_rate": 6.25e-5,
        "anneal": False,
        "batch_size": 32,
        "updates": None,
        "target_interval": 512,
        "sigma0": 0.1,
        "hidden": (64, 64),
        "averaging": 0.0,
    },
    "fitted": {
        "algorithm": "fitted",
        "learning_rate": 1e-2,
        "batch_size": 512,
        "updates": 800,
        "averaging": 0.0,
        "score_every": 50,
    },
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
    return LearnConfig(**(PRESETS[name] | chosen))
