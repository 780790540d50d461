"""The page of a run at work, on loopback, for whoever has its address.

The address holds a secret, as other users of the machine can reach the port too; and a request must name the machine
itself as its host, so that no page of the web can read this one by a name of its own that leads here (DNS rebinding).
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from seqtune.live.state import State

HOST = "127.0.0.1"

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Server:
    """Serves one run.

    Args:
        state: of the run.
    """

    def __init__(self, state: State):
        self.state = state
        self.secret = secrets.token_urlsafe(16)
        self.asked_at = float("-inf")
        self.parted = threading.Event()
        self._http = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._http.daemon_threads = True

    @property
    def port(self) -> int:
        """Chosen by the system."""
        return int(self._http.server_address[1])

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{HOST}:{self.port}/{self.secret}/"

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Serve in a thread of its own while the block runs."""
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join(timeout=2)

    def part(self, seconds: float) -> None:
        """Wait until an open page has fetched the report; not at all where none is open, and no longer than this."""
        if time.monotonic() - self.asked_at < 3:
            self.parted.wait(seconds)

    def answer(self, path: str) -> tuple[str, str] | None:
        """Content type and text for a path; None for any but the two there are."""
        _, _, rest = path.partition("/")
        secret, slash, page = rest.partition("/")
        if not hmac.compare_digest(secret.encode("utf-8", "replace"), self.secret.encode()):
            return None
        page = page.partition("?")[0]
        if page == "state":
            self.asked_at = time.monotonic()
            return "application/json", self.state.json()
        if page == "" and slash:
            if self.state.report is not None:
                self.parted.set()
            return "text/html", self.state.html()
        return None

    def is_meant(self, host: str | None) -> bool:
        """Whether a request's Host names this server, and not some name of the web that leads here."""
        return host in (f"{HOST}:{self.port}", f"localhost:{self.port}")


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "seqtune"
        sys_version = ""
        timeout = 10

        def do_GET(self) -> None:
            if not server.is_meant(self.headers.get("Host")):
                self._send(403, "text/plain", "not for this host\n")
                return
            if self.path == "/favicon.ico":  # browsers ask for it unasked, and call a 404 an error of the page
                self._send(204, "image/x-icon", "")
                return
            found = server.answer(self.path)
            if found is None:
                self._send(404, "text/plain", "not here\n")
            else:
                self._send(200, *found)

        def _send(self, status: int, kind: str, text: str) -> None:
            content = text.encode("utf-8")
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the terminal belongs to the run."""

    return Handler
