from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import seqtune
from seqtune import preflight
from seqtune.errors import InputError
from seqtune.metrics import own

SCORES = """
import sibling_of_scores

LIMIT = 3

def closeness(prediction, references):
    import later_of_scores
    return 100.0 * max(len(prediction) <= len(each) for each in references)

def characters(prediction: str, references: list[str], *, unit: int = 1) -> float:
    return len(prediction) / unit

class Called:
    def __call__(self, prediction, references):
        return 1

called = Called()

def alone(prediction): return 1.0
def text(prediction, references): return "good"
def nothing(prediction, references): pass
def nan(prediction, references): return float("nan")
def divides(prediction, references): return 1 / len(prediction)
def rougeL(prediction, references): return 1.0
async def awaited(prediction, references): return 1.0
"""


@pytest.fixture
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of scores in the working directory."""
    name = "own_scores_of_test"
    tmp_path.joinpath(f"{name}.py").write_text(SCORES)
    tmp_path.joinpath("sibling_of_scores.py").write_text("")
    tmp_path.joinpath("later_of_scores.py").write_text("")
    tmp_path.joinpath("raises_of_test.py").write_text("x = 1\nraise RuntimeError('no licence')\n")
    tmp_path.joinpath("leaves_of_test.py").write_text("import sys\nsys.exit(3)\n")
    tmp_path.joinpath("needs_of_test.py").write_text("import not_installed_here\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield name
    for each in set(sys.modules) - before:
        if each.endswith(("_of_test", "_of_scores")):
            del sys.modules[each]
    importlib.invalidate_caches()


def test_functions_of_the_working_directory(scores: str, tmp_path: Path) -> None:
    found = own.load(f"{scores}:closeness, {scores}:characters,{scores}:called")
    assert [each.name for each in found] == ["closeness", "characters", "called"]
    assert [each.score("four", ["one", "three"]) for each in found] == [100.0, 4.0, 1.0]
    assert all(len(each.sha256) == 64 for each in found)
    assert sys.path[0] != str(tmp_path), "what is imported later is not hidden by the user's files"
    assert own.load(None) == []


def test_the_function_gets_a_list_of_its_own(scores: str) -> None:
    Path("keeps_of_test.py").write_text("def keeps(prediction, references):\n    references.clear()\n    return 0\n")
    (metric,) = own.load("keeps_of_test:keeps")
    wanted = ["a", "b"]
    metric.score("x", wanted)
    assert wanted == ["a", "b"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("MODULE", "expected module:function"),
        ("MODULE:", "expected module:function"),
        ("MODULE:a.b", "expected module:function"),
        ("../MODULE:closeness", "expected module:function"),
        ("MODULE:closeness,", "expected module:function"),
        ("own_scores_of_tset:closeness", "no module own_scores_of_tset; did you mean `own_scores_of_test`"),
        ("not_there.scores:closeness", "no module not_there"),
        ("needs_of_test:closeness", r"can't be imported\n.*line 1: ModuleNotFoundError: .*not_installed_here"),
        ("raises_of_test:closeness", r"can't be imported\n.*raises_of_test.py, line 2: RuntimeError: no licence"),
        ("leaves_of_test:closeness", "leaves_of_test can't be imported"),
        ("MODULE:closenes", "did you mean `closeness`"),
        ("MODULE:LIMIT", "LIMIT is a value of type int, not a function"),
        ("MODULE:alone", r"it takes \(prediction\)"),
        ("MODULE:text", "gives a value of type str"),
        ("MODULE:nothing", "gives a value of type NoneType"),
        ("MODULE:nan", "gives nan for an answer of 14 characters"),
        ("MODULE:divides", "fails on an answer of 0 characters\n.*line 23: ZeroDivisionError"),
        ("MODULE:rougeL", "a score named rougeL already"),
        ("MODULE:closeness,MODULE:closeness", "a score named closeness already"),
        ("subprocess:call", "subprocess is a module of Python itself"),
    ],
)
def test_what_is_refused(scores: str, spec: str, message: str) -> None:
    with pytest.raises(InputError, match="(?s)" + message) as told:
        own.load(spec.replace("MODULE", scores))
    assert told.value.mend


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_coroutine_is_no_number(scores: str) -> None:
    with pytest.raises(InputError, match="type coroutine"):
        own.load(f"{scores}:awaited")


def test_refused_before_anything_is_read_or_trained(scores: str, rows_file: Path, tmp_path: Path) -> None:
    given = {"data_path": str(rows_file), "model_id": "seqtune-mini", "out": str(tmp_path / "run")}
    with pytest.raises(InputError, match="no missing in"):
        preflight.check({**given, "metric": f"{scores}:missing"})
    assert preflight.check({**given, "metric": f"{scores}:closeness"})["metric"] == f"{scores}:closeness"
    with pytest.raises(InputError, match="similarity_model"):
        preflight.check({**given, "similarity_model": "./nowhere"})
    assert not (tmp_path / "run").exists()


def test_through_a_run(scores: str, rows_file: Path, tiny_t5: Path, tmp_path: Path) -> None:
    """Scores by row, means, intervals, the report and an evaluation; code is run only where it is named."""
    run = seqtune.finetune(
        rows_file,
        model_id=str(tiny_t5),
        out=str(tmp_path / "run"),
        max_steps=2,
        max_new_tokens=6,
        precision="fp32",
        metric=f"{scores}:characters",
        similarity_model=str(tiny_t5),
    )
    rows = run.predictions["hold_out"]
    names = ("characters", "embedding_similarity", "bertscore")
    for model in ("base", "tuned"):
        assert [row["scores"][model]["characters"] for row in rows] == [len(row[model]) for row in rows]
        for name in names:
            mean = math.fsum(row["scores"][model][name] for row in rows) / len(rows)
            assert run.metrics["hold_out"][model][name] == pytest.approx(mean)
    for name in names:
        lift = run.manifest["lifts"]["hold_out"][name]
        assert lift["low"] <= lift["lift"] <= lift["high"]
        assert lift["lift"] == pytest.approx(lift["tuned"] - lift["base"])
    page = (run.path / "report.html").read_text()
    assert "characters" in page
    assert "embedding similarity" in page

    again = seqtune.evaluate(run.path)["metrics"]["hold_out"]["tuned"]
    assert "characters" not in again, "a run's manifest never names code that is run"
    assert again["bertscore"] == run.metrics["hold_out"]["tuned"]["bertscore"]
    named = seqtune.evaluate(run.path, metric=f"{scores}:characters,{scores}:closeness")["metrics"]["hold_out"]
    assert named["tuned"]["characters"] == run.metrics["hold_out"]["tuned"]["characters"]
    assert 0 <= named["tuned"]["closeness"] <= 100
