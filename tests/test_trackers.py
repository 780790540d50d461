"""Hamilton's trackers and progress bars on our driver: a whole run with each, and what is in the tracker's store."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hamilton import ad_hoc_utils

import seqtune

OUTPUTS = ["save_best_models", "hold_out_set_metrics", "verdict"]


@pytest.fixture
def inputs(rows_file: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What to run, in a folder of its own: Hamilton's MLflow tracker writes into the current one."""
    monkeypatch.chdir(tmp_path)
    files = {"data_path": str(rows_file), "model_id": str(tiny_t5), "out": str(tmp_path / "run")}
    return {**files, "max_steps": 2, "max_new_tokens": 4, "work_dir": str(tmp_path / "work")}


def own_nodes() -> ModuleType:
    """The nodes of docs/trackers.md: a number, which MLflow shows as a metric, and the run directory as artefacts."""

    def rougeL_gain(hold_out_set_metrics: dict[str, dict[str, float]]) -> float:  # noqa: N802
        return hold_out_set_metrics["tuned"]["rougeL"] - hold_out_set_metrics["base"]["rougeL"]

    def run_in_mlflow(save_best_models: dict[str, Any]) -> str:
        import mlflow

        mlflow.log_artifacts(save_best_models["path"], "run")
        return save_best_models["path"]

    return ad_hoc_utils.create_temporary_module(rougeL_gain, run_in_mlflow, module_name="own_nodes")


def test_mlflow(inputs, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    from hamilton.plugins.h_mlflow import MLFlowTracker

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    try:
        tracker = MLFlowTracker(
            tracking_uri=store, artifact_location=str(tmp_path / "files"), experiment_name="support"
        )
        driver = seqtune.build_driver(own_nodes(), adapters=[tracker])
        results = driver.execute([*OUTPUTS, "rougeL_gain", "run_in_mlflow"], inputs=inputs)
    finally:
        mlflow.set_tracking_uri(before)

    client = mlflow.client.MlflowClient(store)
    experiment = client.get_experiment_by_name("support")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"start": "base", **{name: str(value) for name, value in inputs.items()}}
    assert run.data.metrics == {"rougeL_gain": pytest.approx(results["rougeL_gain"])}

    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {
        "config.json",
        "hamilton_graph.json",
        "run",
        "run_in_mlflow.pickle",
        *map("{}.pickle".format, OUTPUTS),
    }
    files = tmp_path / "files" / run.info.run_id / "artifacts"
    for name in OUTPUTS:  # JSON, whatever the name says
        assert json.loads((files / f"{name}.pickle").read_text(encoding="utf-8")) == results[name]
    assert "trained_adapter" in json.loads((files / "hamilton_graph.json").read_text(encoding="utf-8"))
    delivered = Path(results["save_best_models"]["path"])
    assert (files / "run" / "run.json").read_bytes() == (delivered / "run.json").read_bytes()
    assert (files / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["rich", "tqdm"])
def test_progress_bar(kind, inputs, capsys):
    from hamilton.plugins import h_rich, h_tqdm

    bar = h_rich.RichProgressBar(run_desc="tuning") if kind == "rich" else h_tqdm.ProgressBar(desc="tuning")
    results = seqtune.build_driver(adapters=[bar]).execute(["save_best_models"], inputs=inputs)
    assert Path(results["save_best_models"]["path"], "run.json").is_file()
    shown = "".join(capsys.readouterr())
    assert "tuning" in shown
    assert "100%" in shown


def test_hamilton_ui(inputs):
    adapters = pytest.importorskip("hamilton_sdk.adapters")
    called: list[tuple[str, dict[str, Any]]] = []

    class Server:
        """Stands in for the client of the Hamilton UI."""

        def __init__(self, *arguments: Any, **options: Any):
            pass

        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any, **options: Any) -> int:
                called.append((name, options))
                return 7

            return call

    tracker = adapters.HamiltonTracker(
        project_id=1, username="me@example.org", dag_name="seqtune", client_factory=Server
    )
    results = seqtune.build_driver(adapters=[tracker]).execute([*OUTPUTS, "tokenizer", "train_set"], inputs=inputs)

    steps = [name for name, _ in called]
    assert steps[2:4] == ["register_dag_template_if_not_exists", "create_and_start_dag_run"]
    assert steps[-1] == "log_dag_run_end"
    states = {each["node_name"]: each["status"] for _, options in called for each in options.get("task_updates", [])}
    assert {state.value for state in states.values()} == {"SUCCESS"}
    assert {"trained_adapter", *OUTPUTS} <= set(states)
    summaries = [each for _, options in called for each in options.get("attributes", []) if each]
    (verdict,) = [each["value"] for each in summaries if each["node_name"] == "verdict" and each["type"] == "dict"]
    assert verdict["value"]["verdict"] == results["verdict"]["verdict"]
