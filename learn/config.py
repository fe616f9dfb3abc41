"""What can be chosen when learning, and the recipes people start from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from lede.learn.errors import LearnError
from lede.learn.rewards import check_reward
from lede.replay.schema import MAX_DRAFTS
from lede.simulate.costs import MAX_ROWS

ALGORITHMS = ("dqn", "double_dqn", "cql", "bcq", "qr_dqn", "iqn", "fitted")

# Offline, the paper's one update every 4 steps (§4.1) becomes one update for every 4 logged decisions.
STEPS_PER_UPDATE = 4


@dataclass(frozen=True)
class LearnConfig:
    """Everything a training run depends on besides the dataset. The defaults are the preset `dqn`.

    algorithm: `dqn` (the paper's), `double_dqn`, `cql`, `bcq`, `qr_dqn` and `iqn` are d3rlpy's, see
        `learn.algorithms`; `fitted` learns from sweeps instead of logged decisions, see `learn.fitted`.
    horizon: `walk`, a chain is one layer walk and exit ends it (the paper's); `round`, the walk, then the draft phase,
        until verification.
    reward: `paper` (§3.1.3); `accepted`, +1 a committed draft and -1 one that is not; `time`, tokens committed minus
        rate * milliseconds, the rate being the one to beat; or a file of one's own: see `learn.rewards`.
    features: `paper`, three numbers; `extended`, everything that is free to know.
    candidates: layers that the policy may exit at, some of the dataset's; None: all of them. Layer 0 may be added to a
        swept dataset that was collected without it.
    bypass: whether a walk may go on past its last candidate: no draft at all, one token of the full model's.
    max_drafts: drafts a round, 12 as in the paper; sweeps tell of longer rounds than were ever tried.
    gamma, n_steps: the target is the n-step return + gamma^n * max over actions of the target network (§3.2).
    learning_rate: of Adam. batch_size: transitions an update.
    updates: in total, over all outer rounds; None: one for every 4 training rows.
    target_interval: updates between hard copies into the target network.
    sigma0: initial noise of the factorised noisy layers; 0 makes them plain linear layers.
    hidden: widths of the hidden layers. The paper says "a small MLP".
    through_forced: where the logged action was the only one allowed, look through it: its reward joins the n-step
        return and the target is taken at the next real choice. Without it (the paper) the maximum over actions may pick
        an action that is never possible there and therefore never trained.
    outer: training rounds of the time reward, each warm-started and at the best rate achieved so far; others have one.
    score_every: updates between two scores on the validation rounds; the best-scoring network is kept.
    validation: share of the episodes kept out of training, chosen by a hash of the episode.
    seed: of initial weights, noise and batches.
    """

    algorithm: str = "dqn"
    horizon: Literal["walk", "round"] = "round"
    reward: str = "time"
    features: Literal["paper", "extended"] = "extended"
    candidates: tuple[int, ...] | None = None
    bypass: bool = False
    max_drafts: int = MAX_DRAFTS
    gamma: float = 1.0
    n_steps: int = 3
    learning_rate: float = 3e-4
    batch_size: int = 256
    updates: int | None = 10_000
    target_interval: int = 512
    sigma0: float = 0.1
    hidden: tuple[int, ...] = (64, 64)
    through_forced: bool = True
    outer: int = 2
    score_every: int = 500
    validation: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        choices = (
            ("algorithm", ALGORITHMS), ("horizon", ("walk", "round")), ("features", ("paper", "extended")),
        )  # fmt: skip
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise LearnError(f"{name} is {getattr(self, name)!r}; choose {' or '.join(allowed)}")
        check_reward(self.reward)
        chosen = self.candidates
        if chosen is not None and (not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 0):
            raise LearnError(f"candidates must be layers in ascending order, not {list(chosen)}")
        if self.algorithm == "fitted" and (self.reward, self.horizon, self.features) != ("time", "round", "extended"):
            raise LearnError(
                "fitted raises the rate itself, over whole rounds and with all features: leave out --reward, --horizon "
                "and --features, or choose another algorithm"
            )
        if self.reward == "time" and self.horizon == "walk":
            raise LearnError("the time reward counts whole rounds; use --horizon round with --reward time")
        for name in ("n_steps", "batch_size", "target_interval", "outer", "score_every"):
            if getattr(self, name) < 1:
                raise LearnError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 2 <= self.max_drafts < MAX_ROWS:
            raise LearnError(f"max_drafts must be 2 to {MAX_ROWS - 1}, not {self.max_drafts}")
        if self.updates is not None and self.updates < 1:
            raise LearnError(f"updates must be at least 1, not {self.updates}")
        if not 0 < self.gamma <= 1:
            raise LearnError(f"gamma must be in (0, 1], not {self.gamma}")
        if not 0 < self.validation < 1:
            raise LearnError(f"validation must be a share between 0 and 1, not {self.validation}")
        if not self.hidden:
            raise LearnError("hidden must name the width of at least one layer")
        if self.learning_rate <= 0 or self.sigma0 < 0 or any(width < 1 for width in self.hidden):
            raise LearnError("learning_rate and hidden widths must be positive, sigma0 not negative")

    def updates_for(self, rows: int) -> int:
        """Updates in total when there are so many training rows."""
        return self.updates if self.updates is not None else max(rows // STEPS_PER_UPDATE, 1)

    def to_dict(self) -> dict[str, Any]:
        """As it is written into `policy.json`."""
        layers = None if self.candidates is None else list(self.candidates)
        return asdict(self) | {"hidden": list(self.hidden), "candidates": layers}


PRESETS: Mapping[str, LearnConfig] = {
    "dqn": LearnConfig(),
    # §3.2, §4.1 to the letter. The paper does not say how wide the network is, nor whether inputs are scaled: as in
    # every preset, they are standardised with the training rows' mean and scale.
    "paper": LearnConfig(
        horizon="walk",
        reward="paper",
        features="paper",
        gamma=0.99,
        n_steps=3,
        learning_rate=6.25e-5,
        batch_size=32,
        updates=None,
        target_interval=512,
        sigma0=0.1,
        through_forced=False,
        outer=1,
    ),
    # What `learn.fitted` takes: its own number of steps, and a smaller network; rewards and targets it has none. What
    # decodes fastest (docs/notes/policies.md), and so what `lede learn` does where a dataset has sweeps.
    "fitted": LearnConfig(
        algorithm="fitted",
        max_drafts=MAX_ROWS - 1,
        learning_rate=1e-2,
        batch_size=512,
        updates=800,
        hidden=(32, 32),
        score_every=50,
        outer=1,
    ),
}


# Options that `fitted` has no use for: whoever gives one wants a Q-learner.
OF_Q_LEARNERS = ("reward", "horizon", "features", "gamma", "n_steps", "target_interval", "sigma0", "through_forced")


def usual_preset(swept: bool, **overrides: Any) -> str:
    """The preset where none is named: `fitted` on sweeps, unless an option asks for a Q-learner."""
    asked = {name for name, value in overrides.items() if value is not None}
    other = overrides.get("algorithm") not in (None, "fitted") or asked & set(OF_Q_LEARNERS)
    return "fitted" if swept and not other else "dqn"


def preset(name: str = "dqn", **overrides: Any) -> LearnConfig:
    """The preset of that name with some fields replaced; an override of None means the preset's own value.

    The algorithm `fitted` starts from the preset `fitted`, whatever the name.
    Raises LearnError if there is no such preset or field, or if a value is out of range.
    """
    if name not in PRESETS:
        raise LearnError(f"there is no preset {name!r}; choose {' or '.join(PRESETS)}")
    unknown = set(overrides) - {field.name for field in fields(LearnConfig)}
    if unknown:
        raise LearnError(f"there is no such option: {', '.join(sorted(unknown))}")
    chosen = {key: value for key, value in overrides.items() if value is not None}
    if chosen.get("algorithm") == "fitted":
        name = "fitted"
    return LearnConfig(**(vars(PRESETS[name]) | chosen))
