"""Whom the server talks to, how much it takes and how long it waits: over bare connections, as no client would."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from seqtune.errors import InputError
from seqtune.serve import gate, running
from seqtune.serve.app import create_app
from seqtune.serve.settings import ServeSettings
from serving_help import Served, chat, serving, until

KEY = "a-key-of-some-length"
BODY = json.dumps(chat(max_tokens=2)).encode()


@pytest.fixture(scope="module")
def strict(shelf: Any) -> Iterator[Served]:
    """A server with a key, small limits and little patience."""
    with serving(shelf, api_key=KEY, max_body=2000, read_timeout=0.5, write_timeout=0.5) as server:
        yield server


def sent(served: Served, *parts: bytes, wait: float = 0.0) -> bytes:
    """What comes back for bytes, until the server closes the connection or has nothing more to say."""
    with served.opened() as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(wait)
        return received(connection)


def received(connection: socket.socket) -> bytes:
    connection.settimeout(6)
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def head(length: int | None = len(BODY), key: str | None = KEY, **more: str) -> bytes:
    """The head of a chat completion; ``length`` None for chunks."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1]) if response else 0


def test_the_key(strict: Served):
    assert status(sent(strict, head(Connection="close"), BODY)) == 200
    for key in (None, "", KEY[:-1], KEY + "x", "wrong", "ключ".encode().decode("latin-1")):
        found = sent(strict, head(key=key), BODY)
        assert status(found) == 401
        assert b"www-authenticate: Bearer" in found
    assert strict.ask("/v1/models")[0] == 401
    assert strict.ask("/metrics")[0] == 401
    assert strict.ask("/metrics", authorization=f"bearer {KEY}")[0] == 200
    assert strict.ask("/v1/models", authorization=f"Basic {KEY}")[0] == 401
    assert [strict.ask(path)[0] for path in ("/", "/page.js", "/page.css", "/health")] == [200] * 4


def test_without_a_key_the_body_is_not_read(strict: Served):
    with strict.opened() as connection:
        connection.sendall(head(length=1500, key=None, Expect="100-continue"))
        connection.settimeout(5)
        assert connection.recv(100).startswith(b"HTTP/1.1 401")  # and not 100: nothing of the body has been sent


def test_a_key_of_any_letters(shelf: Any):
    """Clients send it as UTF-8; a line's end behind it (from a file) is no part of it."""
    with serving(shelf, api_key="Schlüssel 1\n") as served:
        for key, expected in (("Schlüssel 1", 200), ("Schlüssel 2", 401)):
            assert served.ask("/v1/models", authorization=f"Bearer {key}".encode().decode("latin-1"))[0] == expected


def test_what_the_shutdown_cuts_off_is_told(shelf: Any, caplog: pytest.LogCaptureFixture):
    """uvicorn cancels what still runs when its time is over."""

    async def ended(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    app = create_app(shelf, ServeSettings())
    app.app = ended
    headers = [(b"host", b"localhost")]
    asyncio.run(app({"type": "http", "path": "/v1/models", "headers": headers}, receive, send))  # pyright: ignore[reportArgumentType]
    assert sent[0]["status"] == 503
    assert b"the server is ending" in sent[1]["body"]
    assert not caplog.records


def test_two_keys_are_none(strict: Served):
    twice = head(key=KEY).replace(b"\r\n\r\n", f"\r\nAuthorization: Bearer {KEY}x\r\n\r\n".encode())
    assert status(sent(strict, twice, BODY)) == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]", "localhost@x"]
)
def test_a_server_that_is_called_by_another_name(served: Served, host: str):
    assert status(sent(served, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())) in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80"])
def test_its_own_names(served: Served, host: str):
    text = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert status(sent(served, text.encode())) == 200


def test_pages_of_others(served: Served):
    own = f"127.0.0.1:{served.port}"
    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        "file://",
        "http://[",
        f"http://{own}.evil.example",
    ):
        assert served.ask("/v1/models", origin=origin)[0] == 403, origin
    assert served.ask("/v1/models", origin=f"http://{own}")[0] == 200


def test_names_that_are_allowed(shelf: Any):
    assert gate._hosts(ServeSettings(allowed_hosts="a.example, B.example:80")) >= {
        "a.example",
        "b.example",
        "localhost",
    }
    assert gate._hosts(ServeSettings(allowed_hosts="*")) is None
    assert gate._hosts(ServeSettings(host="0.0.0.0", api_key=KEY)) is None
    assert gate._hosts(ServeSettings(host="0.0.0.0", api_key=KEY, allowed_hosts="a")) >= {"a"}


