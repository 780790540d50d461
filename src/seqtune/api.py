"""seqtune from Python: `finetune`, `resume`, `rerun`, `evaluate`, `report`, `load`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune import claim, generation, launch, picture, run, tracking
from seqtune.cluster import launched, on_ray
from seqtune.data import tokens
from seqtune.driver import build_driver
from seqtune.engine import hardware, sharding
from seqtune.errors import InputError, RunError, SeqtuneError
from seqtune.live import served
from seqtune.models import adapters, families, loading, pieces
from seqtune.preflight import check
from seqtune.progress import say, timed, warn
from seqtune.report import facts, page, sections, unfinished
from seqtune.report.answers import TextPolicy
from seqtune.run import Run
from seqtune.settings import DEFAULT, knobs, validated

#: Texts that `TunedModel.stream` reads ahead: enough to sort by length, few enough to hold.
CHUNK = 256


def finetune(
    data_path: str | Path,
    *,
    on: str | None = None,
    workers: int | None = None,
    storage: str | None = None,
    live: bool = False,
    track: str | None = None,
    **settings: Any,
) -> Run:
    """Tune a model on a question–answer file and score it against the base model.

    A run that was stopped goes on where it was when it is started again with the same ``out`` (without one, with the
    same settings); a finished run of the same settings is returned as it is.

    Args:
        data_path: the file.
        on: where to train: None here, ``ray`` on a Ray that is started here, ``ray://HOST:PORT`` on that cluster.
        workers: with ``on``: how many; one for each GPU, or for each machine, unless given.
        storage: with ``on``: where workers that do not see ``out`` keep checkpoints (``s3://BUCKET/PLACE``).
        live: serve the report's page on this machine while it trains (`seqtune.live`); its address is said. What comes
            out is the same.
        track: follow the training with ``tensorboard``, ``mlflow``, ``wandb`` or ``trackio`` (`seqtune.tracking`).
        **settings: any knob of `seqtune.settings`; `seqtune inputs` lists them.

    Returns:
        The finished run: ``run.metrics``, ``run.verdict``, ``run.predictions``, ``run.path``.

    Raises:
        InputError: the file or a setting can't be used, or the place is taken; nothing was written.
        RunError: training or delivery failed; nothing was delivered.
    """
    given = validated({"data_path": str(data_path), **settings})
    on_ray.check(on, workers, storage)
    rank, processes, _ = launch.launched()
    if rank == 0:  # who says what is wrong with the settings
        sharding.check(given, processes if on is None else workers)
    if on is not None:

        def sent(inputs: dict[str, Any], *watchers: Any) -> Path:
            return on_ray.delivered(inputs, on, workers, storage, watchers)

        return _finetuned(given, (lambda inputs: _executed_live(inputs, sent)) if live else sent, track)
    with timed():
        if launched.several():
            if live:
                warn("--live follows one process: of several it shows nothing")
            if track:
                warn("--track follows one process: of several it keeps nothing")
            return Run(launched.run(lambda execute: _finetuned(given, execute).path))
        return _finetuned(given, _executed_live if live else _executed, track)


def _finetuned(given: dict[str, Any], execute: Callable[[dict[str, Any]], Path], track: str | None = None) -> Run:
    """`finetune`, with the dataflow run by ``execute``: in this process, or with others."""
    finished = claim.finished(given)
    if finished is not None:
        return finished
    if track is not None:
        tracking.check(track)
    values = check(given)
    values["out"] = claim.place(values)
    with claim.claimed(values["out"], given) as folder:
        follow = tracking.tracked(track, values["out"], given) if track is not None else nullcontext()
        with follow:
            try:
                return _delivered({**values, "checkpoints_path": str(folder)}, execute)
            except BaseException:  # whatever it was, a signal too: the run is over for now
                _leave_report(Path(values["out"]), values.get("report_text", DEFAULT.report_text))
                raise


def resume(path: str | Path, *, allow_changed: bool = False, live: bool = False, track: str | None = None) -> Run:
    """Go on with a run that was stopped; a finished run is returned as it is.

    Args:
        path: its directory.
        allow_changed: as the knob.
        live: as of `finetune`.
        track: as of `finetune`.

    Raises:
        InputError: no run was stopped there, or its data, base model or settings are no longer the same.
        RunError: as `finetune`.
    """
    if run.is_finished(Path(path)):
        return Run(path)
    return finetune(**{**claim.inputs_of(path), "allow_changed": allow_changed}, live=live, track=track)


def rerun(path: str | Path) -> dict[str, Any]:
    """Make a finished run again, from its manifest, and say whether the same came out.

    Args:
        path: its directory; it stays as it is.

    Returns:
        ``same``: whether adapter and metrics are; ``outcome``: what of them is not; ``reasons``: what else differs
        (versions, machine, data).

    Raises:
        InputError: no finished run there, or its data or base model can't be had.
        RunError: as `finetune`.
    """
    before = Run(path).manifest
    with tempfile.TemporaryDirectory(prefix="seqtune-") as folder:
        settings = {name: value for name, value in before["settings"].items() if name in knobs() and value is not None}
        settings["device_type"] = before["machine"]["device"]
        after = finetune(**{**settings, "out": str(Path(folder) / "again")}).manifest
    outcome = [
        f"{name}: was {a}, is {b}" for name, a, b in claim.differences(claim.outcome(before), claim.outcome(after))
    ]
    reasons = [
        f"{name}: was {a}, is {b}" for name, a, b in claim.differences(claim.origin(before), claim.origin(after))
    ]
    return {"same": not outcome, "outcome": outcome, "reasons": reasons}


def evaluate(adapter_path: str | Path, **settings: Any) -> dict[str, Any]:
    """Score a saved run, or an adapter from elsewhere, against its base model; on the run's own rows unless told.

    Args:
        adapter_path: a run directory or an adapter folder in PEFT's format (which then needs ``data_path``).
        **settings: knobs that differ from the run's own: ``hold_out_path``, ``num_beams``, ``max_eval_rows`` …

    Returns:
        ``metrics`` and ``verdict`` as in ``run.json``.

    Raises:
        InputError: no adapter there, other data or base model than the run's, or a bad setting.
    """
    driver = build_driver({"start": "presaved"})
    outputs = ["validation_set_metrics", "hold_out_set_metrics", "verdict"]
    found = driver.execute(outputs, inputs={"adapter_path": str(adapter_path), **settings})
    return {
        "metrics": {"validation": found["validation_set_metrics"], "hold_out": found["hold_out_set_metrics"]},
        "verdict": found["verdict"],
    }


def report(path: str | Path, *, report_text: TextPolicy = "none", output: str | Path | None = None) -> Path:
    """Make the page of a run anew: of a finished one, or of one that was stopped or is at work, as far as it came.

    Args:
        path: the run directory.
        report_text: as the knob.
        output: the file to write; ``report.html`` in the run directory unless given.

    Returns:
        The file.

    Raises:
        InputError: no run there, nothing of it is saved yet, or the file can't be written.
    """
    place = Path(output) if output else Path(path) / run.REPORT
    if run.is_unfinished(Path(path)):
        manifest, log = unfinished.read(path)
        predictions: dict[str, list[dict[str, Any]]] = {}
        answered = Path(path) / run.CHECKPOINTS
    else:
        finished = Run(path)
        manifest, log, predictions = finished.manifest, finished.log, finished.predictions
        predictions = {split: predictions[split] for split in ("hold_out", "validation")}
        answered = Path(path) / run.PREDICTIONS
    html = page.render(
        manifest,
        log,
        predictions,
        text=report_text,
        picture=picture.linked(build_driver({"start": manifest.get("start", "base")}), sections.of_node),
        name=Path(path).absolute().name,
        learned=run.answers_while_training(answered),
    )
    try:
        run.write_text(place, html)
    except OSError as error:
        raise InputError(f"{place}: can't be written ({error.strerror})", mend="Choose another --output.") from None
    return place


def load(path: str | Path, device_type: str = DEFAULT.device_type, model_id: str | None = None) -> TunedModel:
    """The tuned model of a run directory (or of an adapter folder in PEFT's format), ready to answer.

    Args:
        path: the run directory or adapter folder.
        device_type: as the knob.
        model_id: where the base model is now, if not where it was.

    Raises:
        InputError: no adapter there, or its base model is not to be had.
    """
    saved = run.open_saved(path)
    checkpoint = adapters.resolve_base(saved, model_id, model_id, None)
    tokenizer = pieces.with_pieces(loading.load_fitting_tokenizer(checkpoint), pieces.saved(saved["adapter"]))
    base_model = loading.load_model(checkpoint, hardware.choose_device(device_type))
    pieces.make_room(base_model, pieces.ids_of(tokenizer))
    settings = run.answering(saved)
    identity = {"adapter": run.adapter_sha256(Path(saved["adapter"])), "base": checkpoint.sha256}
    return TunedModel(adapters.load(base_model, saved["adapter"]), tokenizer, settings, identity)


class TunedModel:
    """A base model with its adapter, that answers as it did in the evaluation of its run.

    Args:
        model: base and adapter; or a base, to compare with.
        tokenizer: of the base model.
        settings: of the run; the defaults where it has none.
        identity: digests of what it was loaded from.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: dict[str, Any],
        identity: dict[str, str] | None = None,
    ):
        self.identity = identity or {}
        self.model = model
        self.tokenizer = tokenizer
        self.settings = {**DEFAULT.model_dump(), **settings}
        source, target = families.position_limits(model.config)
        self.settings["max_source_length"] = self.settings["max_source_length"] or source or tokens.UNLIMITED
        longest = min(generation.LONGEST_ANSWER, target - 1 if target else generation.LONGEST_ANSWER)
        self.settings["max_new_tokens"] = self.settings["max_new_tokens"] or longest

    def generate(self, texts: Sequence[str], *, batch_size: int | None = None, **knobs: Any) -> list[str]:
        """An answer to each text, in their order.

        Args:
            texts: inputs as in the training file; the run's template is applied.
            batch_size: texts answered together; the run's ``per_device_eval_batch_size`` unless given.
            **knobs: of transformers' ``generate``, over those of the run: ``num_beams=4``, ``max_new_tokens=50`` …

        Raises:
            InputError: ``texts`` is one string, or a text is no string.
        """
        if isinstance(texts, str):
            raise InputError("generate takes a list of texts", mend=f"generate([{texts[:40]!r}])")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"texts[{index}] is {type(text).__name__}, expected text")
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise InputError(f"texts[{index}] holds a lone surrogate, which is no character", [repr(text[:60])])
        settings = self.settings
        sources = tokens.encode(self.tokenizer, tokens.apply_template(settings["input_template"], texts))
        limit = settings["max_source_length"]
        for index, over in [(index, len(ids) - limit) for index, ids in enumerate(sources) if len(ids) > limit]:
            warn(f"texts[{index}] has {over} tokens more than the {limit} that fit: they are cut off")
        sources = tokens.encode(self.tokenizer, tokens.apply_template(settings["input_template"], texts), limit)
        return self.answerer.answer(
            sources,
            batch_size=batch_size or settings["per_device_eval_batch_size"],
            random_state=settings["random_state"],
            **{**{name: settings[name] for name in generation.GENERATE_KNOBS}, **knobs},
        )

    @cached_property
    def answerer(self) -> generation.Answerer:
        """What writes the answers: made ready at the first of them, in the ``answer_precision`` of the settings."""
        return generation.Answerer(self.model, self.tokenizer, self.settings["answer_precision"])

    def merged(self) -> PreTrainedModel:
        """A plain transformers model with the adapter merged into its weights, for use without PEFT or seqtune."""
        return adapters.merged(self.model) if isinstance(self.model, PeftModel) else self.model

    def stream(self, texts: Iterable[str], *, chunk: int = CHUNK, **knobs: Any) -> Iterator[tuple[str, str]]:
        """(text, answer) for each of the texts, in their order, without holding them all.

        Args:
            texts: as for `generate`.
            chunk: texts read ahead; 1 answers each before the next is read.
            **knobs: as for `generate`.
        """
        remaining = iter(texts)
        while ahead := list(islice(remaining, chunk)):
            yield from zip(ahead, self.generate(ahead, **knobs), strict=True)


