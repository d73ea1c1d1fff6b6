"""A small hub on this machine that takes uploads: the part of its HTTP API that a commit needs.

It holds repositories in memory. Attributes of ``PublishingHub`` make it refuse.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

USER, TOKEN = "me", "hf_token"


@dataclass
class StoredRepository:
    """A model repository: files by branch."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    messages: list[str] = field(default_factory=list)


@dataclass
class PublishingHub:
    """The state of the hub, and what it refuses.

    Attributes:
        url: Its address.
        repositories: Model repositories by name.
        taken: Names of repositories of other types.
        writable: Owners in whose repositories the token may write.
        blobs: Contents of large files that have been sent, by their SHA-256.
        sent: Number of large files that were received.
        broken: Ends of paths at which the connection is closed without an answer.
        answers: Status and message by the end of a path, instead of the answer.
        ignored: Names that a .gitignore of the repository leaves out.
    """

    url: str = ""
    repositories: dict[str, StoredRepository] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    writable: set[str] = field(default_factory=lambda: {USER})
    blobs: dict[str, bytes] = field(default_factory=dict)
    sent: int = 0
    broken: set[str] = field(default_factory=set)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)


@contextmanager
def serve_hub() -> Iterator[PublishingHub]:
    """Serve an empty hub while the block runs."""
    hub = PublishingHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()


class _Refused(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(status)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: PublishingHub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        path = unquote(urlparse(self.path).path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if any(path.endswith(end) for end in self.hub.broken):
            self.close_connection = True
            return
        try:
            self._answer(200, self._route(path, content))
        except _Refused as refused:
            self._answer(refused.status, {"error": refused.message}, refused.code, refused.message)

    def _answer(self, status: int, content: Any, code: str = "", message: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": str(len(body))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _route(self, path: str, content: bytes) -> Any:
        for end, (status, message) in self.hub.answers.items():
            if path.endswith(end):
                raise _Refused(status, "", message)
        if path.startswith("/blobs/"):
            self.hub.sent += 1
            self.hub.blobs[path.rpartition("/")[2]] = content
            return {}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return {"type": "user", "name": USER, "orgs": []}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(content))
        if match := re.fullmatch(r"/(\w+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self._lfs_batch(json.loads(content))
        match = re.fullmatch(r"/api/models/(\w+/[\w.-]+)(?:/(\w+)/(.+))?", path)
        assert match is not None, path
        return self._model(match[1], match[2] or "info", match[3] or "main", content)

    def _create(self, request: dict[str, Any]) -> Any:
        name = f"{request['organization'] or USER}/{request['name']}"
        if name.partition("/")[0] not in self.hub.writable:
            raise _Refused(403, "", "You don't have the rights to create a model under this namespace")
        url = {"url": f"{self.hub.url}/{name}"}
        if name not in self.hub.taken:
            self.hub.repositories.setdefault(name, StoredRepository(request.get("visibility") == "private"))
        return url

    def _model(self, name: str, verb: str, revision: str, content: bytes) -> Any:
        if name not in self.hub.repositories:
            raise _Refused(404, "RepoNotFound", "Repository not found")
        repository = self.hub.repositories[name]
        if verb == "branch":
            return repository.branches.setdefault(revision, dict(repository.branches["main"])) and {}
        files = repository.branches[revision]
        if verb == "preupload":
            return {"files": [self._mode(entry, files) for entry in json.loads(content)["files"]]}
        if verb == "commit":
            return self._commit(name, files, [json.loads(line) for line in content.splitlines()])
        if verb == "tree":
            return [{"type": "file", "path": path, "oid": "0", "size": len(files[path])} for path in files]
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "sha": "0" * 40, "private": repository.private, "siblings": siblings, "tags": []}

    def _mode(self, entry: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
        path = entry["path"]
        mode = "lfs" if path.endswith((".safetensors", ".gguf")) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": path in self.hub.ignored, "oid": None}

    def _lfs_batch(self, request: dict[str, Any]) -> Any:
        objects: list[dict[str, Any]] = [dict(entry) for entry in request["objects"]]
        for entry in objects:
            if entry["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/blobs/{entry['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, files: dict[str, bytes], lines: list[dict[str, Any]]) -> Any:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.repositories[name].messages.append(value["summary"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
                assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}
