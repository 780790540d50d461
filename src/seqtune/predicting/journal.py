"""Which answers there are already: a file beside the one that is wanted, to which finished answers are added.

```
answers.jsonl.partial
  {"format": 1, …}      what is answered by what: input, model, knobs
  "first answer"        a JSON string a line, in the order of the rows
  "second answer"
```

Answers come in chunks; each is on the disk before the next is begun. After a kill the whole chunks count: a line that
was cut off, or a chunk that was, is answered again. So each row has one answer, in its place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from seqtune.errors import InputError, RunError

#: Version of the layout.
FORMAT = 1


class Journal:
    """The answers so far; held by one process at a time.

    Args:
        path: of the journal.
        identity: what is answered by what.
        chunk: rows of a chunk.
        total: rows in all.

    Raises:
        InputError: another process is at work there; or it was begun with something else, each difference named.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], chunk: int, total: int):
        self.path, self.chunk, self.total = path, chunk, total
        self.header = json.dumps({"format": FORMAT, **identity}, ensure_ascii=True)
        self.lock = FileLock(f"{path}.lock")
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{path}: another process is at work here", mend="Wait for it.") from None
        except OSError as error:
            raise InputError(f"{path}: can't be written ({error.strerror})", mend="Choose another --output.") from None
        try:
            self.done = self._found()
            self.stream = path.open("ab")
        except OSError as error:
            self.release()
            raise RunError(f"{path}: can't be written ({error.strerror})") from None
        except BaseException:
            self.release()
            raise

    def add(self, answers: Sequence[str]) -> None:
        """Put a chunk on the disk.

        Raises:
            RunError: the disk is full or the place is gone; what was there before stays.
        """
        try:
            self.stream.write("".join(json.dumps(each) + "\n" for each in answers).encode())
            self.stream.flush()
            os.fsync(self.stream.fileno())
        except OSError as error:
            mend = "Free some space and give the same command again: it goes on."
            raise RunError(f"{self.path}: can't be written ({error.strerror})", mend=mend) from None
        self.done += len(answers)

    def answers(self) -> Iterator[str]:
        """All answers so far, in order."""
        with self.path.open("rb") as lines:
            next(lines)
            for line in lines:
                yield json.loads(line)

    def close(self) -> None:
        """Let the place go; the answers stay."""
        with suppress(OSError):  # a full disk: what could not be written before can't be now
            self.stream.close()
        self.release()

    def release(self) -> None:
        """Let the lock go and take its file away."""
        Path(self.lock.lock_file).unlink(missing_ok=True)
        self.lock.release()

    def remove(self) -> None:
        """Take the journal away: its answers are where they are wanted."""
        self.stream.close()
        self.path.unlink(missing_ok=True)
        self.release()

    def _found(self) -> int:
        """The number of whole answers that are there; what is behind them is cut off. Begins a journal if there is
        none."""
        if not self.path.exists() or not self._check_header():
            partial = self.path.with_name(f".{self.path.name}.new")
            partial.write_bytes(self.header.encode() + b"\n")
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
            partial.replace(self.path)
            return 0
        with self.path.open("rb+") as lines:
            whole = place = len(next(lines))
            count = kept = 0
            for line in lines:
                if not line.endswith(b"\n") or not _is_answer(line):
                    break
                count, place = count + 1, place + len(line)
                if count % self.chunk == 0 or count == self.total:
                    kept, whole = count, place
            lines.truncate(whole)
            lines.flush()
            os.fsync(lines.fileno())
        return kept

    def _check_header(self) -> bool:
        """Whether there is a header, and the same; False where it was cut off before anything was answered."""
        with self.path.open("rb") as lines:
            first = lines.readline()
        if not first.endswith(b"\n"):
            return False
        try:
            before = json.loads(first)
            assert isinstance(before, dict)
        except (ValueError, AssertionError):
            raise InputError(
                f"{self.path}: no journal of answers", mend="Take it away, or choose another --output."
            ) from None
        now = json.loads(self.header)
        other = [
            f"{name}: was {_short(before.get(name))}, now {_short(now.get(name))}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if other:
            mend = f"Give the same, choose another --output, or take {self.path} away to begin again."
            raise InputError(f"{self.path}: the answers that are there were begun with something else", other, mend)
        return True


def _is_answer(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), str)
    except ValueError:
        return False


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:40] + "…" if len(text) > 41 else text
