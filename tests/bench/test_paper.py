"""The paper's numbers: found by our names, and consistent with each other but for the two misprints."""

import pytest

from lede.bench.paper import METHODS, MODELS, ROWS, PaperRow, paper_row


def test_rows_are_found_by_our_names() -> None:
    hub = paper_row("facebook/layerskip-llama2-7B", "cnn_dm_lm", "lede")
    assert hub == PaperRow(1, "LLaMA-2-7B", "cnn_dm_lm", "LEDE", 7.05, 6.2, 0.904, 2.72, 0.225)
    assert paper_row("/models/layerskip-llama2-7B/", "cnn_dm_lm", "lede-paper") == hub
    assert paper_row("facebook/layerskip-codellama-7B", "humaneval", "lite") == PaperRow(
        2, "CodeLLaMA-7B", "humaneval", "LITE", 20.24, 11.72, 0.838, 1.3, None
    )


def test_ablations_name_no_task() -> None:
    rows = {paper_row("facebook/layerskip-llama2-7B", task, "lede-fixed-exit") for task in ("topv2", "alpaca")}
    assert rows == {PaperRow(3, "LLaMA-2-7B", None, "w/o Dynamic Exit", 6.0, 6.87, 0.69, 1.99, None)}
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
        ("facebook/layerskip-codellama-34B", "humaneval", "lede"),  # the paper prints none
    ],
)
def test_nothing_is_made_up(model: str, task: str, method: str) -> None:
    assert paper_row(model, task, method) is None


def test_every_row_can_be_reached_and_is_possible() -> None:
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
    assert len(ROWS) == 3 * 5 * 4 + 9 + 3
    plain = {(r.model, r.task): r.rouge_l for r in ROWS if r.method == "AR"}
    odd = set()
    for r in ROWS:
        length, acceptance = r.draft_length, r.acceptance
        possible = length is None or (acceptance is not None and acceptance <= 1 <= length <= 12)
        if not possible or (r.rouge_l is not None and abs(r.rouge_l - (plain[r.model, r.task] or 0)) > 0.01):
            odd.add((r.model, r.task, r.method))
    assert odd == {("LLaMA-3.2-1B", "topv2", "LITE"), ("LLaMA-2-7B", "topv2", "LITE")}
