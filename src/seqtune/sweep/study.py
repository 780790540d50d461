"""The search: Optuna proposes settings and says which runs are not worth their end (on a cluster, see `on_cluster`).

```
sweeps/support/
  sweep.json          what is tried, on what
  study.jsonl         every trial, every measurement; a file of JSON lines, Optuna's journal
  trials/000/ …       a run directory each; the best one finished
  report.html
```

A sweep that was killed goes on when it is started again: the trial that was at work goes on from its checkpoint. The
best trial is chosen by validation loss; only then is it finished and scored on the hold-out rows.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from seqtune import api, claim
from seqtune.cluster import on_ray
from seqtune.engine import sharding
from seqtune.errors import InputError, RunError
from seqtune.preflight import check
from seqtune.progress import advance, say, warn
from seqtune.run import Run, is_finished, write_json
from seqtune.settings import DEFAULT, validated
from seqtune.sweep import on_cluster, page, trial
from seqtune.sweep.space import Dimension

if TYPE_CHECKING:
    import optuna

SWEEP, STUDY, TRIALS, REPORT = "sweep.json", "study.jsonl", "trials", "report.html"

#: Per cent of a run's steps after which all but the best third of the runs are stopped; then at three times that
#: (successive halving, Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning"). Of halves too many
#: stay: a search that learns proposes ever better runs. At 10 and at 40 per cent the best are not yet told from the
#: others: a high learning rate is worth what it is when it has come down.
FIRST_RUNG, REDUCTION = 16, 3
RUNGS = (FIRST_RUNG, FIRST_RUNG * REDUCTION)


def sweep(
    data_path: str | Path,
    tries: Sequence[Dimension],
    *,
    out: str | Path,
    trials: int = 12,
    prune: bool = True,
    on: str | None = None,
    workers: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Try settings on a question–answer file, and finish the run of the best.

    Args:
        data_path: the file.
        tries: what is tried (`space.parsed`).
        out: the sweep's directory; one that was stopped goes on.
        trials: how many runs, those before a stop included.
        prune: whether runs that fall behind are stopped.
        on: where the trials train: None here, one after the other; ``ray``, or ``ray://HOST:PORT``, side by side.
        workers: with ``on``: how many at once; one for each GPU, or for each machine, unless given.
        **settings: of all runs.

    Returns:
        ``trials`` (a dict each: number, state, settings, loss, steps, of), ``best`` (the number of one), ``run`` (the
        directory of the best).

    Raises:
        InputError: a setting, the file or the place can't be used, or Optuna is not installed.
        RunError: not one trial came to an end.
    """
    on_ray.check(on, workers)
    inputs = validated({"data_path": str(data_path), **settings})
    given = {name: claim.absolute(name, value) for name, value in inputs.items()}
    sharding.check(given, 1)
    check({**given, "out": str(Path(out) / TRIALS / "000" / "trial")})
    with _held(Path(out), given, tries, on) as folder:
        if on is None:
            found = _searched(folder, given, tries, trials, prune)
        else:
            rungs = RUNGS if prune else ()
            found = on_cluster.tried(
                folder / TRIALS, folder / STUDY, given, tries, trials=trials, rungs=rungs, on=on, workers=workers
            )
        whole = [each for each in found if each["state"] == "complete"]
        if not whole:
            errors = [f"trial {each['directory']}: {each['error'] or each['state']}" for each in found[:3]]
            mend = "Trials that have ended are not tried again: mend this, and choose another --out or more --trials."
            raise RunError(f"{folder}: not one trial came to an end", errors, mend)
        best = min(whole, key=lambda each: each["loss"])
        place = folder / TRIALS / best["directory"]
        say(f"the best of {len(found)} trials by validation loss: {best['directory']} ({best['loss']:.4f})")
        run = Run(place) if is_finished(place) else api.resume(place)
        result = {"trials": found, "best": best["number"], "run": str(place)}
        (folder / REPORT).write_text(page.render(result, [each.text for each in tries], run), encoding="utf-8")
        return result


def _searched(
    folder: Path, given: Mapping[str, Any], tries: Sequence[Dimension], trials: int, prune: bool
) -> list[dict[str, Any]]:
    """The trials, one after the other in this process."""
    study = _study(folder, given, prune)
    if not study.trials:
        usual = {each.name: getattr(DEFAULT, each.name) for each in tries}
        if all(each.holds(usual[each.name]) for each in tries):
            study.enqueue_trial(usual)  # so that the best is never worse than what a plain run would have been
    while len(done := _done(study)) < trials:
        advance("sweep", len(done), trials, "trials", **_best_figure(done))
        _one(study, folder, given, tries, len(done))
    advance("sweep", trials, trials, "trials", **_best_figure(_done(study)))
    return [_told(each) for each in _done(study)]


