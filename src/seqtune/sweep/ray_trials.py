"""A sweep's trials by Ray Tune, which stops by ASHA what falls behind; started by `sweep.on_cluster`.

Nothing of Tune's own state is read again: after a kill, the measurements that were written down are told to a new
scheduler, and each trial goes on from the checkpoint in its own directory.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune  # pyright: ignore[reportMissingImports] (an extra)
from ray.exceptions import RayError  # pyright: ignore[reportMissingImports] (an extra)
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler  # pyright: ignore[reportMissingImports] (an extra)
from ray.util.queue import Queue  # pyright: ignore[reportMissingImports] (an extra)

from seqtune.cluster import ray_driver
from seqtune.errors import RunError, SeqtuneError


class Trial(tune.Trainable):
    """One trial: it trains in a thread of its own, and waits at each rung for what Tune decides.

    Tune ends the process of a trial that falls behind, after `cleanup`: there the training is told to save and end.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begin; or go on, where a worker was lost."""
        self.told, self.reports = {**config, **config["one"]}, queue.Queue[dict[str, Any] | Exception]()
        self.answers = queue.Queue[bool]()
        self.thread = threading.Thread(target=self._train, daemon=True)
        self.waiting = False
        self.thread.start()

    def step(self) -> dict[str, Any]:
        """Train up to the next rung or the end."""
        if self.waiting:
            self.answers.put(True)
        self.waiting = False
        report = self.reports.get()
        if isinstance(report, Exception):
            raise report
        self.waiting = not report["done"]
        return report

    def cleanup(self) -> None:
        """The training that waits is told to end here."""
        if self.waiting:
            self.answers.put(False)
        self.thread.join()

    def _train(self) -> None:
        try:
            self._trained()
        except Exception as error:  # for whoever waits in `step`, where Tune sees it
            self.reports.put(error)

    def _trained(self) -> None:
        import torch

        from seqtune.sweep import trial

        told, outbox = self.told, self.told["queue"]
        torch.set_num_threads(told["threads"])
        number, rungs, now = told["trial"], told["rungs"], {"rung": 0, "pruned": False}

        def judge(done: int, of: int, loss: float) -> bool:
            per_cent = 100 * done // of
            rung = max((rung for rung in rungs if rung <= per_cent), default=0)
            if rung <= now["rung"]:
                return True
            now["rung"] = rung
            before = told["measured"].get(str(rung))  # by this trial, before a kill: when it was there, not later
            if before is None:
                outbox.put({"what": "trial", "trial": number, "per_cent": rung, "loss": loss})
            self.reports.put({"per_cent": rung, "loss": loss if before is None else before, "done": False})
            if self.answers.get():
                return True
            now["pruned"] = True  # told at once: Tune waits some seconds for what it has stopped
            outbox.put({"what": "trial", "trial": number, "state": "pruned", "loss": loss, "steps": done, "of": of})
            return False

        outbox.put({"what": "trial", "trial": number, "begins": True})
        loss, ending, folder = float("inf"), {}, Path(told["folder"])
        if folder.is_dir():
            try:
                found = trial.trained(folder / f"{number:03}", told["inputs"], judge)
                loss = found["loss"]
                ending = {"state": "pruned" if found["pruned"] else "complete"}
                ending |= {name: found[name] for name in ("loss", "steps", "of")}
            except RunError as error:
                ending = {"state": "failed", "loss": None, "error": error.headline}
            except SeqtuneError as error:  # no other trial would do better
                outbox.put({"what": "failed", "headline": error.headline, "details": error.details, "mend": error.mend})
        else:
            mend = "Choose an --out that all machines share."
            outbox.put({"what": "failed", "headline": f"{folder}: a worker can't see it", "details": [], "mend": mend})
        if ending and not now["pruned"]:
            outbox.put({"what": "trial", "trial": number, **ending})
        self.reports.put({"per_cent": 100, "loss": loss, "done": True})


def scheduler(rungs: list[int], before: list[dict[str, Any]]) -> Any:
    """ASHA, told what was measured before; without rungs, one that stops nothing."""
    if not rungs:
        return FIFOScheduler()
    first, second = rungs
    found = ASHAScheduler(
        time_attr="per_cent",
        metric="loss",
        mode="min",
        max_t=100,
        grace_period=first,
        reduction_factor=second // first,
    )
    seen = {line["trial"]: SimpleNamespace(trial_id=f"before-{line['trial']}") for line in before}
    for each in seen.values():
        found.on_trial_add(None, each)
    for line in before:
        if "per_cent" in line:
            found.on_trial_result(None, seen[line["trial"]], line)
    return found


def _tune(told: dict[str, Any], number: int, cpus: int) -> None:
    """In the process that talks to Ray."""
    ray_driver.tell("say", text=f"Ray: {number} {'trial' if number == 1 else 'trials'} at once, {cpus} threads each")
    outbox = Queue(actor_options={"num_cpus": 0})
    with ray_driver.hearing(outbox), tempfile.TemporaryDirectory(prefix="seqtune-") as folder:
        shared = {"folder": told["folder"], "rungs": told["rungs"], "threads": cpus, "queue": outbox}
        needed = {"CPU": cpus, **({"GPU": 1} if told["gpu"] else {})}
        tuner = tune.Tuner(
            tune.with_resources(Trial, needed),
            param_space={**shared, "one": tune.grid_search(told["trials"])},
            tune_config=tune.TuneConfig(
                scheduler=scheduler(told["rungs"], told["before"]), max_concurrent_trials=number
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                failure_config=tune.FailureConfig(max_failures=ray_driver.RESTARTS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial keeps its own
                verbose=0,
            ),
        )
        try:
            results = tuner.fit()
        except (tune.TuneError, RayError) as error:
            raise RunError("the sweep on Ray failed", ray_driver.ends_with(error), told["mend"]) from None
    if results.errors:
        raise RunError("the sweep on Ray failed", ray_driver.ends_with(results.errors[0]), told["mend"])


if __name__ == "__main__":
    from seqtune.sweep.ray_trials import _tune as work  # by its module's name, under which the workers find it

    ray_driver.run(work)
