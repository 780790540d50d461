"""Answers to a file of questions by a Ray cluster: `seqtune predict RUN FILE --on ray`.

Ray Data hands rows to workers that hold the model, and hands them out again where a worker is lost. Each row has a
number, so that one that was answered twice is given once, and one that was not answered is missed. The first half of
this file runs here, the second in the process that talks to Ray (`cluster.ray_driver`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seqtune import questions
from seqtune import run as runs
from seqtune.cluster import on_ray
from seqtune.data import tokens
from seqtune.errors import RunError
from seqtune.predicting.columns import Columns
from seqtune.progress import advance, warn
from seqtune.settings import DEFAULT

#: Rows that a worker takes at a time: enough to sort by length, few enough that losing them costs little.
ROWS = 256


def answers(
    run: str | Path, texts: Sequence[str], on: str, workers: int | None = None, **knobs: Any
) -> Iterator[tuple[str, str]]:
    """(text, answer) for each of the texts, in their order, each once.

    Args:
        run: the run directory, where all machines of the cluster see it.
        texts: as for `api.TunedModel.generate`.
        on: ``ray``, or ``ray://HOST:PORT``.
        workers: how many; one for each GPU, or for each machine, unless given.
        **knobs: ``device_type``, ``model_id``, ``batch_size``, and those of `generate`.

    Raises:
        InputError: Ray is not installed, or no such address.
        RunError: the cluster is gone, or has left a row out.
    """
    on_ray.check(on, workers)
    with tempfile.TemporaryDirectory(prefix="seqtune-") as folder:
        asked = Path(folder) / "questions.jsonl"
        runs.write_jsonl(asked, ({"row": row, "input": text} for row, text in enumerate(texts)))
        told = {
            "run": str(Path(run).absolute()),
            "questions": str(asked),
            "knobs": knobs,
            "gpu": knobs.get("device_type") == "cuda",
            "mend": "Start the same command again.",
        }
        waiting: dict[int, str] = {}
        given = cut = 0
        for line in on_ray.lines_of("seqtune.batch", on, workers, told, Path(folder) / on_ray.LOG):
            if line["what"] != "answer" or line["row"] < given:
                continue
            cut += line["cut"] and line["row"] not in waiting
            waiting[line["row"]] = line["output"]
            advance("the cluster answers", given + len(waiting), len(texts), "rows")
            while given in waiting:
                yield texts[given], waiting.pop(given)
                given += 1
    if cut:
        warn(f"{cut:,} of {len(texts):,} questions have more tokens than fit: cut off")
    if given < len(texts):
        raise RunError(f"the cluster has left {len(texts) - given:,} of {len(texts):,} rows without an answer")


def to_file(
    run: str | Path,
    file: questions.File,
    columns: Columns,
    output: str,
    on: str,
    workers: int | None = None,
    *,
    answer_key: str = "output",
    overwrite: bool = True,
    **knobs: Any,
) -> Path:
    """`predicting.filling.to_file`, the answers from the cluster; where it was stopped it goes on.

    Raises:
        InputError: as there, and as `answers`.
        RunError: as there, and as `answers`; the answers so far are kept.
    """
    import torch

    from seqtune import api
    from seqtune.predicting import filling

    on_ray.check(on, workers)
    drawn = {name: value for name, value in knobs.items() if name not in ("device_type", "model_id")}
    # For what it is, which the file that goes on is compared with: a GPU may be the cluster's alone.
    device = knobs.get("device_type", DEFAULT.device_type)
    device = "cpu" if device == "cuda" and not torch.cuda.is_available() else device
    model = api.load(run, device_type=device, model_id=knobs.get("model_id"))

    def elsewhere(texts: list[str]) -> Iterator[str]:
        return (answer for _, answer in answers(run, texts, on, workers, **knobs))

    return filling.to_file(
        model, file, columns, output, answer_key=answer_key, elsewhere=elsewhere, overwrite=overwrite, **drawn
    )


class Answering:
    """What a worker holds: the model; called with a batch of rows."""

    def __init__(self, told: dict[str, Any], threads: int):
        import torch

        from seqtune import api

        torch.set_num_threads(threads)
        self.knobs = dict(told["knobs"])
        where = {name: self.knobs.pop(name) for name in ("device_type", "model_id") if name in self.knobs}
        self.model = api.load(told["run"], **where)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Numbers of the rows, answers, and whether a question was cut off."""
        texts, settings = [str(text) for text in batch["input"]], self.model.settings
        encoded = tokens.encode(self.model.tokenizer, tokens.apply_template(settings["input_template"], texts))
        cut = [len(ids) > settings["max_source_length"] for ids in encoded]
        return {"row": batch["row"], "output": self.model.generate(texts, **self.knobs), "cut": cut}


def _answer(told: dict[str, Any], number: int, cpus: int) -> None:
    """In the process that talks to Ray."""
    import ray.data  # pyright: ignore[reportMissingImports] (an extra)
    from ray.exceptions import RayError  # pyright: ignore[reportMissingImports] (an extra)

    from seqtune.cluster import ray_driver

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    rows = runs.read_jsonl(Path(told["questions"]))
    try:
        answered = ray.data.from_items(rows, override_num_blocks=max(1, -(-len(rows) // ROWS))).map_batches(
            Answering,
            fn_constructor_args=(told, cpus),
            batch_size=ROWS,
            compute=ray.data.ActorPoolStrategy(size=number),
            num_cpus=cpus,
            num_gpus=1 if told["gpu"] else None,
        )
        for row in answered.iter_rows():
            ray_driver.tell("answer", row=int(row["row"]), output=str(row["output"]), cut=bool(row["cut"]))
    except RayError as error:
        raise RunError("answering on Ray failed", ray_driver.ends_with(error), told["mend"]) from None


if __name__ == "__main__":
    from seqtune.batch import _answer as work  # by its module's name, under which the workers find it
    from seqtune.cluster import ray_driver

    ray_driver.run(work)
