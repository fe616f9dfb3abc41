"""The page at / of the server: rounds as they come."""

import base64
import json
import threading

import httpx
import pytest

import lede
from lede.serve.server import Limits
from tests.serve.browser import PHONE, chromium, look, words
from tests.serve.serving import serving

PROMPT = "def mean(values):\n"


@pytest.fixture(scope="module")
def model():
    return lede.load_model(lede.default_model_path())


@pytest.fixture(scope="module")
def server(model):
    with serving(model, {"own": lede.default_policy_path()}) as served:
        yield served


def told(lines, until="done"):
    """The events of a stream, up to one with this key."""
    for line in lines:
        if line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            yield event
            if until in event:
                return


def watching(served, ready: threading.Event, seen: list, **options):
    with httpx.stream("GET", f"{served.url}/events", timeout=30, **options) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": welcome"
        ready.set()
        seen.extend(told(lines))


def test_whoever_watches_is_told_every_round_once(model, server):
    seen, ready = [[], []], [threading.Event(), threading.Event()]
    watchers = [threading.Thread(target=watching, args=(server, *pair)) for pair in zip(ready, seen, strict=True)]
    for thread, event in zip(watchers, ready, strict=True):
        thread.start()
        assert event.wait(10)
    answer = server.post(prompt=PROMPT, max_tokens=40).json()
    for thread in watchers:
        thread.join(10)
    start, *rounds, done = seen[0]
    assert seen[0] == seen[1] and start == {"start": PROMPT} and done["done"]["tokens"] == 40
    tokens = [token for event in rounds for token in event["round"]["tokens"]]
    assert answer["choices"][0]["text"] == "".join(token["text"] for token in tokens if token["kind"] != "rejected")
    assert any(decision["values"] for token in tokens for decision in token["asked"])
    assert server.post(prompt=PROMPT, max_tokens=4).status_code == 200  # nobody watches any more


def test_pages_that_are_open_do_not_keep_a_server_from_stopping(model):
    with serving(model) as served, httpx.stream("GET", f"{served.url}/events", timeout=10) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": welcome" and len(served.worker.watchers) == 1
        served.worker.closing = True
        assert not any(line.startswith("data") for line in lines)  # it ends
    assert not served.worker.watchers


def test_the_key_may_be_a_password_where_a_browser_looks(model):
    with serving(model, limits=Limits(key="secret")) as served:
        asked = httpx.get(served.url)
        assert (asked.status_code, asked.headers["www-authenticate"]) == (401, 'Basic realm="lede"')
        assert httpx.get(served.url, auth=("", "secret")).text.startswith("<!doctype html>")
        assert httpx.get(served.url, headers={"Authorization": "Bearer secret"}).status_code == 200
        wrong = "Basic ???", "Basic " + base64.b64encode(b"secret").decode(), "Bearer", "Bearer wrong", ""
        assert all(httpx.get(served.url, headers={"Authorization": given}).status_code == 401 for given in wrong)
        assert httpx.get(f"{served.url}/v1/models", auth=("", "secret")).status_code == 401  # pages of others could ask


def test_a_browser_shows_what_is_being_written(server, tmp_path):
    with chromium(tmp_path) as browser:
        from selenium.webdriver.support.ui import WebDriverWait

        look(browser, server.url, "dark", PHONE)
        WebDriverWait(browser, 10).until(lambda b: "Waiting" in words(b, "#state")[0])
        for number in (1, 2):
            server.post(prompt=f"<b>{number}</b> = [1, 2, 1, 2, ", max_tokens=40)
            WebDriverWait(browser, 10).until(lambda b, n=number: sum("40 tokens" in t for t in words(b, "h3")) == n)
        assert [text[:8] for text in words(browser, ".text")] == ["<b>2</b>", "<b>1</b>"]  # the last is first
        assert len(words(browser, ".text .t.kept, .text .t.own")) == 80
        assert words(browser, "#exits tbody th")[0] == "layer 0 (copied)" and len(words(browser, "#policy svg")) == 3
        assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
        assert browser.get_log("browser") == []
