"""The command line, end to end: as a user runs it, on a tiny saved model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lede.cli import app
from lede.policy import load_policy

BENCH_KEYS = {"model", "task", "device", "dtype", "threads", "versions", "prompts", "rows", "differences", "run"}
ROW_KEYS = {
    "method",
    "exit_layer",
    "draft_length",
    "acceptance",
    "tokens_per_round",
    "tokens_per_s",
    "speedup",
    "speedup_low",
    "speedup_high",
    "speedup_over_transformers",
    "identical",
    "prompt_share",
    "draft_share",
    "decision_share",
    "verify_share",
    "host_share",
    "choose_share",
    "rouge_l",
    "parameters",
}


def lede(*arguments: object, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "lede", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", timeout=600, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def write_prompts(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": text, "id": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory, checkpoint) -> dict[str, Path]:
    """A dataset collected and a policy learned by the commands, for the tests below."""
    folder = tmp_path_factory.mktemp("work")
    prompts = write_prompts(
        folder / "prompts.jsonl", ["def mean(values):", "class Tree:", "import os\n", "x = [1, 2, 1, 2, "]
    )
    data, policy = folder / "data" / "tiny", folder / "policy"
    collected = lede(
        "collect",
        "--model",
        checkpoint,
        "--prompts",
        prompts,
        "--out",
        data,
        "--episodes",
        6,
        "--threads",
        1,
        "--max-new-tokens",
        32,
        "--candidates",
        "2,0,1",
        "--sweep",
        "--json",
    )
    facts = json.loads(collected.stdout)
    assert (facts["episodes"], facts["planned"], facts["resumed"]) == (6, 6, 0)
    assert facts["tokens"] <= 6 * 32
    assert facts["decisions"] > 20
    assert collected.stderr == ""
    learned = lede("learn", "--dataset", data, "--out", policy, "--updates", 40, "--candidates", "0,1,2", "--json")
    assert isinstance(json.loads(learned.stdout), dict)
    return {"folder": folder, "prompts": prompts, "data": data, "policy": policy, "model": checkpoint}


def test_inspect_says_what_the_dataset_holds_and_draws_it(work):
    picture = work["folder"] / "data.png"
    facts = json.loads(lede("inspect", work["data"], "--json", "--plot", picture).stdout)
    import polars as pl

    from lede import replay

    rows = replay.open_dataset(work["data"]).transitions.collect()
    assert rows["layer"].unique().sort().to_list() == [0, 1, 2]
    assert len(rows) in _numbers(facts)
    assert rows.filter(pl.col("phase") == 0)["accepted"].dtype == pl.Boolean
    assert replay.verify(work["data"]) == []
    assert picture.read_bytes().startswith(b"\x89PNG")


def _numbers(value) -> set:
    """Every number in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return set().union(*map(_numbers, value))
    return {value} if isinstance(value, int | float) else set()


def test_generate_writes_the_same_text_with_and_without_a_policy(work):
    common = ["--model", work["model"], "--max-new-tokens", 24, "--threads", 1, "--dtype", "float32"]
    prompt = "def mean(values):"
    learned = json.loads(lede("generate", "--policy", work["policy"], "--prompt", prompt, "--json", *common).stdout)
    plain = lede("generate", "--plain", *common, stdin=prompt)
    unfinished = "\N{REPLACEMENT CHARACTER}\n"  # a character whose last bytes never came is not written
    assert plain.stdout.rstrip(unfinished) == learned["text"].replace("\r", "\n").rstrip(unfinished)
    assert f"{len(learned['token_ids'])} tokens" in plain.stderr
    assert learned["finish"] in ("length", "stop")
    assert learned["rounds"] <= len(learned["token_ids"]) <= 24
    assert {"seconds", "tokens_per_s", "exit_layer", "draft_length", "acceptance", "tokens_per_round"} <= learned.keys()


def test_generate_traces_which_layer_drafted_what(work):
    traced = lede(
        "generate",
        "--model",
        work["model"],
        "--policy",
        work["policy"],
        "--prompt",
        "-",
        "--trace",
        "--threads",
        1,
        "--max-new-tokens",
        8,
        stdin="class Tree:",
    )
    policy = load_policy(work["policy"])  # which layers pay is the machine's to say
    layers = [layer for layer in policy.layers if layer < policy.info["model"]["layers"]]  # a bypass drafts nothing
    assert all(("lookup" if layer == 0 else f"layer {layer}") in traced.stdout for layer in layers)
    assert "class Tree:" in traced.stdout


