"""The report: what it holds is what was decoded, and a browser shows it to everyone."""

import json
import re

import pytest
from typer.testing import CliRunner

import lede
from lede.bench.job import Job
from lede.bench.run import bench
from lede.cli import app
from lede.collect.prompts import Prompt
from lede.decode.load import load_model
from lede.decode.round import Round
from lede.decode.sampling import Settings
from lede.policy import load_policy
from lede.serve.report import Teller, policy_maps
from lede.serve.stream import Decoder
from tests.models import byte_tokenizer
from tests.serve.browser import DESK, PHONE, chromium, look, words

SCRIPT = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
PROMPTS = ("def mean(values):\n", SCRIPT)


def report(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["report", "--threads", "1", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def page(tmp_path_factory, checkpoint):
    """A report of two prompts, with a bench's table."""
    folder = tmp_path_factory.mktemp("report")
    model, prompts = load_model(checkpoint, "float32", "cpu"), [Prompt(name, "toy", name) for name in "ab"]
    measured = bench(model, str(checkpoint), Job("toy", prompts, prompts, Settings(6), ("layerskip",)), folder / "runs")
    (folder / "bench.json").write_text(json.dumps(measured.to_json()))
    given = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    given += ["--policy", str(lede.default_policy_path())]  # whatever was learned in this checkout
    report(*given, "--max-new-tokens", 48, "--bench", folder / "bench.json", "--out", folder / "new" / "report.html")
    return folder / "new" / "report.html"


@pytest.fixture(scope="module")
def told(page):
    """The object in the page."""
    return json.loads(re.search('id="report">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)[1])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_its_tokens_are_the_text_and_each_decision_is_where_it_led(told):
    model, policy = lede.load_model(lede.default_model_path()), load_policy(lede.default_policy_path())
    for prompt, text in zip(PROMPTS, told["texts"], strict=True):
        done = lede.generate(model, prompt, policy=policy, max_new_tokens=48)
        shown = [token for round_ in text["rounds"] for token in round_["tokens"]]
        written = [token for token in shown if token["kind"] != "rejected"]
        assert text["prompt"] == prompt and len(written) == text["summary"]["tokens"] == len(done.token_ids)
        assert done.text.startswith("".join(token["text"] for token in written))  # but for a character's first bytes
        assert text["summary"]["same"]
        for told_, round_ in zip(text["rounds"], done.rounds, strict=True):
            asked = [decision for token in told_["tokens"] for decision in token["asked"]]
            assert (told_["layer"], told_["drafted"]) == (round_.exit_layer, len(round_.drafts))
            assert round_.cut or len(asked) == len(round_.decisions)
            for decision in asked:
                assert decision["forced"] or decision["exit"] == (decision["values"][1] > decision["values"][0])


def test_a_token_is_told_with_the_decisions_for_it():
    tokenizer = byte_tokenizer()
    ids = [tuple(tokenizer(text)["input_ids"]) for text in ("abc", "abX")]
    round_ = Round(0, 1, ids[0], (), 2, ids[1], (), False, seconds=0.0, draft_seconds=0.0, verify_seconds=0.0)
    tokens = Teller(Decoder(tokenizer)).round(round_)["tokens"]
    assert [(token["kind"], token["text"]) for token in tokens] == [
        ("kept", "a"),
        ("kept", "b"),
        ("rejected", "c"),
        ("own", "X"),
    ]


def test_the_maps_of_a_policy_are_what_it_does():
    policy = load_policy(lede.default_policy_path())
    first, second, copied = policy_maps(policy, 16)
    assert [row["name"] for row in first["rows"]] == ["layer 3", "layer 4", "layer 6"]
    asked = policy.layers[-1] == 16  # with a bypass behind it the last layer is asked too
    assert (first["rows"][-1]["values"] is not None) == asked
    assert all(row["values"] for row in second["rows"])
    assert copied["rows"][0]["values"] == sorted(copied["rows"][0]["values"])  # the longer the match, the better
    assert [m["title"] for m in policy_maps(policy, 3)] == [copied["title"]]  # at the last layer nothing is drafted


def test_it_is_one_file_that_loads_nothing(page):
    content = page.read_text("utf-8")
    assert len(content) < 200_000
    assert not re.search(r"(src|href)=[\"']?(?!data:)[\w/.]", content.replace("src=x", ""))
    assert "url(" not in content and "@import" not in content and "<img" not in content


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"rows": 3}', '{"rows": [{"method": "lede"}]}', "\xff", "[" * 9999]
)
def test_another_file_than_a_bench_s_is_named(content, tmp_path):
    (tmp_path / "bench.json").write_text(content, encoding="latin-1")
    said = report("--bench", tmp_path / "bench.json", "--out", tmp_path / "report.html", code=2)
    assert said.count("\n") == 1 and "bench.json is not what lede bench --json prints" in said
    assert "No such file" in report("--bench", tmp_path / "none", "--out", tmp_path / "report.html", code=2)
    assert "is a folder" in report("--out", tmp_path, code=2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_a_browser_shows_all_of_it(browser, page, told, scheme, width):
    look(browser, page.as_uri(), scheme, width)
    assert browser.get_log("browser") == []
    assert browser.title == "lede-tiny, written with lede"  # and not what a prompt says
    for text, shown in zip(told["texts"], words(browser, ".text"), strict=True):
        assert shown.startswith(text["prompt"])
    assert len(words(browser, ".t.kept, .t.own")) - 5 == 2 * 48  # five are in the legend
    assert len(words(browser, "[data-round]")) == sum(len(text["rounds"]) for text in told["texts"])
    assert words(browser, "#exits tbody th")[:2] == ["layer 0 (copied)", "layer 3"]
    assert len(words(browser, "#policy svg")) == 3 and len(words(browser, "#bench svg")) == 1
    assert words(browser, "#bench tbody th") == ["autoregressive", "layerskip"]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", background)[0]) < 128) == (scheme == "dark")


def test_what_is_pointed_at_or_reached_with_keys_is_explained(browser, page):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    look(browser, page.as_uri())
    assert words(browser, "#details") == ["No token is chosen."]
    ActionChains(browser).move_to_element(browser.find_element(By.CSS_SELECTOR, ".text .kept.lookup")).perform()
    (said,) = words(browser, "#details")
    assert "drafted by copied" not in said and "copied from the text (layer 0), and kept" in said
    assert re.search(r"Layer 0: (exit here|draft on).*match of \d+ token.*Q: continue -?\d.* exit -?\d", said)

    def focused() -> str:
        return browser.execute_script("return document.activeElement.className")

    while " t " not in f" {focused()} ":
        ActionChains(browser).send_keys(Keys.TAB).perform()
        assert focused() or browser.execute_script("return document.activeElement !== document.body")
    seen = set()
    for _ in range(12):
        ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
        seen |= set(words(browser, "#details .chosen + p"))
    assert any("the full model's own" in line for line in seen) and any("rejected" in line for line in seen)
    ActionChains(browser).send_keys(Keys.END).perform()
    assert "round" in words(browser, "#details")[0] and " t " in f" {focused()} "
    ActionChains(browser).send_keys(Keys.TAB).perform()  # one stop of the Tab key a text
    assert browser.execute_script("return document.activeElement.text !== undefined")


def test_layers_are_told_apart_without_colours(browser, page):
    look(browser, page.as_uri())
    style = "return getComputedStyle(document.querySelector(arguments[0])).{}"
    assert "line-through" in browser.execute_script(style.format("textDecorationLine"), ".text .rejected")
    assert "dotted" in browser.execute_script(style.format("textDecorationStyle"), ".text .lookup.kept")
    assert browser.execute_script(style.format("fontWeight"), ".text .own") == "700"
    assert set(words(browser, ".text .tag")) <= {"0", "3", "4", "6"}  # the layer's number before what it drafted
