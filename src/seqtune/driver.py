"""The Hamilton driver of the dataflow, and what it refuses."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hamilton import base
from hamilton import driver as hamilton_driver
from hamilton.caching.adapter import HamiltonCacheAdapter
from hamilton.execution.graph_functions import node_is_required_by_anything

from seqtune import picture
from seqtune.caching import JsonStore
from seqtune.dataflow import data, delivery, evaluation, finetuning, tokenization
from seqtune.errors import InputError, SeqtuneError, did_you_mean
from seqtune.settings import STARTS, knobs, validated

#: The outputs that most want; all of them exist under both starts.
PUBLIC_OUTPUTS = (
    "save_best_models",
    "hold_out_set_predictions",
    "training_and_validation_set_metrics",
    "finetuned_model_on_validation_set",
    "verdict",
    "validation_set_metrics",
    "hold_out_set_metrics",
    "train_set",
    "validation_set",
    "hold_out_set",
    "tokenizer",
    "lora_config",
    "device",
    "base_model",
    "finetuned_model",
    "manifest",
)


def modules() -> tuple[ModuleType, ...]:
    """The modules of the dataflow, in the order of execution, for a plain ``driver.Builder().with_modules(*…)``."""
    return data, tokenization, finetuning, evaluation, delivery


class Driver(hamilton_driver.Driver):
    """Hamilton's driver, which also refuses inputs that no node takes, values out of bounds and missing inputs."""

    def execute(
        self,
        final_vars: Iterable[Any],
        overrides: dict[str, Any] | None = None,
        display_graph: bool = False,
        inputs: dict[str, Any] | None = None,
    ) -> Any:
        """As Hamilton's, with the inputs checked first; returns a dict of the outputs asked for.

        Raises:
            InputError: naming every unknown input, override and output, every value out of bounds and every input that
                the outputs need and was not given, at once.
        """
        wanted = list(final_vars)
        checked = self.checked(inputs, overrides, wanted)
        with _errors_said_once(), picture.running(self):
            return super().execute(wanted, overrides=overrides or {}, display_graph=display_graph, inputs=checked)

    def checked(
        self, inputs: Mapping[str, Any] | None, overrides: Mapping[str, Any] | None = None, outputs: Sequence[Any] = ()
    ) -> dict[str, Any]:
        """The inputs with their values converted (``"0.001"`` to a number).

        Raises:
            InputError: as `execute`.
        """
        variables = {variable.name: variable for variable in self.list_available_variables()}
        takes = self.takes()
        nodes = {name for name, variable in variables.items() if not variable.is_external_input}
        problems: list[str] = []
        given = dict(inputs or {})
        for name in given:
            if name in takes:
                continue
            if name in knobs():
                problems.append(f"{name} has no use with start={self.graph.config.get('start')}")
            elif name in nodes:
                problems.append(f"{name} is made by a node: pass it in overrides, not in inputs")
            else:
                problems.append(f"{name} is no input   {did_you_mean(name, takes)}".rstrip())
        problems += [
            f"{n} is no node to override   {did_you_mean(n, nodes)}".rstrip() for n in overrides or {} if n not in nodes
        ]
        problems += [
            f"{output} is no output   {did_you_mean(output, nodes)}".rstrip()
            for output in outputs
            if isinstance(output, str) and output not in variables
        ]
        values = {}
        try:
            values = validated({name: value for name, value in given.items() if name in takes and name in knobs()})
        except InputError as error:
            problems += error.details
        known = [output for output in outputs if not isinstance(output, str) or output in variables]
        problems += [
            f"{name} is needed   {knobs()[name].help if name in knobs() else 'an input of your own modules'}"
            for name in self._missing(known, given, overrides or {})
        ]
        if problems:
            noun = "problem" if len(problems) == 1 else "problems"
            raise InputError(
                f"inputs: {len(problems)} {noun}",
                problems,
                "`seqtune inputs` lists all inputs with their types and bounds.",
            )
        return {**given, **values}

    def _missing(self, outputs: Sequence[Any], given: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[str]:
        """The inputs without a default that the outputs hang on and that were not given."""
        names = self._create_final_vars(list(outputs))
        values = {**self.graph.config, **given}
        # None is no value for a knob without a default, but may be one for an input of your own modules.
        values = {name: value for name, value in values.items() if value is not None or name not in knobs()}
        nodes, inputs = self.graph.get_upstream_nodes(names, values, dict(overrides))
        return sorted(n.name for n in inputs if n.name not in values and node_is_required_by_anything(n, nodes))

    def takes(self) -> set[str]:
        """The names of the inputs; Hamilton counts the config among them, which is settled when a driver is built."""
        external = {variable.name for variable in self.list_available_variables() if variable.is_external_input}
        return external - set(self.graph.config)

    def inputs_table(self) -> list[dict[str, Any]]:
        """Every input this driver takes: name, type, default, unit and use; those of your own modules too."""
        table = []
        for variable in self.list_available_variables():
            if variable.name not in self.takes():
                continue
            knob = knobs().get(variable.name)
            table.append(
                {
                    "name": variable.name,
                    "type": knob.type_name if knob else getattr(variable.type, "__name__", str(variable.type)),
                    "default": knob.default_text if knob else "",
                    "unit": knob.unit if knob else "",
                    "use": knob.help if knob else "an input of your own modules",
                }
            )
        order = {name: index for index, name in enumerate(knobs())}
        return sorted(table, key=lambda row: (order.get(row["name"], len(order)), row["name"]))


@contextmanager
def _errors_said_once() -> Iterator[None]:
    """Hamilton logs an exception with a banner and its traceback before raising it; ours say all in their text."""

    def is_news(record: logging.LogRecord) -> bool:
        return not isinstance(sys.exc_info()[1], SeqtuneError)

    loggers = [logging.getLogger(name) for name in ("hamilton.driver", "hamilton.execution.graph_functions")]
    for logger in loggers:
        logger.addFilter(is_news)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_news)