@pytest.mark.slow
def test_bench_reports_what_the_readme_promises(work):
    other = write_prompts(work["folder"] / "test.jsonl", ["def median(values):", "while True:", "with open("])
    picture = work["folder"] / "lede.bench.png"
    methods = "transformers,autoregressive,layerskip,lede,lede-fixed-length"
    command = (
        "bench",
        "--model",
        work["model"],
        "--policy",
        work["policy"],
        "--prompts",
        other,
        "--training",
        work["prompts"],
        "--limit",
        3,
        "--tuning",
        2,
        "--max-new-tokens",
        12,
        "--threads",
        1,
        "--dtype",
        "float32",
        "--out",
        work["folder"] / "runs",
        "--methods",
        methods,
    )
    report = json.loads(lede(*command, "--json", "--plot", picture).stdout)
    assert report.keys() >= BENCH_KEYS
    assert (report["prompts"], report["dtype"], report["threads"]) == (3, "float32", 1)
    assert {"lede", "torch", "transformers"} <= report["versions"].keys()
    rows = {row["method"]: row for row in report["rows"]}
    assert list(rows) == methods.split(",")
    assert all(row.keys() == ROW_KEYS for row in rows.values())
    assert all(row["identical"] for row in rows.values())  # in float32 also transformers' own
    assert all(row["speedup_low"] <= row["speedup"] <= row["speedup_high"] for row in rows.values())
    assert rows["autoregressive"]["speedup"] == 1.0
    assert rows["autoregressive"]["draft_length"] is None
    assert rows["transformers"]["speedup_over_transformers"] == 1.0
    assert rows["layerskip"]["exit_layer"] == report["tuning"]["layerskip"]["parameters"]["exit_layer"]
    assert picture.read_bytes().startswith(b"\x89PNG")

    again = lede(*command).stdout  # from what is there, for people
    assert "nothing left to measure" in again
    assert "--fresh" in again
    table = [line for line in again.splitlines() if line.startswith(tuple(rows)) and "× (" in line]
    assert len(table) == len(rows)
    assert all(len(line) <= 100 for line in table)
    assert f"{rows['lede']['speedup']:.2f}× (" in again


@pytest.mark.slow
def test_bench_samples_as_it_is_asked_to_and_says_so(work):
    texts = write_prompts(work["folder"] / "sampled.jsonl", ["def median(values):", "while True:"])
    command = ["bench", "--model", work["model"], "--prompts", texts, "--training", work["prompts"], "--limit", 2]
    command += ["--tuning", 1, "--max-new-tokens", 12, "--threads", 1, "--dtype", "float32", "--check"]
    command += ["--out", work["folder"] / "sampled", "--methods", "transformers,prompt-lookup,lede"]
    command += ["--policy", work["policy"], "--temperature", 0.8, "--top-p", 0.9, "--seed", 7]
    report = json.loads(lede(*command, "--json").stdout)
    asked = {name: report[name] for name in ("temperature", "top_k", "top_p", "seed")}
    assert asked == {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "seed": 7}
    same = {row["method"]: row["identical"] for row in report["rows"]}
    assert same == {"transformers": None, "autoregressive": True, "prompt-lookup": True, "lede": True}
    assert report["check"]["predictions"].keys() == same.keys() - {"transformers"}
    again = lede(*command).stdout
    assert "nothing left to measure" in again
    assert "temperature 0.8, top-k 50, top-p 0.9, seed 7" in again
    assert "which is timed and not compared" in " ".join(again.split())
    assert "nothing left to measure" not in lede(*command, "--top-k", 5).stdout


@pytest.mark.slow
def test_bench_checks_several_policies_on_both_sides_of_a_prompt_file(work):
    variant = shutil.copytree(work["policy"], work["folder"] / "variant")
    both = write_prompts(work["folder"] / "both.jsonl", [f"def f{i}(values):" for i in range(30)])
    command = (
        "bench",
        "--model",
        work["model"],
        "--prompts",
        both,
        "--check",
        "--methods",
        "layerskip,lede",
        "--policy",
        work["policy"],
        "--policy",
        variant,
        "--limit",
        2,
        "--tuning",
        2,
        "--max-new-tokens",
        8,
        "--threads",
        1,
        "--out",
        work["folder"] / "checked",
    )
    report = json.loads(lede(*command, "--json").stdout)
    assert report["task"] == "both"
    assert [row["method"] for row in report["rows"]] == ["autoregressive", "layerskip", "lede", "variant"]
    first, second = ([row[key] for key in ("exit_layer", "acceptance")] for row in report["rows"][2:])
    assert first == second  # of the same policy
    assert report["check"]["oracle_speedup"] > 0 and len(report["check"]["predictions"]) == 4
    assert report["check"]["oracle_layers"] == [0, 1, 2]
    again = lede(*command).stdout
    assert "nothing left to measure" in again
    assert f"{report['check']['predictions']['lede'][0]:.2f}×" in again
    assert all(
        len(line) <= 100
        for line in map(str.rstrip, again.splitlines())
        if line.startswith(("method", "autoregressive", "layerskip"))
    )


