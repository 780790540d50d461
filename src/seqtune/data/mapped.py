"""Large sets as Arrow files that are mapped into memory, and reused when nothing has changed.

A set of less than `FROM` rows is made in memory: it takes no time to make again. The files of larger ones lie in
``$XDG_CACHE_HOME/seqtune/tokens`` or ``~/.cache/seqtune/tokens``, by what they are made of; the newest few are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from datasets import Dataset, Features
from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from seqtune.data.columns import BATCH
from seqtune.durable import cache_folder
from seqtune.errors import RunError
from seqtune.progress import advance, say

#: Sets of so many rows and more are files.
FROM = 50_000
#: Files that are kept, the newest: those of two or three runs.
KEPT = 12


def mapped(
    rows: Dataset,
    function: Callable[..., dict[str, list]],
    features: Features,
    known_by: Sequence[Any],
    stage: str,
    with_indices: bool = False,
) -> Dataset:
    """What a function makes of batches of rows.

    Args:
        rows: all columns of which are given to the function.
        function: takes a dict of lists (and the places of the rows), returns one of the columns of ``features``.
        features: of the result.
        known_by: what the result depends on besides the rows: it makes the name of the file.
        stage: what to call this in the progress display.
        with_indices: whether the function takes the places too.

    Raises:
        RunError: the file can't be written.
    """
    done = 0

    def counted(batch: dict[str, list], *indices: list[int]) -> dict[str, list]:
        nonlocal done
        made = function(batch, *indices)
        done += len(made["row"])
        advance(stage, done, len(rows), "rows")
        return made

    if len(rows) < FROM:
        columns: dict[str, list] = {name: [] for name in features}
        for start in range(0, len(rows), BATCH):
            batch: Any = rows[start : start + BATCH]
            places = [list(range(start, min(start + BATCH, len(rows))))] if with_indices else []
            for name, values in counted(dict(batch), *places).items():
                columns[name].extend(values)
        return Dataset.from_dict(columns, features=features)

    digest = _digest(rows, [str(features), *known_by])
    folder = cache_folder() / "tokens"
    place = folder / f"{digest}.arrow"
    bars = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if place.exists():
            say(f"{stage}: nothing has changed, {place} is used again")
            place.touch()
            return Dataset.from_file(str(place))
        made = rows.map(
            counted,
            batched=True,
            batch_size=BATCH // 5,
            with_indices=with_indices,
            remove_columns=rows.column_names,
            features=features,
            cache_file_name=str(place),
            new_fingerprint=digest[:32],
        )
        for old in sorted(folder.glob("*.arrow"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
        return made
    except OSError as error:
        raise RunError(
            f"{folder}: can't be written ({error.strerror or error})",
            mend="Free some space, or set XDG_CACHE_HOME to a folder elsewhere.",
        ) from None
    finally:
        if bars:
            enable_progress_bar()


class Rows(Sequence):
    """The rows of a mapped set as plain dicts, made when they are asked for."""

    def __init__(self, data: Dataset):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self.data[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self), BATCH):
            yield from self.data.select(range(start, min(start + BATCH, len(self)))).to_list()


def _digest(rows: Dataset, known_by: Sequence[Any]) -> str:
    """SHA-256 of the rows' content and of what else the result depends on."""
    digest = hashlib.sha256(repr(list(known_by)).encode())
    arrow: Any = rows.with_format("arrow")
    for start in range(0, len(rows), BATCH):
        table = arrow[start : start + BATCH]
        for name in table.column_names:
            for value in table.column(name).to_pylist():
                digest.update(repr(value).encode("utf-8", "surrogatepass"))
            digest.update(b"\0")
    return digest.hexdigest()
