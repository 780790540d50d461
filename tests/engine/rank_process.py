"""One of several processes that train together, for `test_ranks`: runs every case of a file, the first writes results.

python rank_process.py MODEL CASES.json OUT, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_loop import CPU, Setup, weights_of, without_dropout

from seqtune import progress
from seqtune.engine import hardware, loop, sharding
from seqtune.engine.checkpoint import Checkpoints
from seqtune.engine.ranks import ALONE, Ranks, together
from seqtune.errors import RunError
from seqtune.settings import DEFAULT

#: Of a case: what is no knob of training.
OTHERS = ("name", "family", "adapter", "dropout", "folder", "signal_at")


def family_of(case: dict[str, Any]) -> str:
    return case.get("family", "flan-t5")


def trained(setup: Setup, case: dict[str, Any], ranks: Ranks = ALONE) -> tuple[loop.TrainState, Any]:
    """The state and the model after a case: knobs, and what `OTHERS` names."""
    knobs = {name: value for name, value in case.items() if name not in OTHERS}
    settings = {**DEFAULT.model_dump(), "learning_rate": 1e-3, "warmup_steps": 2, "eval_steps": 3, **knobs}
    model = setup.adapted(lora_dropout=0.1 if case.get("dropout") else 0.0, **case.get("adapter", {}))
    if not case.get("dropout"):
        without_dropout(model)
    checkpoints = Checkpoints(Path(case["folder"]), 3) if "folder" in case else None

    def one_is_signalled(seen: progress.Progress) -> None:
        if seen.done == case.get("signal_at") and ranks.rank == ranks.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    shards = sharding.shard(model, ranks, CPU) if settings["shard_base"] else sharding.WHOLE
    with hardware.seeded(settings["random_state"], CPU), progress.listening(one_is_signalled):
        state = loop.train(
            model, setup.rows[:13], setup.rows[13:], settings, device=CPU, precision="fp32", pad_token_id=0,
            checkpoints=checkpoints, made_of={"rows": "these"}, ranks=ranks, shards=shards,
        )  # fmt: skip
    return state, model


class StoppedError(Exception):
    """In the place of the command line's own."""


def stop(number: int, _: Any) -> None:
    raise StoppedError(number)


def main() -> None:
    torch.set_num_threads(1)
    folder, cases, out = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    signal.signal(signal.SIGTERM, stop)
    # Before the processes meet (transformers saves a model in the first alone), and each for itself.
    setups = {each: Setup(each, Path(folder, os.environ["RANK"])) for each in {family_of(case) for case in cases}}
    with together() as ranks:
        assert ranks.from_the_first(b"" if ranks.first else None) == b""
        assert ranks.from_the_first(None) is None
        assert ranks.from_the_first(bytes(range(256)) * 999 if ranks.first else None) == bytes(range(256)) * 999
        assert ranks.sum(1.0, ranks.rank) == [ranks.size, sum(range(ranks.size))]
        assert ranks.most(-1.0 * ranks.rank) == [0.0]
        weight = torch.nn.Parameter(torch.full((3,), float(ranks.rank)))
        with pytest.raises(RunError, match="step 7"):
            ranks.check_same([weight], 7)
        ranks.as_the_first([weight])
        ranks.check_same([weight], 7)
        assert weight.tolist() == [0.0, 0.0, 0.0]
        for case in cases:
            stopped = 0
            try:
                state, model = trained(setups[family_of(case)], case, ranks)
            except StoppedError as error:
                stopped, state, model = error.args[0], None, None
            held = sharding.held(model) if model is not None else 0
            (signals, in_all), (most,) = ranks.sum(stopped, held), ranks.most(held)
            if ranks.first:
                log = state.log if state is not None else []
                found = {"log": log, "signals": signals, "held": most, "held_in_all": in_all}
                (out / f"{case['name']}.json").write_text(json.dumps(found))
                if model is not None:
                    save_file(weights_of(model), out / f"{case['name']}.safetensors")


if __name__ == "__main__":
    main()
