"""`seqtune.driver`: what it refuses before anything is computed."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import pytest
from datasets import Dataset
from hamilton import ad_hoc_utils

from seqtune.driver import build_driver
from seqtune.errors import InputError
from seqtune.settings import knobs


def own_module() -> ModuleType:
    def too_long(train_set: Dataset, longest: int) -> int:
        return longest

    def limit(longest: int, hint: int = 3) -> Any:
        return longest

    return ad_hoc_utils.create_temporary_module(too_long, limit)


def test_unknown_config_keys_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        build_driver({"strat": "presaved"}, config={"lora_r": 8})
    assert str(caught.value).splitlines()[:3] == [
        "config: 2 unknown keys",
        "  strat is no config key   did you mean `start`?",
        "  lora_r is an input: pass it to execute(…, inputs=…)",
    ]


def test_modules_of_your_own_may_have_config_of_their_own() -> None:
    assert build_driver({"start": "presaved", "mine": 1}, own_module()).graph.config["mine"] == 1


@pytest.mark.parametrize(("start", "name"), [("base", "data_path"), ("presaved", "adapter_path")])
@pytest.mark.parametrize("given", [{}, {"data_path": None}, {"lora_rr": 3}])
def test_a_missing_input_is_named_without_a_banner(
    start: str, name: str, given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(InputError) as caught:
        build_driver({"start": start}).execute(["verdict", "train_set"], inputs=given)
    assert f"{name} is needed   {knobs()[name].help}" in caught.value.details
    assert len(caught.value.details) == (2 if "lora_rr" in given else 1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_only_what_the_outputs_hang_on_is_needed() -> None:
    assert build_driver().execute(["device"], inputs={"device_type": "cpu"})["device"].type == "cpu"
    assert build_driver({"start": "presaved"}).execute(["device"])["device"].type
    settings = {"random_state": 1}
    found = build_driver().execute(["data_settings"], overrides={"data_settings": settings})
    assert found == {"data_settings": settings}


def test_inputs_of_your_own_modules_are_needed_too() -> None:
    driver = build_driver(own_module())
    with pytest.raises(InputError) as caught:
        driver.execute(["too_long"])
    assert [each.split("   ")[0] for each in caught.value.details] == ["data_path is needed", "longest is needed"]
    assert driver.execute(["limit"], inputs={"longest": None}) == {"limit": None}
