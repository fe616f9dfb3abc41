"""Generations as a page: what each round drafted and why, what came of it, and what the policy does.

Everything here is JSON-ready; `page/` draws it, in a file (`lede report`) or live as the rounds come.
"""

import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lede.decode.device import device_facts
from lede.decode.model import Model
from lede.decode.round import Decision, Generation, Round
from lede.decode.rules.network import feature_row
from lede.decode.state import State
from lede.policy import Policy
from lede.process import DRAFT, TOP_K, WALK
from lede.serve.errors import ReportError
from lede.serve.stream import Decoder

MEASURES = ["exit_layer", "draft_length", "acceptance", "tokens_per_round"]
MEASURES += ["prompt_share", "draft_share", "decision_share", "verify_share", "host_share"]
SPEEDS = ("tokens_per_s", "speedup", "speedup_low", "speedup_high")
COLUMNS = 20  # of the maps of a policy


class Teller:
    """Turns rounds into objects for the page, one after the other. `decoder` keeps special tokens, as they are text."""

    def __init__(self, decoder: Decoder, policy: Policy | None = None):
        self._decoder, self._policy = decoder, policy
        self._row = None if policy is None else feature_row(policy.features, policy.layers)

    def round(self, round_: Round) -> dict[str, Any]:
        """Its times in ms, and its tokens: kept and rejected drafts, and the full model's own, each with the decisions
        that led to it; the one to stop is the full model's."""
        asked: dict[int, list[dict[str, Any]]] = {}
        for decision in round_.decisions:
            asked.setdefault(decision.state.draft_index, []).append(self._decision(decision))
        tokens = []

        def add(kind: str, text: str, draft: int) -> None:
            tokens.append({"kind": kind, "text": text, "asked": asked.get(draft, [])})

        for number, token in enumerate(round_.committed[: round_.accepted], 1):
            add("kept", self._decoder.add([token]), number)
        rejected, shown = round_.drafts[round_.accepted :], ""
        for number in range(1, len(rejected) + 1):
            before, shown = shown, self._decoder.peek(rejected[:number])
            add("rejected", shown[len(before) :], round_.accepted + number)
        for token in round_.committed[round_.accepted :]:
            add("own", self._decoder.add([token]), len(round_.drafts) + 1)
        return {
            "layer": round_.exit_layer,
            "drafted": len(round_.drafts),
            "accepted": round_.accepted,
            "ms": _short(1e3 * round_.seconds),
            "draft_ms": _short(1e3 * (round_.draft_seconds - round_.decision_seconds)),
            "decide_ms": _short(1e3 * round_.decision_seconds),
            "verify_ms": _short(1e3 * round_.verify_seconds),
            "tokens": tokens,
        }

    def _decision(self, decision: Decision) -> dict[str, Any]:
        state = decision.state
        values = None
        if self._policy is not None and self._row is not None:  # as the rule saw them, up to the order of sums
            values = [_short(value) for value in self._policy.values(self._row(state)).tolist()]
        numbers = {
            name: _short(getattr(state, name)) for name in ("conf_topk", "entropy", "margin", "lookup_agreement")
        }
        return {
            "layer": state.layer,
            "walk": state.phase == WALK,
            "exit": bool(decision.action),
            "forced": decision.forced,
            "values": values,
            "p": _short(math.exp(state.top1_logp)),
            "lookup_length": int(state.lookup_length),
            **numbers,
        }


def summary(done: Generation, plain: Generation | None = None) -> dict[str, Any]:
    """What is known of a text when it is finished; `plain`: the same by plain decoding."""
    return {
        "tokens": len(done.token_ids),
        "seconds": done.seconds,
        "prompt_ms": _short(1e3 * done.prefill_seconds),
        "finish": done.finish,
        "plain_seconds": None if plain is None else plain.seconds,
        "same": None if plain is None else plain.token_ids == done.token_ids,
    }


