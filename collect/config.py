"""What a run is told to do: one frozen dataclass, written into the dataset as the run's arguments."""

from dataclasses import dataclass
from typing import Literal

from lede.ground import option
from lede.process import LONG_DRAFTS

Exploration = Literal["uniform", "noisy", "epsilon"]


@dataclass(frozen=True)
class CollectConfig:
    """What decides the rows of a run: the same values give the same rows, and name the same run."""

    episodes: int = option(200, "Prompts to decode: in order, again and again.", min=1)
    #: None: `default_layers` of the model, or the policy's.
    layers: tuple[int, ...] | None = option(
        None, "Candidate exit layers, as 0,2,4,6,8; 0 is prompt lookup.", "--candidates"
    )
    explore: Exploration = option("uniform", "uniform, noisy (the paper's) or epsilon (with --policy).")
    epsilon: float = option(0.2, "Share of random actions with --policy.", min=0.0, max=1.0)
    max_drafts: int | None = option(
        None,
        f"Drafts a round at most. [dim]Default: {LONG_DRAFTS}; 12 with noisy; the policy's[/]",
        min=1,
        max=LONG_DRAFTS,
    )
    max_new_tokens: int = option(256, "Tokens to write for each prompt. [dim]Default: the task's, 256 or 512[/]", min=1)
    #: None: that of prompts which were served, with all that they were sampled with.
    temperature: float | None = option(0.0, "0 is greedy. [dim]Default: the task's, 0 but for cnn_dm_lm[/]", min=0.0)
    top_k: int | None = option(
        None, "Sample from the k most likely tokens. [dim]Default: as in lede generate[/]", min=0
    )
    top_p: float | None = option(
        None, "Sample from the fewest tokens that have this share. [dim]Default: likewise[/]", min=0.0, max=1.0
    )
    seed: int = option(0, "Of exploration, of sampled texts, and of the draw of a task's prompts.", min=0)
    sweep: bool = option(True, "Also write what every layer would draft at every token. [dim]Default: --sweep[/]")
