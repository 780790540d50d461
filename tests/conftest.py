"""Fixtures for all tests: a tiny model on disk, a small question–answer file, the data beside the repository."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sample_rows import question_rows, written

# Before any library reads them: no network, no telemetry, no bars between the dots.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HAMILTON_TELEMETRY_ENABLED="false",
    TOKENIZERS_PARALLELISM="false",
)

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: The files whose tests take longest: one that comes last keeps one process busy and leaves the other idle.
LONGEST_FIRST = (
    "export/test_export.py",
    "test_resuming.py",
    "cluster/test_launched.py",
    "report/test_report_safety.py",
    "report/test_report_browser.py",
    "sweep/test_sweep.py",
    "engine/test_ranks.py",
    "engine/test_sharding.py",
    "live/test_live_training.py",
    "predicting/test_predicting.py",
    "dataflow/test_preserving.py",
    "test_hub.py",
    "export/test_gguf.py",
    "recipes/test_seqtune_mini.py",
    "serve/test_serve_batcher.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order in which two processes are busy to the end (``--no-loadscope-reorder`` keeps it)."""
    here = Path(__file__).parent
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(here).as_posix(), len(rank)))


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON file with 40 question and reply rows; not to be changed."""
    path = tmp_path_factory.mktemp("rows") / "questions.json"
    path.write_text(json.dumps(question_rows(), ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny FLAN-T5 with its tokenizer; not to be changed."""
    import torch

    from tiny_models import tiny

    torch.set_num_threads(1)  # for a few thousand weights, several threads spend their time waiting
    return tiny("flan-t5", tmp_path_factory.mktemp("models") / "tiny-t5")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data folder beside the repository; the test is skipped where there is none."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture(scope="session")
def run_with_pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that gave ``{``, ``}`` and line breaks pieces of their own."""
    import seqtune
    from tiny_sentencepiece import tiny_with_sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    rows = [{"question": f"What is {{{n}}}?", "reply": f"first {n}\nthen {{{n}}}"} for n in range(24)]
    seqtune.finetune(
        written(folder / "rows.json", rows), model_id=str(tiny_with_sentencepiece(folder / "base")),
        out=folder / "run", max_steps=3, learning_rate=3e-2, preserve_characters=True, max_new_tokens=9,
        device_type="cpu", bootstrap_samples=100,
    )  # fmt: skip
    return folder / "run"


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """`seqtune` in this process: ``command("finetune", path, stdin=b"")`` gives exit status, stdout and stderr."""
    from seqtune import cli

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        monkeypatch.setattr("sys.argv", ["seqtune", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capfd.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return status, *capfd.readouterr()

    return run
