"""The process: it listens, warms up, answers, and at a signal finishes what runs before it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from seqtune.errors import InputError
from seqtune.progress import say, warn
from seqtune.serve.app import create_app
from seqtune.serve.gate import Gate
from seqtune.serve.settings import LOOPBACK, SHORTEST_KEY, ServeSettings
from seqtune.serve.shelf import Shelf

#: Connections that may wait to be taken, as uvicorn has it.
BACKLOG = 2048

#: Largest head of a request, in bytes.
LARGEST_HEAD = 32_768


def checked(values: dict[str, Any]) -> ServeSettings:
    """The settings, with the key of the environment where none is given.

    Raises:
        InputError: the key, of the environment too, is too short; or an address beyond this machine without a key.
    """
    key = values.get("api_key") or os.environ.get("SEQTUNE_API_KEY") or None
    if key is not None and len(key.strip()) < SHORTEST_KEY:  # it is not shown
        raise InputError(f"api_key: expected at least {SHORTEST_KEY} characters (--api-key, or SEQTUNE_API_KEY)")
    settings = ServeSettings(**{**values, "api_key": key})
    if settings.host not in LOOPBACK and not settings.api_key:
        raise InputError(
            f"host = {settings.host}: others than this machine could ask, and there is no key",
            mend="Set SEQTUNE_API_KEY (or pass --api-key), or stay with --host 127.0.0.1.",
        )
    return settings


def serve(runs: Sequence[str], settings: ServeSettings, ready: Callable[[str], None] | None = None) -> None:
    """Load the models and answer until a signal comes.

    Args:
        runs: run directories or adapter folders.
        settings: the knobs.
        ready: told the address as soon as it listens.

    Raises:
        InputError: a run can't be loaded, or the address can't be listened on.
    """
    listening = _listen(settings)
    try:
        app = create_app(Shelf.filled(runs, settings.device_type, settings.answer_precision), settings)
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        server = uvicorn.Server(server_config(app, settings))
        listening.listen(BACKLOG)  # before it is said: whoever reads the line may come at once
        say(f"listening on {address}   (Ctrl-C ends it)")
        if settings.host not in LOOPBACK:
            warn("what comes and goes can be read on its way: put a proxy with TLS before it")
        if ready is not None:
            ready(address)
        server.run(sockets=[listening])
    finally:
        listening.close()


def server_config(app: Gate, settings: ServeSettings) -> uvicorn.Config:
    """uvicorn's configuration for our app."""
    seconds = settings.read_timeout

    class Patient(Protocol):
        head_timeout = seconds

    return uvicorn.Config(
        app,
        http=Patient,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        h11_max_incomplete_event_size=LARGEST_HEAD,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, which does not wait for ever for the end of a head."""

    head_timeout = 10.0

    def connection_made(self, transport: Any) -> None:
        """A client has come: its head has so long to come too."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}
        self.head_timer: asyncio.TimerHandle | None = self.loop.call_later(self.head_timeout, self._too_slow)

    def data_received(self, data: bytes) -> None:
        """Some of it has come."""
        super().data_received(data)
        unfinished = self.conn.their_state is h11.IDLE
        if unfinished and self.head_timer is None:
            self.head_timer = self.loop.call_later(self.head_timeout, self._too_slow)
        elif not unfinished:
            self._forget_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._forget_timer()
        super().connection_lost(exc)

    def _forget_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def _too_slow(self) -> None:
        self.head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.abort()


def _listen(settings: ServeSettings) -> socket.socket:
    """A listening socket; taken before the models are loaded, so that a taken port is said at once."""
    made = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name != "nt":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((settings.host, settings.port))
    except OSError as error:
        made.close()
        raise InputError(
            f"{settings.host}:{settings.port}: can't be listened on ({error.strerror or error})",
            mend="Choose another --port (0 takes a free one) or --host.",
        ) from None
    return made
