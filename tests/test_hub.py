"""`lede push` and hf://NAME, against a server that speaks what they need of the hub's protocol."""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from lede.paths import default_policy_path


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory, {name: {file: bytes}}; datasets have names that begin with datasets/."""

    repos: dict[str, dict[str, bytes]]

    def log_message(self, *arguments):
        pass

    def answer(self, status, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer token":
            return self.answer(401, {"error": "no token"}, X_Error_Message="who are you")
        kind, *parts = self.path.removeprefix("/api/").split("/")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = asked.get("organization", "me") + "/" + asked["name"]
            prefix = "datasets/" if asked.get("type") == "dataset" else ""
            self.repos.setdefault(prefix + name, {})
            return self.answer(200, {"url": f"https://huggingface.co/{prefix}{name}"})
        if self.path == "/api/validate-yaml":  # of a card
            return self.answer(200, {"errors": [], "warnings": []})
        name = ("datasets/" if kind == "datasets" else "") + "/".join(parts[:2])
        if parts[2] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for p in files]
            return self.answer(200, {"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repos[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer(
            200, {"success": True, "commitOid": "0" * 40, "commitUrl": "https://huggingface.co/me/x/commit/0"}
        )

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/"):
            kind, owner, name, *_ = [*path.removeprefix("/api/").split("/"), "", ""]
            name = ("datasets/" if kind == "datasets" else "") + f"{owner}/{name}"
            if name not in self.repos:
                return self.answer(404, {"error": "none"}, X_Error_Code="RepoNotFound")
            if "/tree/" in path:
                found = self.repos[name].items()
                return self.answer(200, [{"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in found])
            siblings = [{"rfilename": file} for file in self.repos[name]]
            return self.answer(200, {"id": name, "sha": "0" * 40, "siblings": siblings})
        name, _, file = path.strip("/").partition("/resolve/")
        content = self.repos[name][file.partition("/")[2]]
        return self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit="0" * 40)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path):
    """Run a command against a hub, for which there is a token."""
    handler = type("Handler", (Hub,), {"repos": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    environment |= {"HF_TOKEN": "token", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"}

    def lede(*arguments, code=0, **more):
        command = [sys.executable, "-m", "lede", *map(str, arguments)]
        done = subprocess.run(command, env=environment | more, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    lede.repos = handler.repos
    yield lede
    server.shutdown()


def test_a_policy_is_pushed_with_a_card_and_used_by_its_name(hub):
    assert "me/mine" in hub("push", default_policy_path(), "me/mine")
    files = hub.repos["me/mine"]
    assert files["policy.json"] == (default_policy_path() / "policy.json").read_bytes()
    assert "lede generate --policy hf://me/mine" in files["README.md"].decode()
    plain, learned = (
        json.loads(hub("generate", "--prompt", "def f(", "--max-new-tokens", 12, "--json", *given))
        for given in (["--plain"], ["--policy", "hf://me/mine"])
    )
    assert plain["token_ids"] == learned["token_ids"] and learned["draft_length"] > 0


def test_a_dataset_becomes_a_dataset(hub, tmp_path):
    from tests.replay.synthetic import write_dataset

    write_dataset(tmp_path / "data", episodes=3, seed=0)
    hub("push", tmp_path / "data", "me/data")
    assert "decisions" in hub("inspect", "hf://me/data")
    assert [*hub.repos] == ["datasets/me/data"]
    assert "decisions" in hub("inspect", "hf://me/data", HF_HUB_OFFLINE="1")  # from the cache


@pytest.mark.slow
@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_a_model_is_fetched_whole_by_its_name(hub, checkpoint, form):
    files = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    if form != "model.safetensors":
        import torch
        from safetensors.torch import load_file

        del files["model.safetensors"]
        buffer = io.BytesIO()
        torch.save(load_file(checkpoint / "model.safetensors"), buffer)
        files[form] = buffer.getvalue()
    hub.repos["me/llama"] = files
    asked = ("--prompt", "def f(", "--max-new-tokens", 12, "--plain", "--json", "--dtype", "float32")
    there, here, offline = (
        json.loads(hub("generate", "--model", model, *asked, **more))
        for model, more in (("me/llama", {}), (checkpoint, {}), ("me/llama", {"HF_HUB_OFFLINE": "1"}))
    )
    assert there["token_ids"] == here["token_ids"] == offline["token_ids"]
    del files[form]
    hub.repos["me/empty"] = files
    assert "there is no model.safetensors in it" in hub("generate", "--model", "me/empty", *asked, code=2)


def test_what_cannot_be_is_one_line(hub, tmp_path):
    assert "no policy, exit heads or dataset" in hub("push", tmp_path, "me/nothing", code=2)
    refused = hub("push", default_policy_path(), "me/mine", code=2, HF_TOKEN="wrong")
    assert "cannot push to me/mine" in refused and "Traceback" not in refused
    assert "cannot fetch hf://me/absent" in hub("generate", "--policy", "hf://me/absent", "--prompt", "x", code=2)