def build_driver(
    *parts: ModuleType | Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    adapters: Sequence[Any] = (),
    cache: str | Path | None = None,
) -> Driver:
    """The driver of the dataflow.

    Args:
        *parts: modules whose functions replace nodes of the same name, later ones first; the config may stand among
            them (``build_driver({"start": "presaved"}, my_metrics)``).
        config: ``{"start": "base"}`` trains (the default), ``{"start": "presaved"}`` loads an adapter from disk. Other
            keys are for modules of your own (their ``@config.when``), and refused without one.
        adapters: Hamilton's lifecycle adapters: progress bars, MLflow, the Hamilton UI.
        cache: a folder for Hamilton's cache: what did not change is not computed again, across processes too. Nothing
            is pickled. Give `work_dir` to keep trained adapters there as well.

    Raises:
        InputError: an unknown start, or an unknown config key where no module of your own could use it.
    """
    own = [part for part in parts if isinstance(part, ModuleType)]
    settings = {"start": "base"}
    for mapping in [*(part for part in parts if isinstance(part, Mapping)), config or {}]:
        settings.update(mapping)
    if settings["start"] not in STARTS:
        raise InputError(
            f"start = {settings['start']!r}   expected base or presaved", [did_you_mean(str(settings["start"]), STARTS)]
        )
    unknown = [key for key in settings if key != "start"]
    if unknown and not own:
        inputs = knobs()
        raise InputError(
            f"config: {len(unknown)} unknown {'key' if len(unknown) == 1 else 'keys'}",
            [
                f"{key} is an input: pass it to execute(…, inputs=…)"
                if key in inputs
                else f"{key} is no config key   {did_you_mean(key, ['start'])}".rstrip()
                for key in unknown
            ],
            'Expected {"start": "base"} or {"start": "presaved"}; other keys are for modules of your own.',
        )
    lifecycle: list[Any] = [base.DictResult(), *adapters]
    if cache is not None:
        folder = Path(cache)
        folder.mkdir(parents=True, exist_ok=True)
        lifecycle.append(HamiltonCacheAdapter(path=str(folder), result_store=JsonStore(str(folder / "results"))))
    return Driver(settings, *modules(), *own, adapter=lifecycle, allow_module_overrides=True)
