"""A hub on the loopback interface: as much of the Hugging Face hub's protocol as downloads and uploads take.

Models and data sets are folders. ``huggingface_hub`` reads ``HF_ENDPOINT`` when it is imported, so the code under test
runs in a process of its own with `HubServer.environment`.

What is uploaded lands in `HubServer.uploaded`.

Not covered: log-in beyond a token's presence, Xet, pagination, other revisions than ``main`` and the one commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class HubServer:
    """Serves folders by repository id until the ``with`` block ends.

    Args:
        models: folders by id (``{"team/tiny": folder}``).
        datasets: the same for data sets.
        gated: ids of models that exist but are not open to the caller.

    Attributes:
        requests: what was asked for, ``"GET /team/tiny/resolve/main/config.json"``, in order.
        created: repositories that were made, ``{"team/new": {"visibility": "private"}}``.
        uploaded: files by repository and name, ``{"team/new": {"README.md": b"..."}}``.
    """

    def __init__(
        self,
        models: dict[str, Path] | None = None,
        datasets: dict[str, Path] | None = None,
        gated: tuple[str, ...] = (),
    ):
        self.repositories = {("models", name): Path(folder) for name, folder in (models or {}).items()}
        self.repositories |= {("datasets", name): Path(folder) for name, folder in (datasets or {}).items()}
        self.gated = gated
        self.requests: list[str] = []
        self.created: dict[str, dict[str, Any]] = {}
        self.uploaded: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """For ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path, *, offline: bool = False) -> dict[str, str]:
        """The environment of a process that takes this for the hub and ``home`` for its cache."""
        return hub_environment(self.url, home, offline=offline)

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def hub_environment(url: str, home: Path, *, offline: bool = False) -> dict[str, str]:
    """This process's environment with that hub, that cache and nothing else of the hub's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        inherited.pop(name, None)
    return {
        **inherited,
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **({"HF_HUB_OFFLINE": "1"} if offline else {}),
    }


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        takes = path in ("/api/repos/create", "/api/validate-yaml") or {"preupload", "commit", "lfs"} & set(parts)
        if not takes:
            return self._answer()
        self.hub.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if not self.headers.get("Authorization", "").startswith("Bearer "):
            return self._refuse(401, "Unauthorized", "Invalid username or password.")
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(part for part in (wanted.get("organization") or "me", wanted["name"]) if part)
            if name in self.hub.gated:
                return self._refuse(403, "Forbidden", "You don't have the rights")
            self.hub.created[name] = wanted
            self.hub.uploaded.setdefault(name, {})
            return self._json({"url": f"{self.hub.url}/{name}", "name": name})
        if parts[-3:] == ["lfs", "objects", "batch"]:
            found = [
                {
                    "oid": each["oid"],
                    "size": each["size"],
                    "actions": {"upload": {"href": f"{self.hub.url}/put/{each['oid']}"}},
                }
                for each in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": found})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            kinds = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            return self._json({"files": kinds})
        for line in body.splitlines():
            each = json.loads(line)
            value = each["value"]
            if each["key"] == "file":
                self.hub.uploaded[name][value["path"]] = base64.b64decode(value["content"])
            elif each["key"] == "lfsFile":
                self.hub.uploaded[name][value["path"]] = self.hub.objects[value["oid"]]
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40, "success": True})

    def do_PUT(self) -> None:
        body = self._body()
        self.hub.objects[self.path.rpartition("/")[2]] = body
        self._send(200, b"", {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        # /api/models/OWNER/NAME[/revision/REV | /tree/REV] and [/datasets]/OWNER/NAME/resolve/REV/FILE
        api = parts[0] == "api" and len(parts) > 1
        kind = parts[1] if api else "datasets" if parts[0] == "datasets" else "models"
        parts = parts[2:] if api else parts[1:] if kind == "datasets" else parts
        name, action, rest = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "", parts[3:]
        folder = self.hub.repositories.get((kind, name))
        if name in self.hub.gated:
            return self._refuse(403, "GatedRepo", f"Access to {name} is restricted")
        if folder is None:
            return self._refuse(404 if kind in ("models", "datasets") else 405, "RepoNotFound", "Repository not found")
        files = sorted(each for each in folder.rglob("*") if each.is_file())
        commit = _commit(folder, files)
        if rest and rest[0] not in ("main", commit):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[0]}")
        if api and action in ("", "revision"):
            siblings = [{"rfilename": each.relative_to(folder).as_posix()} for each in files]
            about = {"_id": "0", "id": name, "sha": commit, "private": False, "tags": [], "siblings": siblings}
            return self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
        if api and action == "tree":
            tree = [
                {
                    "type": "file",
                    "path": each.relative_to(folder).as_posix(),
                    "size": each.stat().st_size,
                    "oid": _etag(each),
                }
                for each in files
                if each.relative_to(folder).as_posix().startswith("/".join(rest[1:]))
            ]
            return self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        wanted = folder / "/".join(rest[1:])
        if action != "resolve" or wanted not in files:
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(wanted)}"', "Accept-Ranges": "bytes"}
        content = wanted.read_bytes()
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first or 0), min(int(last or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
            return self._send(206, content[begin : end + 1], headers)
        return self._send(200, content, headers)

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", {**(headers or {}), "X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(path: Path) -> str:
    """A digest of the content, as long as a git blob's."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:40]


def _commit(folder: Path, files: list[Path]) -> str:
    """A digest of all names and contents, as long as a git commit's."""
    lines = "".join(f"{each.relative_to(folder)} {_etag(each)}\n" for each in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:40]