def _executed(inputs: dict[str, Any], *watchers: Any) -> Path:
    keeping = facts.Keeping(Path(inputs["checkpoints_path"]))
    driver = build_driver({"start": "base"}, adapters=[keeping, *watchers])
    delivered = driver.execute(["save_best_models"], inputs=inputs)
    return Path(delivered["save_best_models"]["path"])


def _executed_live(inputs: dict[str, Any], execute: Callable[..., Path] = _executed) -> Path:
    """Executed, with a page to look on."""
    with served(Path(inputs["checkpoints_path"]), Path(inputs["out"]).absolute().name) as watcher:
        return execute(inputs, watcher)


def _leave_report(out: Path, report_text: TextPolicy) -> None:
    """The page of a run that was stopped or failed: how far it came.

    None where nothing is saved, nor where the place still holds the finished run that this one was to replace.
    """
    if (out / run.MANIFEST).exists() or not any((out / run.CHECKPOINTS).glob("step-*")):
        return
    try:
        say(f"how far it came: {report(out, report_text=report_text)}")
    except SeqtuneError as error:  # what stopped the run is told, not this
        warn(f"no report of how far it came: {error.headline}")


def _delivered(values: dict[str, Any], execute: Callable[[dict[str, Any]], Path]) -> Run:
    """Run the dataflow up to its run directory; a trained adapter lies in a temporary folder until then.

    Where delivery fails after training (a full disk), the folder stays, and the error says where.
    """
    work = Path(tempfile.mkdtemp(prefix="seqtune-"))
    keep = False
    try:
        values["work_dir"] = values.get("work_dir") or str(work)
        return Run(execute(values))
    except RunError as error:
        trained = sorted((Path(values["work_dir"]) / "adapters").glob("[0-9a-f]*"))
        keep = bool(trained)
        error.details += [f"the trained adapter is kept: {path}" for path in trained]
        raise
    finally:
        if not keep:
            shutil.rmtree(work, ignore_errors=True)