def policy_maps(policy: Policy, layer_count: int) -> list[dict[str, Any]]:
    """What a policy does: maps of the value of exit less that of continue, {title, axis, columns, rows} each.

    Of layers that speak, by layer and by the probability of the likeliest token; the others' fall by Zipf's law, and no
    n-gram matched. Of layer 0, by draft and by the length of the match, which always went on alike.
    """
    row = feature_row(policy.features, policy.layers)

    def drawn(name: str, states: list[State]) -> dict[str, Any]:
        go_on, exit_ = policy.values(np.stack([row(state) for state in states])).T
        return {"name": name, "values": [_short(value) for value in (exit_ - go_on).tolist()]}

    spoken = [layer for layer in policy.layers if 0 < layer < layer_count]  # at the last one nothing is drafted
    ranks, steepness = np.log(np.arange(1, 2049)), np.linspace(0, 12, 241)
    first = 1 / np.exp(-steepness[:, None] * ranks).sum(1)
    sure = (np.arange(COLUMNS) + 0.5) / COLUMNS
    maps = []
    for draft, title in (1, "Draft from this layer, or go deeper?"), (2, "Take a second draft, or stop?"):
        rows = []
        for layer in spoken:
            states = []
            for steep in np.interp(sure, first, steepness):
                logp = -steep * ranks - np.log(np.exp(-steep * ranks).sum())
                q = np.exp(logp)
                seen = {"conf_topk": -logp[:TOP_K].mean(), "entropy": -(q * logp).sum(), "margin": q[0] - q[1]}
                seen |= {"top1_logp": logp[0], "draft_logp": (draft - 1) * logp[0]}
                phase = DRAFT if draft > 1 else WALK
                states.append(State(layer, draft, phase, -1, **{name: float(x) for name, x in seen.items()}))
            forced = draft == 1 and layer == policy.layers[-1]
            rows.append(drawn(f"layer {layer}", states) if not forced else {"name": f"layer {layer}", "values": None})
        maps.append({"title": title, "axis": "probability of its token", "columns": sure.tolist(), "rows": rows})
    if 0 in policy.layers:
        lengths, drafts = range(1, COLUMNS + 1), (1, 2, 3, 4, 6, 8, 12, 16, 24)
        agree = {"lookup_agreement": 1.0, "lookup_match": 1.0}
        rows = [
            drawn(
                f"draft {k}",
                [State(0, k, DRAFT if k > 1 else WALK, -1, lookup_length=n + k - 1, **agree) for n in lengths],
            )
            for k in drafts
            if k <= policy.max_drafts
        ]
        title, axis = "Copy from the text, and how much?", "tokens that match before the first draft"
        maps.append({"title": title, "axis": axis, "columns": list(lengths), "rows": rows})
    return [drawn_map for drawn_map in maps if drawn_map["rows"]]


def read_bench(path: Path) -> list[dict[str, Any]]:
    """The tables in what `lede bench --json` printed. Raises ReportError for another file."""
    try:
        content = json.loads(path.read_bytes())
        return [_bench_table(table) for table in content.get("tables", [content])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ReportError(f"{path} is not what lede bench --json prints") from None


def _bench_table(table: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for row in table["rows"]:
        numbers: dict[str, float | None] = {name: float(row[name]) for name in SPEEDS}
        numbers |= {name: None if row[name] is None else float(row[name]) for name in MEASURES}
        rows.append({"method": str(row["method"]), "identical": row["identical"], **numbers})
    facts = (str(table[name]) for name in ("model", "task", "dtype", "device"))
    prompts = f"{table['prompts']} held-out prompts, {table['max_new_tokens']} tokens each"
    return {"title": " · ".join((*facts, prompts)), "rows": rows}


def report(
    model: Model,
    policy: Policy | None,
    texts: Sequence[dict[str, Any]] = (),
    bench: Sequence[dict[str, Any]] = (),
    live: bool = False,
) -> dict[str, Any]:
    """What the page shows.

    texts: {prompt, rounds, summary} each. bench: `read_bench`. live: rounds come from /events.
    """
    runs_on = device_facts(model.device)
    threads = f"threads: {runs_on['threads']}" if runs_on["type"] == "cpu" else ""
    about = f"{model.layer_count} layers", str(model.dtype).removeprefix("torch."), runs_on["name"], threads
    return {
        "title": f"{model.name}, written with lede",
        "about": " · ".join(filter(None, (*about, f"lede {version('lede')}"))),
        "layer_count": model.layer_count,
        "layers": [] if policy is None else [layer for layer in policy.layers if layer < model.layer_count],
        "maps": [] if policy is None else policy_maps(policy, model.layer_count),
        "texts": texts,
        "bench": bench,
        "live": live,
    }


def render(content: dict[str, Any]) -> str:
    """The page of a report, one HTML file that loads nothing else."""
    from jinja2 import Environment, FileSystemLoader

    page = Environment(loader=FileSystemLoader(Path(__file__).parent / "page"), autoescape=True)
    return page.get_template("page.html").render(report=content)


def _short(value: float, digits: int = 4) -> float:
    """A number for people, which may well be shorter in the file."""
    return float(f"{value:.{digits}g}")
