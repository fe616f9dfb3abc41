"""`python -m tests.bench.gpu`: what a GPU makes of the decoder, as JSON. Nothing is downloaded, learned or tuned.

On the embedded model, and on random weights in the shapes of two Llamas, with upper layers so weak that early exits
mostly agree. In fp32 no token may differ from plain decoding's; in bf16, where passes over more rows round otherwise,
it says how many do.
"""

import argparse
import json
import random
import re
import tempfile
import warnings
from pathlib import Path
from timeit import repeat
from typing import Any

import torch

from lede.bench.job import tokenised
from lede.bench.measure import measure, rule_method
from lede.bench.summary import summarise
from lede.collect.collector import CollectConfig, collect
from lede.collect.prompts import Prompt, stdlib_prompts
from lede.decode.config import Config, weight_shapes
from lede.decode.device import device_facts
from lede.decode.errors import ModelError
from lede.decode.generate import generate
from lede.decode.load import choose_device, load_model
from lede.decode.model import Model
from lede.decode.rules import Autoregressive, ExitRule
from lede.decode.sampling import Settings
from lede.paths import default_model_path, default_policy_path
from lede.serve.generate import policy_rule
from lede.simulate.baselines import make_rule, real_layers
from lede.simulate.profile import synchronise

EMBEDDED = "lede-tiny"
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 8192
SHAPES = {
    "llama-3.2-1b": Config(128256, 2048, 8192, 16, 32, 8, 64, 131072, 1e-5, True, LLAMA3),
    "llama-2-7b": Config(max_position_embeddings=4096, rms_norm_eps=1e-5),
    "small": Config(2048, 64, 128, 8, 4, 2, 16, 512),
}
DAMPED = 0.02  # what layers above the first quarter add to the residual stream, of what the others do
COPIED = 2**28  # bytes
PROMPTS, TOKENS = 6, 128  # and tokens written behind each


def main(arguments: list[str] | None = None) -> Path:
    """Measure every model in fp32 and bf16; returns the file that says what came out."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=[EMBEDDED, *SHAPES], default=[EMBEDDED, *SHAPES][:3])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    asked = parser.parse_args(arguments)
    try:
        device = choose_device(asked.device)
    except (ModelError, RuntimeError) as error:
        parser.error(str(error))
    models: dict[str, Any] = {}
    for name, dtype in ((name, dtype) for name in asked.models for dtype in (torch.float32, torch.bfloat16)):
        model = load_model(default_model_path(), dtype, str(device)) if name == EMBEDDED else made(name, dtype, device)
        facts = device_facts(model.device)
        models[f"{name}, {str(dtype).removeprefix('torch.')}"] = report(model)
        del model  # before the next is made
    file = Path(asked.out, re.sub("[^a-z0-9]+", "-", facts["name"].lower()).strip("-") + ".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    result = {"device": facts, "torch": torch.__version__, "prompts": PROMPTS, "tokens": TOKENS, "models": models}
    file.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return file


def made(name: str, dtype: torch.dtype, device: torch.device) -> Model:
    """Random weights of a shape; without a tokenizer."""
    config, weights = SHAPES[name], dict[str, torch.Tensor]()
    random_numbers = torch.Generator(device).manual_seed(0)
    for key, shape in weight_shapes(config).items():
        weights[key] = torch.ones(shape, dtype=dtype, device=device)
        if len(shape) == 2:
            weights[key].normal_(std=shape[1] ** -0.5, generator=random_numbers)
        if re.search("[on]_proj", key) and int(key.split(".")[2]) >= config.num_hidden_layers // 4:
            weights[key] *= DAMPED
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return Model(name, config, None, weights, dtype, device, {})


def rules_of(model: Model) -> list[ExitRule]:
    """Plain decoding, and rules that nobody tuned, at a quarter of the layers."""
    early = {"exit_layer": max(model.layer_count // 4, 1)}
    given: dict[str, dict[str, Any]] = {"layerskip": early | {"draft_length": 5}, "prompt-lookup": {}}
    given |= {"draft-verify": early, "kangaroo": early, "adaptive-lookup": {}, "cascade": early, "tapout": early}
    given["ucb"] = {"layers": [0, *early.values()], "lengths": [2, 5]}
    given["del"] = {"layers": real_layers(model.layer_count), "layer_count": model.layer_count}
    rules = [Autoregressive(), *(make_rule(name, parameters) for name, parameters in given.items())]
    return [*rules, policy_rule(model, default_policy_path())] if model.name == EMBEDDED else rules


def report(model: Model) -> dict[str, Any]:
    """Each rule's speed and lost tokens, what plain decoding reads a second, and decisions collected a second."""
    numbers, settings = random.Random(0), Settings(TOKENS, stop_tokens=frozenset())
    prompts = stdlib_prompts("test", PROMPTS) if model.tokenizer is not None else []
    while len(prompts) < PROMPTS:
        prompts.append(Prompt(str(len(prompts)), "", "", tokens=tuple(numbers.choices(range(model.vocabulary), k=64))))
    asked, rules = tokenised(model, prompts), rules_of(model)
    samples = list(measure(model, [rule_method(model, rule, settings) for rule in rules], asked))
    plain = {s.prompt_id: s.token_ids for s in samples if s.method == "autoregressive"}
    rows: dict[str, dict[str, Any]] = {}
    for row in summarise(samples, exact_library=False):
        texts = [(s.token_ids, plain[s.prompt_id]) for s in samples if s.method == row.method]
        measures = ("tokens_per_s", "speedup", "acceptance", "tokens_per_round")
        rows[row.method] = {name: getattr(row, name) for name in measures}
        rows[row.method]["differing_texts"] = sum(mine != theirs for mine, theirs in texts)
        rows[row.method]["differing_tokens"] = sum(x != y for pair in texts for x, y in zip(*pair, strict=True))
    for rule in rules:
        rows[rule.name]["waits_per_round"] = waits(model, rule, asked[0][2], settings)
    sizes = weight_shapes(model.config)
    read = sum(torch.Size(shape).numel() for key, shape in sizes.items() if "embed" not in key) * model.dtype.itemsize
    source = torch.empty(COPIED, dtype=torch.uint8, device=model.device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        synchronise(model)

    copied = 2 * COPIED / min(repeat(copy, number=1, repeat=5)) / 1e9
    decoded = read * rows["autoregressive"]["tokens_per_s"] / 1e9
    rates = {"copy_gb_per_s": copied, "plain_gb_per_s": decoded, "share_of_copy": decoded / copied}
    with tempfile.TemporaryDirectory() as folder:
        found = collect(model, prompts, Path(folder, "data"), CollectConfig(PROMPTS, max_new_tokens=TOKENS, sweep=True))
    return {"rules": rows, **rates, "collected_decisions_per_s": found.decisions / found.seconds}


def waits(model: Model, rule: ExitRule, ids: list[int], settings: Settings) -> float | None:
    """How often a round makes the host wait for the GPU; None on a CPU."""
    if model.device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        rounds = len(generate(model, ids, rule, settings).rounds)
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen) / rounds


if __name__ == "__main__":
    print(f"written to {main()}")