def test_evaluate_scores_policies_and_rivals_without_a_model(work):
    picture = work["folder"] / "evaluation.png"
    command = ("evaluate", "--dataset", work["data"], "--policy", work["policy"])
    report = json.loads(lede(*command, "--json", "--plot", picture).stdout)
    names = [row["method"] for row in report["rows"]]
    assert names[0] == "autoregressive"
    assert {"layerskip", "del", "adaptive-lookup"} < set(names)
    assert names[-1] == "lede"
    assert all(row["predicted_speedup"] <= report["oracle_speedup"] + 1e-9 for row in report["rows"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = lede(*command, "--no-rivals").stdout
    assert all(
        len(line) <= 100
        for line in map(str.rstrip, shown.splitlines())
        if line.startswith(("autoregressive", "lede", "always"))
    )
    assert "oracle that pays to look" in shown


def test_help_and_import_load_no_library_that_takes_seconds():
    script = """
import sys
import lede
from typer.testing import CliRunner
from lede.cli import app
from lede.policy import load_policy
for arguments in ([], ["collect"], ["inspect"], ["learn"], ["generate"], ["bench"], ["evaluate"]):
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0 and "Usage" in result.output, result.output
print(*sorted({"torch", "d3rlpy", "polars", "transformers", "numpy"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() in ("", "numpy")


# ---- what a user can get wrong: exit code 2, one line, no traceback. In this process, to save starting each. ---------


@pytest.fixture
def folder(work, tmp_path, monkeypatch) -> Path:
    """An empty working directory with a copy of the dataset, its files ready to be damaged."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(work["data"], tmp_path / "data")
    return tmp_path


def complaint(*arguments: object) -> str:
    """The one line that a wrong command says."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip()


def collect(work, out, *more: object, model=None) -> tuple[object, ...]:
    return (
        "collect",
        "--model",
        model or work["model"],
        "--prompts",
        work["prompts"],
        "--out",
        out,
        "--episodes",
        2,
        "--threads",
        1,
        "--max-new-tokens",
        4,
        *more,
    )


def generate(work, *more: object, model=None) -> tuple[object, ...]:
    return (
        "generate",
        "--model",
        model or work["model"],
        "--prompt",
        "a",
        "--max-new-tokens",
        2,
        "--threads",
        1,
        *more,
    )


def test_missing_paths_are_named(work, folder):
    assert "nowhere" in complaint(*generate(work, "--plain", model="./nowhere"))
    assert "nowhere" in complaint(*generate(work, "--policy", "nowhere"))
    assert "nowhere" in complaint("inspect", "nowhere")
    assert "nowhere" in complaint("learn", "--dataset", "nowhere")
    assert "nowhere" in complaint(*collect(work, folder / "new", "--prompts", "nowhere.jsonl"))
    assert "nowhere" in complaint("bench", "--model", work["model"], "--policy", "nowhere")
    assert not (folder / "new").exists()


def test_a_bad_prompt_line_is_named_by_number(work, folder):
    (folder / "bad.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": 7}\n')
    assert "bad.jsonl, line 3" in complaint(*collect(work, folder / "new", "--prompts", folder / "bad.jsonl"))


def test_a_policy_of_another_model_is_refused(work, folder):
    from tests.models import byte_llama, byte_tokenizer

    byte_llama(num_hidden_layers=5).save_pretrained(folder / "other")
    byte_tokenizer().save_pretrained(folder / "other")
    message = complaint(*generate(work, "--policy", work["policy"], model=folder / "other"))
    assert "number of layers (4)" in message
    assert "has (5)" in message
    explore = ("--policy", work["policy"], "--explore", "epsilon")
    assert "number of layers (4)" in complaint(*collect(work, folder / "new", *explore, model=folder / "other"))
    assert "layers is 4 there, 5 here" in complaint(*collect(work, folder / "data", model=folder / "other"))


def test_torn_and_foreign_parquet_files_are_named(work, folder):
    path = next((folder / "data" / "transitions").rglob("*.parquet"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert path.name in complaint("learn", "--dataset", folder / "data", "--out", folder / "policy")
    import polars as pl

    pl.DataFrame({"episode": [1]}).write_parquet(path)
    assert path.name in complaint("learn", "--dataset", folder / "data", "--out", folder / "policy")
    assert not (folder / "policy").exists()


def test_devices_and_dtypes_that_are_not_there_are_named(work, folder):
    assert "cuda:99" in complaint(*generate(work, "--plain", "--device", "cuda:99"))
    assert "abacus" in complaint(*generate(work, "--plain", "--device", "abacus"))
    assert "int3" in complaint(*generate(work, "--plain", "--dtype", "int3"))


def test_a_model_that_is_no_llama_is_refused_by_its_kind(work, folder):
    from transformers import GPT2Config

    GPT2Config(n_layer=2).save_pretrained(folder / "gpt")
    assert "'gpt2'" in complaint(*generate(work, "--plain", model=folder / "gpt"))


def test_candidates_outside_the_model_are_named(work, folder):
    assert "layers 4, 7" in complaint(*collect(work, folder / "new", "--candidates", "1,4,7"))
    assert "1,x" in complaint(*collect(work, folder / "new", "--candidates", "1,x"))
    assert not (folder / "new").exists()


def test_a_choice_that_there_is_not_or_a_split_that_is_empty_is_named(work, folder):
    assert "--split dev: give train, validation, test or all" in complaint("collect", "--split", "dev")
    assert "--explore boldly: give uniform, noisy or epsilon" in complaint("collect", "--explore", "boldly")
    one = write_prompts(folder / "one.jsonl", ["class Tree:"])
    assert "no prompts in its split test" in complaint(
        *collect(work, folder / "new", "--prompts", one, "--split", "test")
    )


def test_other_arguments_are_named_and_a_new_run_takes_them(work, folder):
    message = complaint(*collect(work, folder / "data", "--candidates", "0,1,2"))
    assert "max_new_tokens is 32 there, 4 here" in message
    assert "--new-run" in message
    result = CliRunner().invoke(
        app, list(map(str, collect(work, folder / "data", "--candidates", "0,1,2", "--new-run")))
    )
    assert result.exit_code == 0, result.output
    from lede import replay

    assert len(replay.open_dataset(folder / "data").runs) == 2


@pytest.mark.slow
def test_what_a_bench_cannot_measure_is_named(work, folder):
    assert "no method leda: choose among transformers," in complaint("bench", "--methods", "lede,leda")
    assert "lede learn" in complaint("bench", "--methods", "autoregressive,lede-paper")
    assert "no task 'stdlip': choose one of stdlib," in complaint("bench", "--task", "stdlip", "--methods", "layerskip")
    assert "nowhere" in complaint("bench", "--policy", "nowhere")
    assert "nowhere" in complaint("bench", "--prompts", "nowhere", "--methods", "layerskip")
    for option, value in (("--top-k", 5), ("--top-p", 0.9)):
        assert f"{option} is for sampled texts" in complaint("bench", "--methods", "layerskip", option, value)
    from lede.commands.bench import plan
    from lede.paths import default_policy_path

    _, policies, notes = plan(None, None, {})
    assert policies["lede"] == default_policy_path()  # nothing was learned here: the one in the package
    assert any("--out policies/lede-tiny-exits makes one" in note for note in notes)


def test_what_cannot_be_evaluated_is_named(work, folder):
    assert "nowhere" in complaint("evaluate", "--dataset", "nowhere")
    shutil.rmtree(folder / "data" / "sweeps")
    assert "no swept episodes" in complaint("evaluate", "--dataset", folder / "data", "--policy", work["policy"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--plain", "--policy", "p"),
        ("generate", "--trace", "--json"),
        ("collect", "--explore", "epsilon"),
        ("bench", "--training", "p"),
        ("bench", "--task", "stdlib", "--prompts", "p", "--training", "q"),
        ("bench", "--task", "stdlib", "--task", "alpaca", "--plot", "p.png"),
        ("bench", "--policy", "a", "--policy", "b/same", "--policy", "c/same"),
        ("bench", "--policy", "a", "--policy", "layerskip"),
        ("evaluate", "--policy", "a", "--policy", "b/same", "--policy", "c/same"),
    ],
)
def test_options_that_do_not_go_together_are_refused(folder, arguments):
    assert "--" in complaint(*arguments)
