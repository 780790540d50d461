"""A server of tiny models in a thread of this process, and ways to talk to it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

QUESTION = "How do I reset my password?"


@dataclass
class Served:
    """A running server: where it is, and what is inside."""

    port: int
    app: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def batcher(self) -> Any:
        return self.app.batcher

    def ask(self, path: str, content: Any = None, method: str = "", **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body (parsed, where it is JSON) of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        known = {"content-type": "application/json"} if body is not None else {}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, {**known, **given})
        response = connection.getresponse()
        found = response.read()
        head = {name.lower(): value for name, value in response.getheaders()}
        connection.close()
        return response.status, head, json.loads(found) if "json" in head.get("content-type", "") else found

    def chat(self, **fields: Any) -> tuple[int, dict[str, str], Any]:
        """As `ask`, of a chat completion."""
        return self.ask("/v1/chat/completions", chat(**fields))

    def opened(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def chat(**fields: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"model": "run", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8, **fields}


def raw(**fields: Any) -> bytes:
    """A chat completion as it goes over the wire."""
    body = json.dumps(chat(**fields)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait for a condition; fails when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


@contextmanager
def serving(shelf: Any, **knobs: Any) -> Iterator[Served]:
    """A server of these models and knobs, warm, in a thread."""
    import uvicorn

    from seqtune.serve import running
    from seqtune.serve.app import create_app

    settings = running.checked({"port": 0, **knobs})
    app = create_app(shelf, settings)
    server = uvicorn.Server(running.server_config(app, settings))
    listening = running._listen(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    served = Served(listening.getsockname()[1], app)
    try:
        until(lambda: served.batcher.is_warm)
        yield served
    finally:
        server.should_exit = True
        thread.join(75)  # the server itself waits 30 seconds for clients, and 30 for answers
        listening.close()
        assert not thread.is_alive(), where_threads_are()


def where_threads_are() -> str:
    """What each thread and each task of an event loop is doing."""
    frames = sys._current_frames()
    found = [
        (each.name, traceback.format_stack(frames[each.ident]))
        for each in threading.enumerate()
        if each.ident in frames
    ]
    # `asyncio.all_tasks` has those of one loop; all of them are under a name that depends on Python's version.
    for task in list(getattr(asyncio.tasks, "_all_tasks", None) or getattr(asyncio.tasks, "_scheduled_tasks", ())):
        if not task.done():
            found.append((repr(task), [repr(frame) for frame in task.get_stack()]))
    return "\n".join(f"{name}\n{''.join(lines)}" for name, lines in found)