def test_other_machines_need_a_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SEQTUNE_API_KEY", raising=False)
    with pytest.raises(InputError, match=r"host = 0\.0\.0\.0: others than this machine could ask"):
        running.checked({"host": "0.0.0.0"})
    monkeypatch.setenv("SEQTUNE_API_KEY", KEY)
    assert running.checked({"host": "0.0.0.0"}).api_key == KEY


@pytest.mark.parametrize("key", ["s3cret", " " * 12, "  s3cret  "])
def test_keys_that_are_none(key: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEQTUNE_API_KEY", key)
    with pytest.raises(InputError, match="api_key: expected at least 8 characters") as raised:
        running.checked({})
    assert "s3cret" not in str(raised.value)


def test_what_nobody_foresaw_is_an_error_of_the_one_form(shelf: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("seqtune.serve.answering.Answers.entry", lambda *_: 1 / 0)
    with serving(shelf) as served:
        status, _, found = served.chat()
    assert (status, found["error"]["type"]) == (500, "server_error")
    assert "something went wrong here" in found["error"]["message"]


def test_texts_that_are_too_long_to_be_looked_for_or_read(served: Served):
    status, _, found = served.chat(stop="a" * 201)
    assert (status, found["error"]["param"]) == (422, "stop")
    status, _, found = served.chat(messages=[{"role": "user", "content": "a " * 100_000}])
    assert (status, found["error"]["code"]) == (400, "context_length_exceeded")
    assert "200,000 characters" in found["error"]["message"]


def test_large_bodies(strict: Served):
    assert status(sent(strict, head(length=2001))) == 413  # at its word, nothing was sent
    assert status(sent(strict, head(length=10**30))) == 400
    assert status(sent(strict, head(length=10**15))) == 413
    chunk = b"400\r\n" + b" " * 0x400 + b"\r\n"
    found = sent(strict, head(length=None), *[chunk] * 400)
    assert status(found) == 413
    assert b"at most 2,000 are taken" in found
    fits = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    assert status(sent(strict, head(length=None, Connection="close"), fits)) == 200


def test_lengths_that_lie(strict: Served):
    begun = time.monotonic()
    found = sent(strict, head(length=len(BODY) + 5), BODY)
    assert status(found) == 408
    assert f"{len(BODY)} bytes of the body came within 0.5 seconds" in found.decode()
    assert time.monotonic() - begun < 4
    assert status(sent(strict, head(length=len(BODY) - 9), BODY)) == 400  # what is over is no request
    both = head(length=5).replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert status(sent(strict, both, BODY)) in (400, 408)
    twice = head(length=5).replace(b"\r\n\r\n", b"\r\nContent-Length: 7\r\n\r\n")
    assert status(sent(strict, twice, BODY)) == 400
    for word in ("-1", "ten", "1e3", "0x10"):
        assert status(sent(strict, head().replace(str(len(BODY)).encode(), word.encode()), BODY)) == 400, word


def test_heads_that_never_end(strict: Served):
    for beginning in (b"", b"GET / HT", head()[:-2]):
        begun = time.monotonic()
        assert sent(strict, beginning) == b""
        assert time.monotonic() - begun < 3
    assert status(sent(strict, b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")) == 400
    with strict.opened() as connection:  # the second head of a connection, too
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.settimeout(3)
        found = b""
        while not found.endswith(b'"ok"}'):
            found += connection.recv(9999)
        connection.sendall(b"GET /hea")
        assert connection.recv(9999) == b""


def test_a_client_that_does_not_take_its_answer(strict: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(strict.app, "app", _endless)
    before = given(strict)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", strict.port))
        connection.sendall(head() + BODY)
        until(lambda: given(strict) == before + 1, 5)
        assert len(received(connection)) < 10_000_000  # it ends


def given(strict: Served) -> float:
    labels = {"route": "/v1/chat/completions", "status": "200"}
    return strict.app.watch.registry.get_sample_value("seqtune_requests_total", labels) or 0


async def _endless(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"\0" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM",
    ],
)
def test_rubbish(served: Served, rubbish: bytes):
    assert status(sent(served, rubbish)) in (0, 400, 403)
    assert served.ask("/health")[0] == 200


def test_a_body_that_says_it_is_a_form(served: Served):
    code, _, found = served.ask("/v1/chat/completions", chat(), content_type="application/x-www-form-urlencoded")
    assert code == 422
    assert "expected application/json" in found["error"]["message"]


def test_headers_of_the_page(served: Served):
    _, found, content = served.ask("/")
    assert "default-src 'none'" in found["content-security-policy"]
    assert "unsafe" not in found["content-security-policy"]
    assert found["x-content-type-options"] == "nosniff"
    assert b"http" not in content
    assert b"innerHTML" not in served.ask("/page.js")[2]
