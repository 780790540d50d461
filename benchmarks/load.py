"""A server under load: good, bad, huge, slow and vanishing requests at once, for as long as it takes.

    python benchmarks/load.py --clients 64 --seconds 300 [--model flan-t5-small | seqtune-mini | tiny] [--good-alone]
        [--answer-precision fp32 | bf16]

A server process of its own answers over loopback; clients in this process ask. Of ten requests seven are good (half of
them streams), one is bad (no JSON, no such model, parameters out of bounds), and one of huge, slow (its body in drops,
or never whole) and vanishing (the client leaves before its answer). Counted are status codes (nothing but 2xx, 4xx and
503 may come), the seconds of good requests (p50, p95), the server's resident memory over time, and tokens.

Then the same questions are answered offline by `Answerer.tokens` in the server's own batch size, in a process that has
the machine for itself, and the rates are compared: tokens a second of the server in a run with good requests alone
(``--seconds`` again, at most 60), and of the offline batch. How many threads compute, OMP_NUM_THREADS says, for both.

flan-t5-small and tiny are shapes with random weights: what they say is nonsense, of full length. seqtune-mini's answers
end by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
VERBS, THINGS = ("reset", "open", "return", "pay for"), ("lamp", "pump", "router", "scale")
QUESTIONS = [f"{word} do I {verb} the {thing}?" for word in ("How", "Why") for verb in VERBS for thing in THINGS]
BATCH = 16


def made_adapter(folder: Path, name: str) -> Path:
    """An adapter that changes nothing over a base model: seqtune-mini, or one of random weights."""
    import torch

    from seqtune.models import adapters, loading
    from seqtune.settings import DEFAULT
    from tiny_models import tiny_model, tiny_tokenizer

    base = "seqtune-mini"
    if name == base:
        checkpoint = loading.resolve(base)
        model, tokenizer = loading.load_model(checkpoint, torch.device("cpu")), loading.load_tokenizer(checkpoint)
    else:
        import shapes

        tokenizer = tiny_tokenizer("flan-t5")
        model = tiny_model("flan-t5", len(tokenizer)) if name == "tiny" else shapes.build(name)
        base = str(folder / "base")
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)
        tokenizer = with_words(Path(base), model.config.vocab_size)
    config = adapters.lora_config(model, base, DEFAULT.model_dump())
    tuned = adapters.attach(model, config, base)
    adapters.save(tuned, tokenizer, folder / "tuned")
    return folder / "tuned"


def with_words(folder: Path, size: int) -> Any:
    """The tokenizer there, its vocabulary filled up: each token that a model may write is a word, and an event."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary.update({f"\u0120w{number}": number for number in range(len(vocabulary), size)})
    file.write_text(json.dumps(content), encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


class Load:
    """Clients that ask one server.

    Args:
        port: of the server.
        tokens: of an answer.
        good: ask nothing but good questions.
        model: whom to ask.
    """

    def __init__(self, port: int, tokens: int, good: bool, model: str = "tuned"):
        self.port, self.tokens, self.good, self.model = port, tokens, good, model
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.written = 0
        self.unexpected: list[str] = []

    async def run(self, clients: int, seconds: float) -> None:
        """Let so many clients ask for so long."""
        self.end = time.monotonic() + seconds
        await asyncio.gather(*(self._client(random.Random(number)) for number in range(clients)))

    async def _client(self, dice: random.Random) -> None:
        while time.monotonic() < self.end:
            kind = "good" if self.good else dice.choice(["good"] * 7 + ["bad", "huge or slow", "vanishing"])
            try:
                await getattr(self, "_" + kind.split()[0])(dice)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self._note(kind, f"connection: {type(error).__name__}")

    def _body(self, dice: random.Random, **fields: object) -> bytes:
        messages = [{"role": "user", "content": dice.choice(QUESTIONS)}]
        asked = {"model": self.model, "messages": messages, "max_tokens": self.tokens}
        return json.dumps({**asked, "stream": dice.random() < 0.5, **fields}).encode()

    async def _good(self, dice: random.Random) -> None:
        begun = time.monotonic()
        status, content = await self._ask(self._body(dice, stream_options={"include_usage": True}))
        self._note("good", str(status))
        if status == 200:
            self.seconds.append(time.monotonic() - begun)
            self.written += sum(map(int, re.findall(rb'"completion_tokens":(\d+)', content)))
        elif status == 503:
            await asyncio.sleep(dice.random())

    async def _bad(self, dice: random.Random) -> None:
        bodies = [b"{", b"[1]", b"\xff", self._body(dice, model="none"), self._body(dice, max_tokens=0),
                  self._body(dice, temperature=9), self._body(dice, tools=[]), self._body(dice, n=99),
                  self._body(dice, messages=[{"role": "user", "content": "word " * 5000}])]  # fmt: skip
        self._note("bad", str((await self._ask(dice.choice(bodies)))[0]))

    async def _huge(self, dice: random.Random) -> None:
        if dice.random() < 0.5:
            self._note("huge", str((await self._ask(b" " * 3_000_000))[0]))
            return
        reader, writer = await self._sent(head(1000) + b"{")
        answer = asyncio.create_task(
            status_of(reader)
        )  # read as it comes: what is sent behind it resets the connection
        while not answer.done():
            await asyncio.sleep(0.2)
            writer.write(b" ")
        self._note("slow", str(await answer))
        writer.close()

    async def _vanishing(self, dice: random.Random) -> None:
        body = self._body(dice)
        _, writer = await self._sent(head(len(body)) + body[: dice.choice([10, len(body)])])
        await asyncio.sleep(dice.random() / 2)
        writer.transport.abort()
        self._note("vanishing", "gone")

    async def _sent(self, content: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(content)
        return reader, writer

    async def _ask(self, body: bytes) -> tuple[int, bytes]:
        reader, writer = await self._sent(head(len(body)) + body)
        status = await status_of(reader)
        content = await reader.read()
        writer.close()
        return status, content

    def _note(self, kind: str, status: str) -> None:
        self.statuses[f"{kind} {status}"] += 1
        if not re.fullmatch(r"2\d\d|4\d\d|503|gone", status):
            self.unexpected.append(f"{kind}: {status}")


def head(length: int) -> bytes:
    """The head of a request that wants its connection closed behind it."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of a response."""
    return int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])