def _one(study: optuna.Study, folder: Path, given: Mapping[str, Any], tries: Sequence[Dimension], done: int) -> None:
    """Ask for a trial, or for the one that a kill has interrupted; run it, tell what came out."""
    import optuna

    # By the trials that are done: after a kill the sampler must not draw again what it drew before.
    study.sampler = _sampler(given, done)
    left = next((each for each in study.trials if each.state.name == "RUNNING"), None)
    # With all that it has measured, and what it was compared with: a trial of its own would be its own rival.
    asked = optuna.trial.Trial(study, left._trial_id) if left else study.ask()
    values = {each.name: _suggested(asked, each) for each in tries}
    taken = {each.user_attrs["directory"] for each in study.trials if "directory" in each.user_attrs}
    directory = asked.user_attrs.get("directory", f"{len(taken):03}")
    asked.set_user_attr("directory", directory)
    if asked.user_attrs.get("pruned"):
        study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        return
    shown = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
    say(f"trial {directory}: {shown}")
    last = max(left.intermediate_values, default=0) if left else 0

    def judge(done: int, of: int, loss: float) -> bool:
        nonlocal last
        if (per_cent := 100 * done // of) <= last:
            return True
        last = per_cent
        asked.report(loss, per_cent)
        if not asked.should_prune():
            return True
        for name, value in (("loss", loss), ("steps", done), ("of", of), ("pruned", True)):
            asked.set_user_attr(name, value)
        return False

    inputs = {**given, **{name: value for name, value in values.items() if value is not None}}
    try:
        found = trial.trained(folder / TRIALS / directory, inputs, judge)
    except RunError as error:
        warn(f"trial {directory} failed: {error.headline}")
        asked.set_user_attr("error", error.headline)
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
        return
    for name in ("steps", "of", "loss"):
        asked.set_user_attr(name, found[name])
    if found["pruned"]:
        study.tell(asked, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(asked, found["loss"])


def _suggested(asked: optuna.Trial, each: Dimension) -> Any:
    if each.choices:
        return asked.suggest_categorical(each.name, each.choices)
    if each.whole:
        return asked.suggest_int(each.name, int(each.low), int(each.high), log=each.log)
    return asked.suggest_float(each.name, each.low, each.high, log=each.log)


def _study(folder: Path, given: Mapping[str, Any], prune: bool) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    class Ours(JournalFileSymlinkLock):
        """The directory is held already, by a lock that dies with its process."""

        def acquire(self) -> bool:
            """Held."""
            return True

        def release(self) -> None:
            """Still held."""

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("optuna").propagate = False
    journal = folder / STUDY
    if journal.exists():  # a kill may have cut the last line; what is appended would be lost with it
        content = journal.read_bytes()
        journal.write_bytes(content[: content.rfind(b"\n") + 1])
    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST_RUNG, reduction_factor=REDUCTION)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=Ours(str(journal)))),
        sampler=_sampler(given, 0),
        pruner=halving if prune else optuna.pruners.NopPruner(),
        study_name="sweep",
        direction="minimize",
        load_if_exists=True,
    )


def _sampler(given: Mapping[str, Any], done: int) -> optuna.samplers.BaseSampler:
    import optuna

    seed = random.Random(f"{given.get('random_state', DEFAULT.random_state)} {done}").getrandbits(32)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)


def _done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that came to an end of their own: done, pruned or failed, not interrupted."""
    return [each for each in study.trials if each.state.is_finished()]


def _best_figure(done: Sequence[optuna.trial.FrozenTrial]) -> dict[str, float]:
    losses = [each.value for each in done if each.value is not None and each.state.name == "COMPLETE"]
    return {"best_validation_loss": min(losses)} if losses else {}


def _told(each: optuna.trial.FrozenTrial) -> dict[str, Any]:
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(each.state.name, "failed")
    attributes = {name: each.user_attrs.get(name) for name in ("directory", "loss", "steps", "of", "error")}
    return {"number": each.number, "state": state, "settings": dict(each.params), **attributes}


@contextmanager
def _held(out: Path, given: Mapping[str, Any], tries: Sequence[Dimension], on: str | None) -> Iterator[Path]:
    """The sweep's directory, ours alone, begun with the same settings.

    Raises:
        InputError: another process is at work there, or it is another sweep's, or no sweep's.
    """
    if on is None and importlib.util.find_spec("optuna") is None:
        raise InputError("a sweep needs Optuna", mend="pip install 'seqtune[sweep]'")
    data = Path(str(given["data_path"]))
    wanted = {
        "settings": dict(given),
        "tries": [each.text for each in tries],
        "data_sha256": claim.sha256_of(data, bool(given.get("streaming"))),
        "search": "optuna" if on is None else "ray",  # their studies are different files
    }
    if out.exists() and not (out / SWEEP).is_file() and any(out.iterdir()):
        raise InputError(f"{out}: already there, and no sweep", mend="Choose another --out.")
    (out / TRIALS).mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out}: another process is at work here", mend="Wait, or choose another --out.") from None
    try:
        if (out / SWEEP).is_file():
            before = {"search": "optuna", **json.loads((out / SWEEP).read_text(encoding="utf-8"))}
            if before != wanted:
                other = [f"{name}: was {before.get(name)}, now {wanted[name]}" for name in wanted
                         if before.get(name) != wanted[name]]  # fmt: skip
                raise InputError(f"{out}: a sweep of something else", other, "Choose another --out.")
        else:
            write_json(out / SWEEP, wanted)
        yield out
    finally:
        lock.release()
