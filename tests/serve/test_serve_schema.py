"""The server against its own OpenAPI document: made-up requests, good and bad, must meet it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from serving_help import Served, serving

KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def guarded(shelf: Any) -> Iterator[Served]:
    with serving(shelf, api_key=KEY, max_new_tokens=4) as server:
        yield server


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_every_answer_meets_the_document(guarded: Served, mode: GenerationMode):
    document = guarded.ask("/openapi.json")[2]
    config = SchemathesisConfig.from_dict({"base-url": guarded.url, "headers": {"Authorization": f"Bearer {KEY}"}})
    # A model that is not there is answered by 404, as it should be: names that are there make for deeper tests.
    for kind in ("ChatRequest", "CompletionRequest"):
        document["components"]["schemas"][kind]["properties"]["model"]["enum"] = ["run", "other", "tiny-t5"]
    tried = 0
    for found in schemathesis.openapi.from_dict(document, config=config).get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and operation.method == "get":
            continue  # nothing can be wrong with a request that takes nothing

        @settings(max_examples=15, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def meets(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate()

        meets()
    assert tried >= 30