def served(adapter: Path, log: Path, precision: str) -> tuple[subprocess.Popen[bytes], int]:
    """A server in a process of its own, and its port, when it is warm."""
    arguments = ["serve", str(adapter), "--port", "0", "--device-type", "cpu", "--read-timeout", "2"]
    arguments += ["--answer-precision", precision, "--max-batch-size", str(BATCH)]
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", "seqtune", *arguments], stderr=stream, env=os.environ)
    while b"listening on" not in log.read_bytes():
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    port = int(log.read_text().partition("127.0.0.1:")[2].split()[0])
    from urllib.error import HTTPError
    from urllib.request import urlopen

    while True:
        try:
            urlopen(f"http://127.0.0.1:{port}/health").close()
            return process, port
        except HTTPError:
            time.sleep(0.2)


OFFLINE = """
import json, sys, time
import seqtune
from seqtune.data import tokens
adapter, limit, rows, batch, precision = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
model = seqtune.load(adapter, "cpu")
model.settings["answer_precision"] = precision
questions = json.load(sys.stdin)
sources = tokens.encode(model.tokenizer, [questions[row % len(questions)] for row in range(rows)])
options = {"batch_size": batch, "random_state": 0, "max_new_tokens": limit}
model.answerer.tokens(sources[:batch], **options)
begun = time.monotonic()
found = model.answerer.tokens(sources, **options)
print(sum(map(len, found)) / (time.monotonic() - begun))
"""


