"""The paper's numbers: all there, found by our names, and consistent with each other but for the two misprints."""

from collections import Counter

import pytest

from lede.bench.paper import METHODS, MODELS, ROWS, PaperRow, paper_row

MEASURES = ("exit_layer", "draft_length", "acceptance", "speedup", "rouge_l")


def test_the_tables_have_the_paper_s_shape():
    assert Counter((r.table, r.model) for r in ROWS) == {
        (1, "LLaMA-3.2-1B"): 20,
        (1, "LLaMA-2-7B"): 20,
        (1, "LLaMA-2-13B"): 20,
        (2, "CodeLLaMA-7B"): 5,
        (2, "CodeLLaMA-34B"): 5,
        (3, "LLaMA-2-7B"): 3,
    }
    assert len({(r.table, r.model, r.task, r.method) for r in ROWS}) == len(ROWS)
    assert {r.method for r in ROWS if r.table < 3} == {"AR", "LS", "LITE", "DV", "LEDE"}
    # sums over whole columns of the paper's tables: one wrong digit anywhere changes one of them
    sums = {
        table: [round(sum(getattr(r, name) or 0 for r in ROWS if r.table == table), 3) for name in MEASURES]
        for table in (1, 2, 3)
    }
    assert sums == {
        1: [482.68, 335.441, 49.852, 104.13, 10.67],
        2: [106.95, 63.0, 5.748, 16.25, 0],
        3: [20.59, 20.71, 2.248, 6.73, 0],
    }


@pytest.mark.parametrize(
    ("model", "task", "method", "row"),
    [
        ("llama3.2-1B", "alpaca", "layerskip", (1, "LLaMA-3.2-1B", "LS", 4, 4, 0.751, 1.73, 0.153)),
        ("llama3.2-1B", "topv2", "draft-verify", (1, "LLaMA-3.2-1B", "DV", 3, 6.94, 0.905, 1.78, 0.068)),
        ("llama2-7B", "cnn_dm_summarization", "lite", (1, "LLaMA-2-7B", "LITE", 15.39, 11.82, 0.955, 1.54, 0.193)),
        ("llama2-7B", "cnn_dm_lm", "lede-paper", (1, "LLaMA-2-7B", "LEDE", 7.05, 6.2, 0.904, 2.72, 0.225)),
        ("llama2-13B", "topv2", "lede", (1, "LLaMA-2-13B", "LEDE", 12.73, 8.06, 0.955, 2.56, 0.155)),
        ("llama2-13B", "alpaca", "autoregressive", (1, "LLaMA-2-13B", "AR", None, None, None, 1, 0.246)),
        ("codellama-7B", "humaneval", "lite", (2, "CodeLLaMA-7B", "LITE", 20.24, 11.72, 0.838, 1.3, None)),
        ("codellama-34B", "humaneval", "layerskip", (2, "CodeLLaMA-34B", "LS", 6, 12, 0.272, 1.61, None)),
        ("codellama-34B", "humaneval", "lede-paper", (2, "CodeLLaMA-34B", "LEDE", 14.57, 4.41, 0.864, 2.07, None)),
    ],
)
def test_rows_are_found_by_our_names(model: str, task: str, method: str, row: tuple):
    table, name, theirs, *values = row
    assert paper_row(f"facebook/layerskip-{model}", task, method) == PaperRow(table, name, task, theirs, *values)
    assert paper_row(f"/models/layerskip-{model.lower()}/", task, method) == paper_row(
        f"layerskip-{model}", task, method
    )


def test_ablations_name_no_task():
    rows = {paper_row("facebook/layerskip-llama2-7B", task, "lede-fixed-exit") for task in ("topv2", "alpaca")}
    assert rows == {PaperRow(3, "LLaMA-2-7B", None, "w/o Dynamic Exit", 6.0, 6.87, 0.69, 1.99, None)}
    length = paper_row("facebook/layerskip-llama2-7B", "topv2", "lede-fixed-length")
    assert length == PaperRow(3, "LLaMA-2-7B", None, "w/o Adaptive Drafting", 7.2, 6.0, 0.7, 2.04, None)
    assert paper_row("facebook/layerskip-llama2-7B", "stdlib", "lede-fixed-exit") is None
    assert paper_row("facebook/layerskip-llama2-13B", "topv2", "lede-fixed-exit") is None


@pytest.mark.parametrize(
    ("model", "task", "method"),
    [
        ("lede-tiny", "topv2", "lede"),
        ("meta-llama/Llama-2-7b-hf", "topv2", "lede"),
        ("facebook/layerskip-llama2-7B", "stdlib", "lede"),
        ("facebook/layerskip-llama2-7B", "humaneval", "lede"),
        ("facebook/layerskip-llama2-7B", "topv2", "del"),
    ],
)
def test_nothing_is_made_up(model: str, task: str, method: str):
    assert paper_row(model, task, method) is None


def test_every_row_can_be_reached_and_is_possible():
    """All but the two misprints: an acceptance is a share, a draft has at most 12 tokens, ROUGE-L agrees by column."""
    reached = {
        paper_row(model, row.task or "alpaca", method)
        for row in ROWS
        for model, theirs in MODELS.items()
        for method, name in METHODS.items()
        if (theirs, name) == (row.model, row.method)
    }
    full = PaperRow(3, "LLaMA-2-7B", None, "LEDE", 7.39, 7.84, 0.858, 2.7, None)
    assert reached == set(ROWS) - {full}  # behind Table 1's
    plain = {(r.model, r.task): r.rouge_l for r in ROWS if r.method == "AR"}
    odd = set()
    for r in ROWS:
        length, acceptance = r.draft_length, r.acceptance
        possible = length is None or (acceptance is not None and acceptance <= 1 <= length <= 12)
        if not possible or (r.rouge_l is not None and abs(r.rouge_l - (plain[r.model, r.task] or 0)) > 0.01):
            odd.add((r.model, r.task, r.method))
    assert odd == {("LLaMA-3.2-1B", "topv2", "LITE"), ("LLaMA-2-7B", "topv2", "LITE")}
