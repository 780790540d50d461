"""`seqtune.preflight`: what is refused before PyTorch is imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqtune import preflight
from seqtune.errors import InputError


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_converts_and_writes_nothing(rows_file: Path, tmp_path: Path) -> None:
    found = preflight.check({"data_path": str(rows_file), "learning_rate": "5e-3", "out": "a/b/c"})
    assert found == {"data_path": str(rows_file), "learning_rate": 0.005, "out": "a/b/c"}
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_hub_and_the_embedded_model_are_left_to_the_dataflow(rows_file: Path) -> None:
    for name in ("google/flan-t5-small", "t5-small", "seqtune-mini"):
        preflight.check({"data_path": str(rows_file), "model_id": name})


def test_own_split_files_are_checked_too(rows_file: Path, tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text('[{"question": "a", "reply": ""}]')
    with pytest.raises(InputError, match=r'val.json: 1 problem in 1 row\n  row 1  "reply" is empty'):
        preflight.check({"data_path": str(rows_file), "validation_path": "val.json"})
    preflight.check({"data_path": str(rows_file), "validation_path": "val.json", "on_bad_rows": "skip"})


def test_shares_that_do_not_fit(rows_file: Path) -> None:
    with pytest.raises(InputError, match="nothing is left for hold_out_size"):
        preflight.check({"data_path": str(rows_file), "train_size": 0.7, "validation_size": 0.3})


def saved(folder: Path, **settings: object) -> str:
    """A run directory as far as these checks look."""
    (folder / "adapter").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / "adapter" / name).write_text("{}")
    (folder / "run.json").write_text(json.dumps({"format": 1, "settings": settings}))
    (folder / "log.jsonl").write_text("")
    return str(folder)


def test_a_saved_run_is_found_by_its_folder_or_its_adapters(tmp_path: Path) -> None:
    path = saved(tmp_path / "run", random_state=7)
    for place in (path, f"{path}/adapter"):
        assert preflight.check_saved(place)["manifest"]["settings"] == {"random_state": 7}


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_run_without_its_adapter(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "run")
    (tmp_path / "run" / "adapter" / name).unlink()
    with pytest.raises(InputError, match=rf"run.adapter: {name} missing\nMake the run again."):
        preflight.check_saved(path)


def test_no_run(tmp_path: Path) -> None:
    (tmp_path / "support").mkdir()
    (tmp_path / "file").touch()
    for place, said in (
        ("suport", "no such folder; did you mean `support`?"),
        ("file", "a file, not a folder"),
        ("support", "neither a run directory nor an adapter folder: run.json, adapter_config.json"),
    ):
        with pytest.raises(InputError) as caught:
            preflight.check_saved(place)
        assert said in str(caught.value)


def test_an_evaluation_reads_what_the_run_read_unless_told(rows_file: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "run", data_path="moved.json", input_text_key="question", output_text_key="reply")
    with pytest.raises(InputError, match=r"moved.json: no such file.*\n.*run was trained on it. If it has moved, pass"):
        preflight.check_evaluation({"adapter_path": path})
    given = {"adapter_path": path, "data_path": str(rows_file)}
    assert preflight.check_evaluation(given) == given
    with pytest.raises(InputError, match='no row has "answer"'):
        preflight.check_evaluation({**given, "output_text_key": "answer"})


def test_an_adapter_from_elsewhere_needs_data(tmp_path: Path) -> None:
    path = saved(tmp_path / "run") + "/adapter"
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(InputError, match="does not say which data to score it on"):
        preflight.check_evaluation({"adapter_path": path})


@pytest.mark.parametrize("work_dir", ["file", "file/below", "/proc/work", "x" * 300, "nul\0"])
def test_a_place_for_adapters_that_can_not_be_written(rows_file: Path, tmp_path: Path, work_dir: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"(?s)can't be written \(.*--work-dir"):
        preflight.check({"data_path": str(rows_file), "work_dir": work_dir})
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_place_for_adapters_is_not_made_beforehand(rows_file: Path, tmp_path: Path) -> None:
    (tmp_path / "there" / "adapters").mkdir(parents=True)
    for work_dir in ("there", "a/b"):
        preflight.check({"data_path": str(rows_file), "work_dir": work_dir})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["adapters", "there"]