def mixed(port: int, process: subprocess.Popen[bytes], given: argparse.Namespace) -> list[str]:
    """All kinds of requests at once; prints what came of it, and returns what should not have."""
    watched, sizes, load = psutil.Process(process.pid), [], Load(port, given.tokens, good=False)

    async def under_load() -> None:
        async def watch() -> None:
            while True:
                sizes.append(watched.memory_info().rss)
                await asyncio.sleep(0.5)

        watching = asyncio.create_task(watch())
        await load.run(given.clients, given.seconds)
        watching.cancel()

    asyncio.run(under_load())
    fifth = max(1, len(sizes) // 5)
    growth = max(sizes[-fifth:]) / max(sizes[fifth : 2 * fifth] or sizes) - 1
    ordered = sorted(load.seconds)
    print(f"{given.clients} clients, {given.seconds:.0f} s: {sum(load.statuses.values()):,} requests")
    print("  " + ", ".join(f"{name}: {count}" for name, count in sorted(load.statuses.items())))
    print(f"  good: p50 {ordered[len(ordered) // 2]:.2f} s, p95 {ordered[len(ordered) * 95 // 100]:.2f} s")
    print(f"  memory {sizes[fifth] / 1e6:.0f} → {sizes[-1] / 1e6:.0f} MB: {growth:+.1%}", flush=True)
    return load.unexpected + (["memory grew by more than 5 %"] if growth > 0.05 else [])


def main() -> int:
    """Run it, print the figures; the exit status says whether they are as they should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", choices=["flan-t5-small", "seqtune-mini", "tiny"], default="flan-t5-small")
    parser.add_argument("--answer-precision", choices=["fp32", "bf16"], default="fp32", help="of both")
    parser.add_argument("--good-alone", action="store_true", help="the comparison of rates alone")
    given = parser.parse_args()
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        adapter = made_adapter(folder, given.model)
        process, port = served(adapter, folder / "log", given.answer_precision)
        try:
            if not given.good_alone:
                problems += mixed(port, process, given)
                problems += [] if process.poll() is None else ["the server did not live"]
            fresh = Load(port, given.tokens, good=True)
            used, own, begun = psutil.Process(process.pid).cpu_times(), time.process_time(), time.monotonic()
            asyncio.run(fresh.run(given.clients, min(given.seconds, 60)))
            seconds = time.monotonic() - begun
            rate, own = fresh.written / seconds, (time.process_time() - own) / seconds
            after = psutil.Process(process.pid).cpu_times()
            busy = (after.user + after.system - used.user - used.system) / seconds
            process.send_signal(signal.SIGTERM)
            ended = process.wait(60)
        finally:
            process.kill()
        arguments = [str(adapter), str(given.tokens), str(max(256, min(4096, len(fresh.seconds) // 2))), str(BATCH)]
        arguments.append(given.answer_precision)
        offline = float(
            subprocess.run(
                [sys.executable, "-c", OFFLINE, *arguments], input=json.dumps(QUESTIONS), text=True, check=True,
                stdout=subprocess.PIPE,
            ).stdout
        )  # fmt: skip
        log = (folder / "log").read_text()
    print(f"good alone: {rate:.0f} tokens/s; offline in batches: {offline:.0f} tokens/s: {rate / offline:.0%}")
    print(f"  {len(fresh.seconds) / seconds:.1f} requests/s; the server used {busy:.2f} cores, the clients {own:.2f}")
    problems += fresh.unexpected
    problems += [] if ended == 128 + signal.SIGTERM else [f"the server ended with {ended}"]
    problems += ["less than 80 % of offline"] if rate < 0.8 * offline else []
    problems += ["the log has a traceback"] if "Traceback" in log else []
    print("\n".join(sorted(set(problems))) or "as it should be")
    return len(problems) > 0


if __name__ == "__main__":
    sys.exit(main())
