from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from seqtune import run
from seqtune.errors import InputError, RunError


def a_run(path: Path, **changes: object) -> Path:
    path.mkdir(parents=True)
    manifest = {"format": 1, "metrics": {}, "verdict": {"verdict": "better"}, **changes}
    (path / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    return path


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def write_half(out: Path, overwrite: bool) -> None:
    with run.publishing(out, overwrite) as folder:
        (folder / "half").write_text("…")
        raise ZeroDivisionError


def test_publishing_is_one_rename(tmp_path: Path):
    out = tmp_path / "runs" / "x"
    with run.publishing(out, overwrite=False) as folder:
        (folder / "run.json").write_text("{}")
        (folder / "run.json").chmod(0o600)
        assert not out.exists()
        assert folder.parent == out.parent, "a rename is atomic within one file system only"
    assert names(out) == ["run.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((out / "run.json").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~mask
    assert names(out.parent) == ["x"]


def test_a_failure_in_between_leaves_nothing(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path / "x", overwrite=False)
    assert names(tmp_path) == []


def test_a_failure_in_between_leaves_the_old_run(tmp_path: Path):
    out = a_run(tmp_path / "x")
    with pytest.raises(ZeroDivisionError):
        write_half(out, overwrite=True)
    assert run.Run(out).verdict == "better"
    with run.publishing(out, overwrite=True) as folder:
        (folder / "new").write_text("")
    assert [path.name for path in out.iterdir()] == ["new"]
    assert names(tmp_path) == ["x"]


def test_a_place_that_cannot_be_written_is_a_run_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be written"), run.publishing(tmp_path / "file" / "x", overwrite=False):
        pass


def test_place_for_never_loses_a_result(tmp_path: Path):
    out = a_run(tmp_path / "x")
    assert run.place_for(out, overwrite=False) == tmp_path / "x-2"
    assert run.place_for(out, overwrite=True) == out
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    assert run.place_for(tmp_path / "thesis", overwrite=True) == tmp_path / "thesis-2", "only runs are replaced"
    assert run.place_for(tmp_path / "y", overwrite=False) == tmp_path / "y"


@pytest.mark.parametrize(
    ("data_path", "expected"),
    [
        ("data/support.json", "support"),
        ("faq.v2.jsonl.xz", "faq"),
        ("owner/some-set", "some-set"),
        ("folder/", "folder"),
        ("../..", "run"),
        ("Fragen & Antworten.csv", "Fragen-Antworten"),
    ],
)
def test_free_directory(data_path: str, expected: str, tmp_path: Path):
    assert run.free_directory(data_path, tmp_path) == tmp_path / expected
    (tmp_path / expected).mkdir()
    assert run.free_directory(data_path, tmp_path) == tmp_path / f"{expected}-2"


def test_check_destination(tmp_path: Path):
    run.check_destination(tmp_path / "deep" / "new", overwrite=False)
    assert names(tmp_path) == []
    out = a_run(tmp_path / "x")
    with pytest.raises(InputError, match="already there"):
        run.check_destination(out, overwrite=False)
    run.check_destination(out, overwrite=True)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("years of work")
    with pytest.raises(InputError, match="is no run directory"):
        run.check_destination(other, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        run.check_destination(tmp_path / "file" / "x", overwrite=False)


@pytest.mark.parametrize("name", ["nul", "COM1.txt", "ends.", "ends ", "a\nb", "a\x1b[31mb"])
def test_names_that_not_every_system_can_have(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="no name for a folder"):
        run.check_destination(tmp_path / name, overwrite=True)
    assert names(tmp_path) == []


def test_a_link_is_not_written_through(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    for target in ("elsewhere", "nowhere"):
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(InputError, match=rf"a link\nName the folder itself \({target}\)"):
            run.check_destination(tmp_path / "link", overwrite=True)
        (tmp_path / "link").unlink()


def test_reading_a_run(tmp_path: Path):
    with pytest.raises(InputError, match="no run directory"):
        run.Run(tmp_path)
    with pytest.raises(InputError, match="newer seqtune"):
        run.Run(a_run(tmp_path / "new", format=99))
    damaged = a_run(tmp_path / "damaged")
    (damaged / "run.json").write_text('{"format"')
    with pytest.raises(InputError, match="damaged"):
        run.Run(damaged)


def test_open_saved_takes_a_run_its_adapter_folder_or_a_plain_adapter(tmp_path: Path):
    out = a_run(tmp_path / "x")
    (out / "adapter").mkdir()
    for path in (out, out / "adapter"):
        saved = run.open_saved(path)
        assert saved["manifest"]["format"] == 1
        assert saved["adapter"] == str(out / "adapter")
    plain = tmp_path / "plain"
    plain.mkdir()
    assert run.open_saved(plain) == {"adapter": str(plain), "manifest": None, "log": None}
    with pytest.raises(InputError, match="no such folder"):
        run.open_saved(tmp_path / "nowhere")


def test_not_a_number_is_never_written(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json(tmp_path / "x.json", {"loss": float("nan")})
    run.write_jsonl(tmp_path / "x.jsonl", [{"a": "é\u2028"}, {"a": 1}])
    assert run.read_jsonl(tmp_path / "x.jsonl") == [{"a": "é\u2028"}, {"a": 1}]
