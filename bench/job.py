"""What one table of a bench is to show."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lede.bench.measure import prompt_seed
from lede.bench.names import BASELINE, KNOWN
from lede.bench.store import code_hash
from lede.collect.prompts import Prompt
from lede.decode.device import device_facts
from lede.decode.facts import model_facts
from lede.decode.generate import encode, generate
from lede.decode.model import Model
from lede.decode.sampling import Settings, sampling_columns
from lede.ground import fingerprint
from lede.policy import Policy, check_fits, load_policy
from lede.simulate.profile import SAMPLED


@dataclass(frozen=True)
class Job:
    """`prompts` are measured on, `training` only tuned on.

    methods: names of KNOWN or of policies. policies: folders, by the names of the policies in POLICY_OF and by any
    others. threads: as asked for, 0 for what was fastest. check: set beside each speedup what replay says.
    """

    task: str
    prompts: Sequence[Prompt]
    training: Sequence[Prompt]
    settings: Settings
    methods: Sequence[str]
    policies: dict[str, Path] = field(default_factory=dict)
    threads: int = 0
    check: bool = False

    @property
    def rows(self) -> list[str]:
        """The methods in the order of the table, the baseline always among them."""
        return [name for name in dict.fromkeys((*KNOWN, *self.policies)) if name in {*self.methods, BASELINE}]

    @property
    def charged(self) -> Settings:
        """For `simulate.profile.measure`: the settings in which a choice is timed, those of the job if it samples."""
        return SAMPLED if self.greedy else self.settings

    @property
    def greedy(self) -> bool:
        """Whether no text is sampled."""
        return not sampling(self.settings)["temperature"]

    def load_policies(self, model: Model) -> dict[str, Policy]:
        """By name. Raises PolicyError for one of another model."""
        loaded = {name: load_policy(folder) for name, folder in self.policies.items()}
        for policy in loaded.values():
            check_fits(policy, model_facts(model))
        return loaded


def tokenised(model: Model, prompts: Sequence[Prompt]) -> list[tuple[str, str, list[int]]]:
    """(id, task, token ids) of the prompts that leave room in the model's context."""
    every = ((p, encode(model, p.content)) for p in prompts)
    return [(p.id, p.task, ids) for p, ids in every if len(ids) < model.context - 1]


def spoken(model: Model, prompts: Sequence[Prompt], settings: Settings) -> list[Prompt]:
    """The prompts, each turn of a conversation as one of its own behind plain decoding's answers."""
    spoken = []
    for prompt in prompts:
        said: list[str] = []
        spoken.append(prompt)
        for _ in prompt.turns:
            ids = encode(model, spoken[-1].content)
            if len(ids) >= model.context - 1:
                break
            own = replace(settings, seed=prompt_seed(settings.seed, ids))
            said.append(generate(model, ids, settings=own).text)
            spoken.append(prompt.turn(said))
    return spoken


def sampling(settings: Settings) -> dict[str, Any]:
    """What decides which tokens are chosen, ready for JSON: temperature, top_k, top_p and seed (None: greedy)."""
    columns = sampling_columns(settings)
    chosen = {name: columns[name] for name in ("temperature", "top_k", "top_p")}
    return chosen | {"seed": settings.seed if columns["temperature"] else None}


def question(model: Model, job: Job) -> dict[str, Any]:
    """Everything that decides the numbers: two runs with the same may be put together, no others."""
    return {
        "model": model_facts(model),
        "task": job.task,
        "methods": job.rows,
        # a policy's description holds the hash of its weights
        "policies": {name: fingerprint((folder / "policy.json").read_bytes()) for name, folder in job.policies.items()},
        "prompts": fingerprint(json.dumps([asdict(prompt) for prompt in job.prompts])),
        "training": fingerprint(json.dumps([asdict(prompt) for prompt in job.training])),
        "max_new_tokens": job.settings.max_new_tokens,
        **sampling(job.settings),
        "device": device_facts(model.device)["name"],
        "dtype": str(model.dtype).removeprefix("torch."),
        "native": model.native,
        "threads": job.threads,
        "code": code_hash(),
    }
