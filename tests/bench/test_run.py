"""A whole bench on a tiny model: its report, and that it can be stopped anywhere and goes on."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lede.bench import run as bench_run
from lede.bench.job import Job, question
from lede.bench.names import FOREIGN, METHODS, POLICY_OF
from lede.bench.paper import paper_row
from lede.bench.plot import draw
from lede.bench.run import Report, bench
from lede.bench_tables import bench_title, bench_words, category_table
from lede.collect.prompts import Prompt
from lede.decode.facts import model_facts
from lede.decode.load import load_model
from lede.decode.model import Model
from lede.decode.sampling import Settings
from lede.policy import Policy
from lede.replay.errors import DatasetError

PROMPTS = tuple(
    Prompt(f"p{i}", "toy", text, reference="a b") for i, text in enumerate(("def mean(", "while x", "import"))
)
TRAINING = (Prompt("t0", "toy", "class Tree:"), Prompt("t1", "toy", "x = [1, 2, 1, 2, "))
POLICIES = tuple(dict.fromkeys(POLICY_OF.values()))
QUICK = ("autoregressive", "layerskip")
SAMPLED = Settings(12, temperature=0.9, top_k=40, top_p=0.95, seed=3)
SAMPLING = ({}, {"temperature": 0.5}, {"top_k": 0}, {"top_p": 1.0}, {"seed": 4})


@pytest.fixture(scope="module")
def model(checkpoint) -> Model:
    return load_model(checkpoint, "float32", "cpu")


@pytest.fixture(scope="module")
def policy(model, tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    features = ("conf_topk", "margin", "lookup_length", "layer=0", "layer=1", "layer=2")
    weights = ((rng.normal(size=(2, 6)).astype("f4"), np.zeros(2, "f4")),)
    folder = tmp_path_factory.mktemp("policy")
    ones = np.ones(6, "f4")
    Policy(features, (0, 1, 2), weights, 0 * ones, ones, {"model": model_facts(model)}).save(folder)
    return folder


def measured(model: Model, checkpoint: Path, out: Path, job: Job, **more) -> Report:
    return bench(model, str(checkpoint), job, out, **more)


@pytest.fixture(scope="module")
def everything(model, checkpoint, policy, tmp_path_factory) -> tuple[Report, Path, list[tuple[float, str]]]:
    """All methods, measured once."""
    job = Job("toy", PROMPTS, TRAINING, Settings(12), METHODS, dict.fromkeys(POLICIES, policy))
    out, seen = tmp_path_factory.mktemp("bench"), []
    report = measured(model, checkpoint, out, job, progress=lambda share, note: seen.append((share, note)))
    return report, out, seen


def test_every_method_writes_the_library_s_text(everything):
    report, _, _ = everything
    assert [row.method for row in report.rows] == list(METHODS)
    assert all(row.identical for row in report.rows)
    assert report.differences == []
    by_prompt = {s.prompt_id: s.token_ids for s in report.samples if s.method == "transformers"}
    assert all(s.token_ids == by_prompt[s.prompt_id] for s in report.samples)


def test_a_row_says_where_time_goes_and_what_was_tuned(everything):
    report, _, _ = everything
    rows = {row.method: row for row in report.rows}
    for name, row in rows.items():
        if name.startswith("transformers"):
            assert row.verify_share is None
            continue
        parts = (row.draft_share, row.decision_share, row.verify_share, row.host_share)
        assert sum(parts) == pytest.approx(1)
        assert all(0 <= part <= 1 for part in parts)
        assert 0 < row.prompt_share < 1
    tuned = {name for name, row in rows.items() if row.parameters}
    assert tuned == set(METHODS) - {"transformers", "autoregressive", *POLICIES}
    assert rows["lede-fixed-exit"].exit_layer in (None, report.tuned["lede-fixed-exit"]["parameters"]["exit_layer"])
    assert rows["prompt-lookup"].exit_layer in (None, 0.0)
    assert all(row.rouge_l is not None for row in rows.values())
    assert len({row.rouge_l for row in rows.values()}) == 1  # of the same texts


def test_progress_goes_up_and_says_what_runs(everything):
    _, _, seen = everything
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert {"warming up: lede", "prompt 3 of 3: autoregressive", "tuning del"} <= {note for _, note in seen}


def test_the_report_is_json_and_the_same_command_measures_nothing_again(
    everything, model, checkpoint, policy, monkeypatch
):
    report, out, _ = everything
    job = Job("toy", PROMPTS, TRAINING, Settings(12), METHODS, dict.fromkeys(POLICIES, policy))
    for name in ("measure", "prepare"):
        monkeypatch.setattr(bench_run, name, None)
    again = measured(model, checkpoint, out, job)
    first, second = json.loads(json.dumps(report.to_json())), json.loads(json.dumps(again.to_json()))
    assert (first.pop("resumed"), second.pop("resumed")) == (0, len(METHODS) * len(PROMPTS))
    assert first == second


def test_pictures(everything, tmp_path):
    report, _, _ = everything
    one = draw(tmp_path / "lede.bench.png", [report])
    several = draw(tmp_path / "plots", [report, replace(report, facts=report.facts | {"task": "other"})])
    assert [path.name for path in one + several] == ["lede.bench.png", "tiny-toy.png", "tiny-other.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in one + several)
    with pytest.raises(DatasetError, match="must end in one of"):
        draw(tmp_path / "lede.docx", [report])


def test_what_decides_the_numbers_decides_the_folder(model, policy):
    job = Job("toy", PROMPTS, TRAINING, Settings(12), QUICK, {"lede": policy}, threads=1)

    def asked(changed: Job) -> str:
        return json.dumps(question(model, changed), sort_keys=True)

    changes = [
        replace(job, task="other"),
        replace(job, prompts=PROMPTS[:2]),
        replace(job, training=TRAINING[:1]),
        replace(job, settings=Settings(13)),
        *(replace(job, settings=replace(SAMPLED, **own)) for own in SAMPLING),
        replace(job, threads=2),
        replace(job, policies={}),
        replace(job, methods=METHODS),
        replace(job, prompts=(*PROMPTS[:2], replace(PROMPTS[2], text="imports"))),
    ]
    asking = {asked(job), *map(asked, changes)}
    assert len(asking) == len(changes) + 1
    assert asked(replace(job)) in asking
    # of greedy texts only that they are
    assert asked(replace(job, settings=Settings(12, top_k=3, top_p=0.5, seed=9))) in asking


@pytest.fixture(scope="module")
def sampled(model, checkpoint, policy, tmp_path_factory) -> Report:
    """All methods on sampled texts."""
    job = Job("toy", PROMPTS, TRAINING, SAMPLED, METHODS, dict.fromkeys(POLICIES, policy))
    return measured(model, checkpoint, tmp_path_factory.mktemp("sampled"), job)


def test_every_method_of_ours_writes_the_same_sampled_text(sampled, everything):
    assert [row.method for row in sampled.rows] == list(METHODS)
    for row in sampled.rows:
        assert row.identical is (None if row.method in FOREIGN else True), row.method
    assert sampled.differences == []
    texts = {s.prompt_id: s.token_ids for s in sampled.samples if s.method == "autoregressive"}
    assert texts != {s.prompt_id: s.token_ids for s in everything[0].samples if s.method == "autoregressive"}
    words = " ".join(map(str, bench_words(sampled)))
    assert "transformers, transformers-early-exit: sampled from the library's own random numbers" in words
    assert {row.method: row.tokens_per_s > 0 for row in sampled.rows}["transformers"]  # but it is timed


def test_a_table_and_its_json_say_how_texts_were_chosen(sampled, everything):
    facts = sampled.to_json()
    assert {name: facts[name] for name in ("temperature", "top_k", "top_p", "seed")} == {
        "temperature": 0.9,
        "top_k": 40,
        "top_p": 0.95,
        "seed": 3,
    }
    assert sampled.chosen == "temperature 0.9, top-k 40, top-p 0.95, seed 3"
    assert sampled.chosen in str(bench_title(sampled))
    assert "12 tokens, greedy" in str(bench_title(everything[0]))


def test_a_seed_names_a_prompt_s_text_and_another_seed_another(model, checkpoint, sampled, tmp_path):
    def texts(settings, prompts=PROMPTS):
        report = measured(model, checkpoint, tmp_path, Job("toy", prompts, TRAINING, settings, ("autoregressive",)))
        return {s.prompt_id: s.token_ids for s in report.samples}

    known = {s.prompt_id: s.token_ids for s in sampled.samples if s.method == "autoregressive"}
    assert texts(SAMPLED) == known
    assert texts(SAMPLED, PROMPTS[1:]) == {p.id: known[p.id] for p in PROMPTS[1:]}  # whatever is beside it
    assert texts(replace(SAMPLED, seed=4)) != known


def test_a_method_with_another_sampled_text_is_told(model, checkpoint, tmp_path):
    job = Job("toy", PROMPTS, TRAINING, SAMPLED, QUICK)
    report = measured(model, checkpoint, tmp_path, job)
    (file,) = tmp_path.rglob("layerskip.jsonl")
    row = json.loads(file.read_text().splitlines()[0])
    row["token_ids"][4] = (row["token_ids"][4] + 1) % model.vocabulary
    file.write_text("\n".join([json.dumps(row), *file.read_text().splitlines()[1:]]) + "\n")
    again = measured(model, checkpoint, tmp_path, job)
    assert [r.identical for r in report.rows] == [True, True]
    assert [r.identical for r in again.rows] == [True, False]
    (parted,) = again.differences
    assert (parted.method, parted.prompt, parted.position) == ("layerskip", row["prompt_id"], 4)
    assert parted.margin > 0  # the plain decoder's token had the highest log p + noise


def test_a_prompt_longer_than_the_context_is_left_out(model, checkpoint, tmp_path):
    job = Job("toy", (*PROMPTS, Prompt("long", "toy", "x" * 300)), TRAINING, Settings(8), QUICK)
    report = measured(model, checkpoint, tmp_path, job)
    assert (report.facts["prompts"], report.facts["left_out"]) == (3, 1)


@pytest.mark.slow
def test_a_killed_bench_keeps_every_whole_line_and_goes_on(checkpoint, tmp_path):
    texts = [f"def f{i}(values):" for i in range(40)]
    for name, some in (("test", texts), ("train", ["class Tree:", "while x"])):
        lines = [json.dumps({"prompt": text, "id": text}) + "\n" for text in some]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    quick = (
        "from functools import partial; from lede.bench import methods, tune; from lede.cli import main; "
        "methods.measure_costs = partial(methods.measure_costs, seconds=0.2); "
        "tune.CONFIGURATIONS, tune.FINALISTS = 3, 1; main()"
    )
    command = [
        sys.executable,
        "-c",
        quick,
        "bench",
        "--model",
        str(checkpoint),
        "--prompts",
        str(tmp_path / "test.jsonl"),
        "--training",
        str(tmp_path / "train.jsonl"),
        "--methods",
        ",".join(QUICK),
        "--max-new-tokens",
        "200",
        "--threads",
        "1",
        "--dtype",
        "float32",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]

    def lines() -> dict[str, list[bytes]]:
        files = {path.name: path for path in (tmp_path / "out").rglob("*.jsonl")}
        return {name: path.read_bytes().split(b"\n")[:-1] for name, path in files.items()}

    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        while len(lines().get("layerskip.jsonl", [])) < 3 and child.poll() is None:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    before = lines()
    with open(next((tmp_path / "out").rglob("layerskip.jsonl")), "ab") as file:
        file.write(b'{"question_id": "torn')
    done = subprocess.run(command, capture_output=True, check=True, timeout=600)
    report, after = json.loads(done.stdout), lines()
    kept = sum(map(len, before.values()))
    assert 3 < kept < 80
    assert report["resumed"] == kept
    for name, rows in before.items():
        assert after[name][: len(rows)] == rows
        assert sorted(json.loads(row)["prompt_id"] for row in after[name]) == sorted(texts)
        assert len(after[name]) == 40
    assert all(row["identical"] for row in report["rows"])


def test_the_paper_s_numbers_stand_beside_ours_where_the_model_is_the_paper_s(everything):
    report, _, _ = everything
    assert report.to_json()["paper"] == {}
    facts = report.facts | {"model": "layerskip-llama2-7B", "task": "alpaca"}
    theirs = replace(report, facts=facts).to_json()["paper"]
    assert theirs["lede"]["speedup"] == paper_row("layerskip-llama2-7B", "alpaca", "lede").speedup
    assert "del" not in theirs


def test_several_categories_have_a_table_of_their_own(model, checkpoint, tmp_path):
    prompts = [
        replace(p, task=task) for p, task in zip(PROMPTS, ("mt_bench/math", "mt_bench/coding", "qa"), strict=True)
    ]
    job = Job("toy", prompts, TRAINING, Settings(12), ("autoregressive", "prompt-lookup"))
    report = measured(model, checkpoint, tmp_path, job)
    assert list(report.categories) == ["mt_bench", "qa"]
    assert [row.method for row in report.categories["qa"]] == ["autoregressive", "prompt-lookup"]
    seconds = sum(s.seconds for s in report.samples if s.method == "autoregressive" and s.task == "qa")
    tokens = sum(s.sums.tokens for s in report.samples if s.method == "autoregressive" and s.task == "qa")
    assert report.categories["qa"][0].tokens_per_s == pytest.approx(tokens / seconds)
    assert report.to_json()["categories"]["qa"][1]["method"] == "prompt-lookup"
    assert [str(column.header) for column in category_table(report).columns][1:] == ["mt_bench", "qa"]
