"""Whom the server talks to, how much it takes, how long it waits: around the app, before a body is read.

In this order: by which name it was called (Host) and from which page (Origin), so that no page of the web can reach a
server on a person's own machine (DNS rebinding); the key; the size of the body, as it says and as it is; the time that
it takes. A client that can't be answered any more is cut off, and its connection freed.

Not covered: a head that does not end, which `running.Protocol` ends; TLS, which is for a proxy before the server.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqtune.serve.batcher import Batcher
from seqtune.serve.refusing import Refused
from seqtune.serve.settings import LOOPBACK, ServeSettings
from seqtune.serve.watching import Watch

logger = logging.getLogger("seqtune")

#: What may be read without the key: the page, which asks for it, and whether the server is well.
OPEN = ("/", "/page.css", "/page.js", "/health", "/openapi.json")

#: After a refusal, so much of a body is read and thrown away (bytes, seconds): a client that is still sending reads the
#: response only then.
DRAINED = (16_000_000, 1.0)

#: Names and numbers of routes in the figures; whatever else is asked for counts as "other".
ROUTES = ("/", "/health", "/metrics", "/v1/chat/completions", "/v1/completions", "/v1/models")


class Slow(Exception):  # noqa: N818
    """The client does not take its answer, or is gone."""


class Gate:
    """The app behind its gate.

    Args:
        app: what answers whoever comes through.
        settings: the limits.
        watch: counts requests.
        batcher: of the app.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, watch: Watch, batcher: Batcher):
        self.app = app
        self.settings = settings
        self.watch = watch
        self.batcher = batcher
        self.hosts = _hosts(settings)
        self.key = settings.api_key.strip().encode() if settings.api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0
        transport: Any = scope.get("state", {}).get("transport")

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if transport is not None and transport.is_closing():  # uvicorn passes over what nobody can take
                raise Slow
            try:
                async with asyncio.timeout(self.settings.write_timeout):
                    await send(message)
            except TimeoutError:
                raise Slow from None

        try:
            await self._answered(scope, receive, watched, lambda: status)
        except Slow:
            status = status or 408
            if transport is not None:  # a close would wait for the client to take what it does not take
                transport.abort()
        finally:
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self.watch.requests.labels(route, str(status or 499)).inc()
            self.watch.seconds.labels(route).observe(time.monotonic() - begun)

    async def _answered(self, scope: Scope, receive: Receive, send: Send, status: Any) -> None:
        headers = _Headers(scope["headers"])
        try:
            self._check_caller(headers)
            self._check_key(headers, scope["path"])
            body = await self._read(headers, receive)
        except Refused as refused:
            await self._refuse(refused, receive, send, unread=refused.status != 408)
            return
        if body is None:
            return  # it has left
        try:
            await self.app(scope, _replayed(body, receive), send)
        except Slow:
            raise
        except asyncio.CancelledError:  # the shutdown's time is over
            if not status():
                await self._refuse(Refused(503, "the server is ending"), receive, send, unread=False)
        except Exception:
            logger.exception("a request to %s failed", scope["path"][:100])
            if not status():
                refused = Refused(500, "something went wrong here; the log of the server says what")
                await self._refuse(refused, receive, send, unread=False)

    def _check_caller(self, headers: _Headers) -> None:
        host = headers.get(b"host")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise Refused(
                403,
                f"this server is not called {host[:100]!r}; it answers to {', '.join(sorted(self.hosts))} "
                "(--allowed-hosts)",
                close=True,
            )
        if (origin := headers.get(b"origin")) and _place_of(origin) != host.lower():
            raise Refused(403, "pages of other origins may not call this server", close=True)

    def _check_key(self, headers: _Headers, path: str) -> None:
        if self.key is None or path in OPEN:
            return
        scheme, _, given = headers.get(b"authorization").partition(" ")
        # Compared as bytes, in a time that does not depend on where they differ.
        same = hmac.compare_digest(given.strip().encode("latin-1"), self.key)  # `_Headers` has read them so
        if not same or scheme.lower() != "bearer":
            raise Refused(401, "a key is needed: `Authorization: Bearer KEY`", code="invalid_api_key", close=True)

    async def _read(self, headers: _Headers, receive: Receive) -> bytes | None:
        """The whole body; None where the client left while it was read."""
        limit = self.settings.max_body
        said = headers.get(b"content-length")
        if said.isdecimal() and int(said[:20]) > limit:
            raise self._too_large(f"{int(said[:20]):,} bytes")
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.read_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise self._too_large(f"more than {limit:,} bytes")
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            found = f"{len(body):,} bytes of the body came within {self.settings.read_timeout:g} seconds"
            raise Refused(408, f"{found}, and not its end", close=True) from None

    def _too_large(self, found: str) -> Refused:
        return Refused(413, f"the body has {found}; at most {self.settings.max_body:,} are taken", close=True)

    async def _refuse(self, refused: Refused, receive: Receive, send: Send, *, unread: bool) -> None:
        """Send a refusal; where the body was not read, throw some of it away before the connection ends."""
        content = refused.content()
        headers = {"content-type": "application/json", "content-length": str(len(content)), **refused.headers}
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": refused.status, "headers": raw})
        await send({"type": "http.response.body", "body": content, "more_body": True})
        most, seconds = DRAINED
        try:
            async with asyncio.timeout(seconds):
                while unread and most > 0:
                    message = await receive()
                    most -= len(message.get("body", b""))
                    unread = bool(message.get("more_body"))
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b""})


class _Headers:
    """The headers of a request by lower-case name."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]):
        self.raw = list(raw)

    def get(self, name: bytes) -> str:
        """The value; empty where there is none, or several that could be read either way."""
        found = {value for key, value in self.raw if key == name}
        return found.pop().decode("latin-1") if len(found) == 1 else ""


def _hosts(settings: ServeSettings) -> set[str] | None:
    """The names that a request may call the server by; None for any."""
    if settings.allowed_hosts == "*":
        return None
    named = {_name(each) for each in (settings.allowed_hosts or "").split(",") if each.strip()}
    if settings.host not in LOOPBACK and not named:
        return None  # a page of the web does not know the key
    return named | {*LOOPBACK} | {settings.host}


def _place_of(origin: str) -> str:
    """``name:port`` of a page's origin; empty where there is none in it."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """The name of ``name:port``, in lower case; of ``[::1]:8000`` what stands in the brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.rpartition(":")
    return name if port.isdecimal() and name and ":" not in name else host


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, and then what comes after it: the client's leaving."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
