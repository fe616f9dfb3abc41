"""Small made-up datasets that obey the decision process, with features that tell something about the outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lede.process import CONTINUE, DRAFT, EXIT, WALK
from lede.replay.header import open_for_writing
from lede.replay.runs import Run, start_run
from lede.replay.schema import STATE
from lede.replay.writer import EpisodeWriter
from lede.simulate.costs import MAX_ROWS, Costs

VOCABULARY = 100
MAX_DRAFTS = 12
MODEL_LAYERS = 16
COSTS = Costs(
    layers=MODEL_LAYERS,
    layer=tuple(0.1 * (1 + 0.05 * rows) for rows in range(MAX_ROWS)),
    head=tuple(0.15 * (1 + 0.05 * rows) for rows in range(MAX_ROWS)),
    features=0.02,
    decision=0.01,
    lookup=0.005,
    round=0.03,
)


def header(layers: tuple[int, ...] = (4, 5, 6, 8), model_layers: int = MODEL_LAYERS) -> dict[str, Any]:
    model = {
        "name": "synthetic",
        "revision": None,
        "config_hash": "0" * 16,
        "layers": model_layers,
        "vocab": VOCABULARY,
    }
    return {"model": model, "tokenizer_hash": "0" * 16, "layers": list(layers), "top_k": 5, "trace": 20}


def facts(model_layers: int = MODEL_LAYERS) -> dict[str, Any]:
    costs = {**COSTS.to_json(), "layers": model_layers}
    return {"versions": {"lede": "0"}, "device": {"name": "none"}, "behaviour": {"name": "random"}, "costs": costs}


def start(path: Path, seed: int = 0, layers: tuple[int, ...] = (4, 5, 6, 8), model_layers: int = MODEL_LAYERS) -> Run:
    """A run in a new or existing dataset; another seed is another run."""
    open_for_writing(path, header(layers, model_layers))
    return start_run(path, {"seed": seed}, facts(model_layers), new_run=True)


def write_dataset(
    path: Path,
    episodes: int,
    seed: int,
    layers: tuple[int, ...] = (4, 5, 6, 8),
    with_sweeps: bool = False,
    model_layers: int = MODEL_LAYERS,
    flush_rows: int = 500,
    max_new_tokens: int = 40,
) -> Run:
    """Write a dataset of random episodes. The same arguments give the same rows."""
    run = start(path, seed, layers, model_layers)
    with EpisodeWriter(run, flush_rows=flush_rows) as writer:
        for number in range(episodes):
            writer.add(*make_episode(number, seed, layers, with_sweeps, model_layers, max_new_tokens))
    return run


def make_episode(
    number: int,
    seed: int = 0,
    layers: tuple[int, ...] = (4, 5, 6, 8),
    with_sweeps: bool = False,
    model_layers: int = MODEL_LAYERS,
    max_new_tokens: int = 40,
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """Arguments for `EpisodeWriter.add`. May be an episode without a single round."""
    rng = np.random.default_rng([seed, number])
    prompt, new = int(rng.integers(3, 9)), int(rng.integers(1, max_new_tokens + 1))
    temperature = 0.75 * (number % 3 == 2)
    text = _Text(rng, layers, model_layers, prompt, new)
    if temperature:
        text.sample(np.random.default_rng([seed, number, 1]), temperature)
    rows: list[dict[str, Any]] = []
    generated, rounds, drafted, accepted = 1, 0, 0, 0  # the first token comes from reading the prompt
    while generated < text.new:
        drafts, good = _round(rng, text, rows, rounds, generated)
        rounds, drafted, accepted = rounds + 1, drafted + drafts, accepted + good
        generated = min(text.new, generated + good + 1)
    columns = {name: np.array([row[name] for row in rows]) for name in _ROW}
    episode = {
        "episode": number,
        "prompt_id": f"synthetic:{number}",
        "task": ("code", "prose")[number % 2],
        "prompt_tokens": text.tokens[: text.prompt].tolist(),
        "output_tokens": text.tokens[text.prompt : text.prompt + text.new].tolist(),
        "seed": int(rng.integers(0, 2**63)) * 2,
        "rounds": rounds,
        "drafted": drafted,
        "accepted": accepted,
        "seconds": float(rng.random()),
        "finish": "length",
        "split": ("train", "train", "train", "validation", "test")[number % 5],
        "group": f"text {seed}:{number}",
        "temperature": temperature,
        "top_k": 50 * (temperature > 0),
        "top_p": 0.9 if temperature else 1.0,
        "options": '{"min_p": 0.1}' if temperature else "",
    }
    columns["episode"] = np.full(len(rows), number)
    return episode, columns, text.sweep(number) if with_sweeps else None


_ROW = (
    *("round", "chain", "step", "position", "phase", "layer", "draft_index", "forced", *STATE, "action", "propensity"),
    *("terminal", "truncated", "draft_token", "target_token", "accepted"),
)


class _Text:
    """The tokens of a prompt and its answer, and what every layer would draft at every position of them."""

    def __init__(self, rng: np.random.Generator, layers: tuple[int, ...], model_layers: int, prompt: int, new: int):
        self.layers, self.prompt, self.new = layers, prompt, new
        length = prompt + new + MAX_DRAFTS + 1
        self.tokens = rng.integers(0, VOCABULARY, length)
        depth = np.array(layers) / model_layers
        # A position is easy or hard, and a deeper layer is right more often; the logit is what the features see.
        logits = rng.normal(0.3, 1.5, length)[:, None] + 4 * (depth - 0.3) + rng.normal(0, 0.3, (length, len(layers)))
        self.right = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
        wrong = (self.tokens[:, None] + rng.integers(1, VOCABULARY, logits.shape)) % VOCABULARY
        self.drafts = np.where(self.right, self.tokens[:, None], wrong)
        self.match = rng.random(length) < 0.7  # the prompt lookup finds something
        self.states = {name: np.zeros(logits.shape) for name in STATE}
        confidence = 1 / (1 + np.exp(-logits - rng.normal(0, 0.3, logits.shape)))
        self.states["top1_logp"] = np.log(confidence)
        self.states["conf_topk"] = 1.5 + 3 * confidence
        self.states["entropy"] = 4 * (1 - confidence)
        self.states["margin"] = confidence**2
        if layers[0] == 0:
            for state in self.states.values():
                state[:, 0] = 0
        length_of_match = np.where(self.match, rng.integers(1, 9, length), 0)
        self.states["conf_trace"] += rng.random(length)[:, None]
        self.states["lookup_length"] += length_of_match[:, None]
        self.states["lookup_agreement"] += (self.match * rng.random(length))[:, None]
        self.states["lookup_match"] += self.match[:, None] & (self.drafts == self.drafts[:, :1])
        self.states = {name: state.astype(np.float32) for name, state in self.states.items()}

    def sample(self, rng: np.random.Generator, temperature: float) -> None:
        """Give the states what those of sampled text have."""
        shape, real = self.drafts.shape, np.array(self.layers) > 0
        self.states["temperature"] = np.full(shape, temperature, np.float32)
        self.states["noise"] = rng.gumbel(size=shape).astype(np.float32)
        self.states["token_logp"] = (real * -rng.random(shape)).astype(np.float32)
        self.states["noise_margin"] = (real * rng.random(shape)).astype(np.float32)

    def sweep(self, number: int) -> dict[str, np.ndarray]:
        positions = np.arange(self.prompt + 1, self.prompt + self.new)
        count = len(self.layers)
        names = [name for name in STATE if name not in ("draft_logp", "accept_trace")]
        return {
            "episode": np.full(len(positions) * count, number),
            "position": np.repeat(positions, count),
            "layer": np.tile(self.layers, len(positions)),
            **{name: self.states[name][positions].ravel() for name in names},
            "draft_token": self.drafts[positions].ravel(),
            "target_token": np.repeat(self.tokens[positions], count),
        }


def _round(
    rng: np.random.Generator, text: _Text, rows: list[dict[str, Any]], number: int, generated: int
) -> tuple[int, int]:
    """Append the rows of one round; returns (drafted, accepted)."""
    first = text.prompt + generated  # position of the first draft
    room = text.new - generated
    limit = min(MAX_DRAFTS, max(room - 1, 1))  # a round commits no more than the drafts and one
    opening = len(rows)
    trace = np.float32(rng.random())

    def add(index: int, column: int, phase: int, drafted_logp: float, **values: Any) -> dict[str, Any]:
        at = first + index - 1
        state = {name: text.states[name][at, column] for name in STATE}
        state |= {"draft_logp": np.float32(drafted_logp), "accept_trace": trace}
        rows.append(
            {
                "round": number,
                "chain": index - 1,
                "step": len(rows) - opening,
                "position": at,
                "phase": phase,
                "layer": text.layers[column],
                "draft_index": index,
                "terminal": False,
                "truncated": False,
                "draft_token": text.drafts[at, column],
                "target_token": text.tokens[at],
                **state,
                **values,
            }
        )
        return rows[-1]

    column = 0
    for column in range(len(text.layers)):
        if text.layers[column] == 0 and not text.match[first]:
            continue
        forced = column == len(text.layers) - 1
        leave = forced or rng.random() < 0.4
        chance = 1.0 if forced else 0.4 if leave else 0.6
        right = text.right[first, column]
        add(1, column, WALK, 0.0, forced=forced, action=int(leave), propensity=chance, accepted=right)
        if leave:
            break

    index, good = 1, bool(text.right[first, column])
    accepted, logp = int(good), float(text.states["top1_logp"][first, column])
    stopped = False
    while index < limit and not stopped:
        index += 1
        at = first + index - 1
        before = good
        good = good and bool(text.right[at, column])
        accepted += good
        forced = index == MAX_DRAFTS
        stopped = forced or rng.random() < 1 / 3
        chance = 1.0 if forced else 1 / 3 if stopped else 2 / 3
        row = add(
            index,
            column,
            DRAFT,
            logp,
            forced=forced,
            action=CONTINUE if stopped else EXIT,
            propensity=chance,
            accepted=good,
        )
        if not before:  # after a mismatch the verifier answers a wrong prefix
            row["target_token"] = rng.integers(0, VOCABULARY)
        logp += float(text.states["top1_logp"][at, column])
    rows[-1]["terminal" if stopped else "truncated"] = True
    return index, accepted
