"""Who may ask: pages of which origins, keys however they are written."""

import http.server
import threading

import httpx
import pytest
import torch

from lede.decode.load import from_transformers
from lede.serve.guard import is_origin
from lede.serve.server import Limits
from tests.models import byte_llama, byte_tokenizer
from tests.serve.browser import chromium
from tests.serve.serving import serving

PAGE = "https://page.example"
ALLOW = "access-control-allow-origin"
ASK = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-lang"}


@pytest.fixture(scope="module")
def model():
    return from_transformers(byte_llama(), torch.float32, tokenizer=byte_tokenizer(), name="tiny")


def test_pages_of_allowed_origins_may_ask(model):
    here = "http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443"
    for origins, may, may_not in (
        ((), here, (PAGE, "null", "https://localhost.example")),
        ((PAGE,), (*here, PAGE), ("null", f"{PAGE}:444", "http://page.example", "https://other.example")),
        (("*",), (*here, PAGE, "null"), ()),
    ):
        for key in (None, "secret"):
            with serving(model, limits=Limits(key=key, origins=origins)) as served:
                url, bearer = f"{served.url}/v1/completions", {"authorization": f"Bearer {key}"}
                for origin in may:
                    asked = httpx.options(url, headers=ASK | {"origin": origin})  # a browser sends no key with it
                    assert (asked.status_code, asked.headers[ALLOW]) == (204, origin)
                    assert "POST" in asked.headers["access-control-allow-methods"]
                    assert asked.headers["access-control-allow-headers"] == ASK["access-control-request-headers"]
                    body = {"prompt": "x", "max_tokens": 1}
                    done = httpx.post(url, json=body, headers=bearer | {"origin": origin})
                    assert (done.status_code, done.headers[ALLOW], done.headers["vary"]) == (200, origin, "Origin")
                    wrong = httpx.post(url, json={}, headers=bearer | {"origin": origin})
                    assert (wrong.status_code, wrong.headers[ALLOW]) == (400, origin)  # pages read what is wrong
                for origin in may_not:
                    for answer in (
                        httpx.options(url, headers=ASK | {"origin": origin}),
                        httpx.get(f"{served.url}/v1/models", headers={"origin": origin} | (bearer if key else {})),
                    ):
                        assert ALLOW not in answer.headers
                        assert answer.status_code == (200 if key and answer.request.method == "GET" else 403)


def test_options_are_answered_without_a_page_too(model):
    with serving(model) as served:
        answer = httpx.options(f"{served.url}/v1/chat/completions")
        assert (answer.status_code, answer.headers["allow"]) == (204, "GET, POST, OPTIONS")
        assert httpx.options(f"{served.url}/v1/models", headers={"host": "evil.example"}).status_code == 403
        assert served.metric("lede_requests_total", status="204") == 1


def test_a_key_is_one_however_bearer_is_written(model):
    with serving(model, limits=Limits(key="secret")) as served:
        for written, status in (
            ("Bearer secret", 200),
            ("bearer secret", 200),
            ("BEARER  secret", 200),
            ("Bearer Secret", 401),
            ("secret", 401),
            ("Token secret", 401),
        ):
            answer = httpx.get(f"{served.url}/v1/models", headers={"authorization": written})
            assert answer.status_code == status, written


def test_what_an_origin_is():
    assert all(map(is_origin, ("*", PAGE, "http://localhost:3000", "http://[::1]:1", "app://obsidian.md")))
    assert not any(map(is_origin, ("", "page.example", f"{PAGE}/", f"{PAGE}/a", "https://", "HTTPS://page.example")))


@pytest.mark.slow
def test_a_browser_lets_a_page_of_another_port_ask(model, tmp_path):
    script = """
        const [url, done] = arguments
        fetch(url, {method: "POST", headers: {"Content-Type": "application/json", "X-Stainless-Lang": "js"},
                    body: JSON.stringify({prompt: "x", max_tokens: 2})})
            .then(answer => answer.json())
            .then(said => done(said.usage.completion_tokens), fault => done(String(fault)))
    """
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    with chromium(tmp_path) as browser, serving(model) as served:
        browser.get(f"http://127.0.0.1:{pages.server_port}/README.md")  # not a page of ours, which ask nobody else
        assert browser.execute_async_script(script, f"{served.url}/v1/completions") == 2
        browser.get("data:text/html,hello")  # whose origin is null
        assert "TypeError" in browser.execute_async_script(script, f"{served.url}/v1/completions")
    pages.shutdown()
