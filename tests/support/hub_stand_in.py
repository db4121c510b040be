"""A local stand-in for the Hugging Face Hub, for the real client to talk to."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants

TOKEN = "hf_" + "s" * 34


@dataclass
class Hub:
    """What the stand-in was asked.

    Attributes:
        existing: names of repositories that exist.
        created: the requests to create one.
        files: contents of each repository's files.
        tokens: the access tokens it was shown.
        fails: whether it refuses every commit, quoting the token.
    """

    existing: set[str] = field(default_factory=set)
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    fails: bool = False


@contextmanager
def hub_stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Let the hub's client talk to a server of this process, with an access token."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.tokens.add((self.headers.get("Authorization") or "").removeprefix("Bearer "))
            status, answer = _answer(hub, self.path, body, f"http://{self.headers['Host']}")
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _answer(hub: Hub, path: str, body: bytes, address: str) -> tuple[int, Any]:
    if path == "/api/repos/create":
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        hub.created.append(wanted)
        taken = name in hub.existing
        hub.existing.add(name)
        return (409 if taken else 200), {"url": f"{address}/{name}", "name": name, "id": name}
    if path == "/api/validate-yaml":  # of the card's front matter
        return 200, {"errors": [], "warnings": []}
    name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
    if "/preupload/" in path:
        wanted = json.loads(body)["files"]
        modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in wanted]
        return 200, {"files": modes}
    if "/commit/" in path and not hub.fails:
        files = hub.files.setdefault(name, {})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        found = {"commitUrl": f"{address}/{name}/commit/0", "commitOid": "0", "success": True}
        return 200, found
    return 403, {"error": f"not allowed with {TOKEN}"}
