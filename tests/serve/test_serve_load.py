"""A few seconds of benchmarks/load.py: good, bad, huge, slow and vanishing requests at once."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from pathlib import Path
from typing import Any

from serving_help import serving, until

PATH = Path(__file__).parents[2] / "benchmarks" / "load.py"


def test_nothing_but_answers_and_refusals(shelf: Any):
    spec = importlib.util.spec_from_file_location("load", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with serving(shelf, read_timeout=0.4, max_waiting=8, max_batch_size=1) as served:
        load = module.Load(served.port, 8, good=False, model="run")
        asyncio.run(load.run(16, 3))
        assert load.unexpected == []
        kinds = {re.sub(r" .*", "", name) for name in load.statuses}
        assert kinds == {"good", "bad", "huge", "slow", "vanishing"}
        assert load.statuses["good 200"] > 10
        until(lambda: served.batcher.at_work() == 0)
        assert served.chat()[0] == 200
