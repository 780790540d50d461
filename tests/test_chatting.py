"""`seqtune.chatting`: what is said, kept and taken back."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import seqtune
from seqtune import chatting
from seqtune.data import readers
from seqtune.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_t5: Path, rows_file: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    few = {"max_steps": 2, "max_new_tokens": 8, "bootstrap_samples": 100, "device_type": "cpu"}
    return seqtune.finetune(rows_file, model_id=str(tiny_t5), out=out, **few).path


def spoken(lines: list[str], path: Path, keys: tuple[str, str] = ("question", "reply")) -> tuple[list[str], list[Any]]:
    """What is noted, and what the speaker was asked, in a conversation of these lines."""
    notes: list[str] = []
    asked: list[Any] = []
    typed = iter(lines)

    def speak(question: str, seed: int, knobs: dict[str, Any]) -> Iterator[str]:
        asked.append((question, seed, knobs))
        return iter(["an ", f"answer {seed}"])

    def ask(prompt: str, prefilled: str) -> str:
        line = next(typed, None)
        if line is None:
            raise EOFError
        return prefilled + line if prompt == "right answer> " else line

    def show(question: str, answers: dict[str, Iterator[str]]) -> dict[str, str]:
        return {name: "".join(pieces) for name, pieces in answers.items()}

    chatting.talk({"base": speak, "tuned": speak}, chatting.Pairs(path, keys), ask, show, notes.append)
    return notes, asked


def test_corrected_pairs_are_a_training_file(tmp_path: Path):
    path = tmp_path / "pairs.json"
    lines = [
        "How?",
        "/save Like “this”, ä.",
        "Why?",
        "/save",
        ", but better",
        "What?",
        "/save no",
        "/undo",
        "/quit",
        "x",
    ]
    notes, asked = spoken(lines, path)
    assert readers.read(readers.identify(str(path), "train"), "train") == [
        {"question": "How?", "reply": "Like “this”, ä."},
        {"question": "Why?", "reply": "an answer 2, but better"},
    ]
    assert notes == [
        f"saved to {path}, which has 1 now",
        f"saved to {path}, which has 2 now",
        f"saved to {path}, which has 3 now",
        f"taken out of {path} again",
    ]
    assert [each[0] for each in asked] == ["How?", "How?", "Why?", "Why?", "What?", "What?"]
    assert [each.name for each in tmp_path.iterdir()] == ["pairs.json"]


def test_nested_keys_and_a_file_that_is_there(tmp_path: Path):
    path = tmp_path / "pairs.json"
    path.write_text('[{"m": {"q": "old", "a": "one"}}]')
    spoken(["new", "/save two"], path, ("m.q", "m.a"))
    assert json.loads(path.read_text()) == [{"m": {"q": "old", "a": "one"}}, {"m": {"q": "new", "a": "two"}}]


def test_again_draws_with_another_seed(tmp_path: Path):
    _, asked = spoken(["How?", "/again", "/again"], tmp_path / "x")
    tuned = asked[1::2]
    assert [each[0] for each in tuned] == ["How?"] * 3
    assert [each[2].get("do_sample", False) for each in tuned] == [False, True, True]
    assert len({each[1] for each in tuned}) == 3


def test_what_can_not_be_done_is_said(tmp_path: Path):
    path = tmp_path / "pairs.json"
    notes, asked = spoken(["/save x", "/again", "/undo", "/nonsense", "", "  ", "/help"], path)
    assert notes[:4] == [
        "nothing was asked yet",
        "nothing was asked yet",
        "nothing was saved that could be taken back",
        "there is no /nonsense; /help says what there is",
    ]
    assert "/undo" in notes[4]
    assert (asked, path.exists()) == ([], False)


@pytest.mark.parametrize("content", ["{}", "not json", '"text"'])
def test_a_file_of_another_kind_stays_as_it_is(tmp_path: Path, content: str):
    path = tmp_path / "pairs.json"
    path.write_text(content)
    with pytest.raises(InputError):
        chatting.Pairs(path, ("q", "a")).add("x", "y")
    assert "Choose another --save-to." in spoken(["How?", "/save x", "/quit"], path)[0][0]
    assert path.read_text() == content


def test_a_full_disk_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pairs = chatting.Pairs(tmp_path / "pairs.json", ("q", "a"))
    pairs.add("x", "y")
    monkeypatch.setattr(chatting.Disk, "sync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(InputError, match="No space left"):
        pairs.add("more", "z")
    assert json.loads((tmp_path / "pairs.json").read_text()) == [{"q": "x", "a": "y"}]
    assert len(list(tmp_path.iterdir())) == 1


def test_the_answers_are_those_of_the_model(command: Callable, run: Path, tmp_path: Path):
    model = seqtune.load(run, "cpu")
    (answer,) = model.generate(["How do I reset it?"])
    save_to = tmp_path / "pairs.json"
    typed = b"How do I reset it?\n/save right\n/again\n/quit\n"
    status, out, err = command("chat", run, "--save-to", save_to, "--device-type", "cpu", stdin=typed)
    assert (status, "Traceback" in err) == (0, False)
    shown = "".join(each for each in answer if each.isprintable())
    assert f"run> {shown}" in out
    assert json.loads(save_to.read_text()) == [{"question": "How do I reset it?", "reply": "right"}]
    status, out, _ = command("chat", run, "--compare", "--device-type", "cpu", stdin=b"How do I reset it?\n")
    assert "tiny-t5, base> " in out
    assert f"run, tuned> {shown}" in out


def test_bytes_that_are_no_text(command: Callable, run: Path):
    typed = b"caf\xe9\nHow do I reset it?\n"
    status, out, err = command("chat", run, "--device-type", "cpu", stdin=typed)
    assert (status, "Traceback" in err) == (0, False)
    assert "no UTF-8" in out + err
    assert out.count("run> ") == 1


def test_half_characters_are_passed_over(tmp_path: Path):
    notes, asked = spoken(["caf\udce9", "whole"], tmp_path / "pairs.json")
    assert [question for question, *_ in asked] == ["whole", "whole"]
    assert "no UTF-8" in notes[0]


def test_ctrl_c_stops_the_answer_alone(capsys: pytest.CaptureFixture[str]):
    def endless() -> Iterator[str]:
        yield "half "
        signal.raise_signal(signal.SIGINT)
        yield "an answer"

    class OfTheCommand(BaseException):
        """What a command is ended with."""

    def unwind(*_: Any) -> None:
        raise OfTheCommand

    before = signal.signal(signal.SIGINT, unwind)
    try:
        assert chatting.show("How?", {"tuned": endless()}) == {"tuned": "half "}
        assert signal.getsignal(signal.SIGINT) is unwind
    finally:
        signal.signal(signal.SIGINT, before)
    assert "tuned> half \n" in (out := capsys.readouterr().out)
    assert "Ctrl-D" in out
