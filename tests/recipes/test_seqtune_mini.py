"""The recipe of the embedded model: packed rows mean what single examples do, and a run can be repeated."""

import json
import lzma
import random
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

RECIPE = Path(__file__).parents[2] / "recipes" / "seqtune_mini"
MODULES = ("checkpoint", "copying", "corpus", "feeding", "mixture", "model", "packing", "train")
WORDS = [
    "the",
    "old",
    "ship",
    "left",
    "Port",
    "Elin",
    "at",
    "7",
    "with",
    "12",
    "men",
    "and",
    "came",
    "back",
    "in",
    "May",
    "the",
    "cook",
    "said",
    "it",
    "was",
    "cold",
]


@pytest.fixture(autouse=True)
def recipe(monkeypatch):
    """The recipe's modules by their plain names, as its scripts import them; forgotten again afterwards."""
    monkeypatch.syspath_prepend(str(RECIPE))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def tokenizer():
    from seqtune.models import loading

    return loading.load_tokenizer(loading.resolve("seqtune-mini"))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """Made-up corpora in the four files that the recipe reads."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(3)

    def write(name: str, lines: list[str]) -> None:
        with lzma.open(folder / name, "wt", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(6, 14))).capitalize() + "."

    paragraphs = [" ".join(sentence() for _ in range(4)) for _ in range(210)]
    write("wikipedia.txt.xz", paragraphs)
    write("books.txt.xz", paragraphs[::-1])
    turns = [{"speaker": who, "text": sentence()} for who in ("user", "system")]
    write("dialogues.jsonl.xz", [json.dumps({"turns": turns})] * 210)
    write("trivia.jsonl.xz", [json.dumps({"question": sentence(), "answer": "May"}) for _ in range(210)])
    return folder


def test_packed_rows_mean_what_single_examples_do(tokenizer):
    """Each example's logits in a packed row are those that transformers' own model gives for it alone."""
    from model import Size, logits_of, new_model, on_device
    from packing import encode, pack

    torch.manual_seed(0)
    model = new_model(tokenizer, Size(width=128, feed_forward=96, encoder_layers=2, decoder_layers=2)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    pairs = [("Repeat: a {b}", "a {b}"), ("Name: Bob\nName?", "Bob"), ("One two three. " * 12, "Four five. " * 9)] * 4
    examples = encode(tokenizer, pairs)
    assert [source for source, _ in examples] == tokenizer([source for source, _ in pairs]).input_ids
    packed = pack(iter(examples), rows=3)
    batch = on_device(packed, torch.device("cpu"))
    found = logits_of(dict(model.named_parameters()), model.config, batch).unflatten(0, (3, -1))
    together = 0
    for row in range(3):
        for place in range(1, int(packed["target_place"][row].max()) + 1):
            source = batch["source"][row][batch["source_place"][row] == place]
            here = batch["target_place"][row] == place
            alone = model(input_ids=source[None], labels=batch["target"][row][here][None]).logits[0]
            torch.testing.assert_close(found[row][here], alone, atol=1e-4, rtol=1e-4)
            together += 1
    assert together == len(pairs)


def test_packing_loses_and_mixes_nothing(tokenizer):
    from packing import SOURCE, TARGET, pack

    rng = random.Random(1)
    examples = [
        tuple([rng.randrange(2, 99) for _ in range(rng.randint(1, longest))] for longest in (90, 60)) for _ in range(40)
    ]
    too_long = ([5] * (SOURCE + 1), [6])
    batch = pack(iter([*examples[:5], too_long, *examples[5:]]), rows=24)
    found = [
        tuple(
            batch[part][row][batch[f"{part}_place"][row] == place].tolist() for part in ("source", "target")
        )
        for row in range(24)
        for place in range(1, int(batch["target_place"][row].max()) + 1)
    ]  # fmt: skip
    assert sorted(found) == sorted(examples)
    assert batch["source"].shape == (24, SOURCE)
    assert batch["target"].shape == (24, TARGET)


def test_batches_are_the_same_whoever_makes_them(tokenizer, corpora):
    import corpus
    import feeding
    import mixture

    train, _ = corpus.load(corpora)
    made = []
    for workers in (0, 2):
        with feeding.batches(tokenizer, train, mixture.Recipe("ul2", 2.0), 2, 5, workers) as batches:
            made.append([batch for batch, _ in zip(batches(3, lambda number: number / 10), range(4), strict=False)])
    for one, other in zip(*made, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not np.array_equal(made[0][0]["source"], made[0][1]["source"])


def test_copying_tasks_can_be_answered_from_their_source(corpora):
    import copying
    import corpus

    train, _ = corpus.load(corpora)
    rng = random.Random(2)
    for _ in range(300):
        text = rng.choice(train.books)
        phrase = copying.repeat_words(rng, text)
        assert phrase[1] in phrase[0]
        question, answer = copying.look_up(rng, text)
        value = answer if answer in question else answer.split(" is ", 1)[1].removesuffix(".")
        assert value in question


@pytest.mark.parametrize("options", [[], ["--denoisers", "ul2", "--matrices-by", "adamw"]])
def test_a_run_can_be_repeated_and_gone_on_with(tokenizer, corpora, tmp_path, monkeypatch, options):
    """Twice the same losses; a run that was stopped and goes on ends where the one in a piece does."""
    import train
    from model import held_out
    from safetensors.torch import load_file

    def run(out: str, steps: int, *, of: int = 6) -> list[dict]:
        given = ["--corpus", corpora, "--tokenizer", tokenizer.name_or_path, "--out", tmp_path / out, "--steps", of]
        given += ["--rows", 1, "--width", 128, "--feed-forward", 64, "--layers", 1, 1, "--device", "cpu"]
        monkeypatch.setattr(train, "held_out", partial(held_out, rows=2))
        given += ["--no-compile", "--no-bf16", "--workers", 0, "--log-every", 1, "--save-every", 3, *options]
        if steps < of:  # stopped as by a kill, after a checkpoint
            monkeypatch.setattr(train, "save", _stop_after(train.save))
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, given)])
        try:
            train.main()
        except KeyboardInterrupt:
            monkeypatch.undo()
            monkeypatch.syspath_prepend(str(RECIPE))
        return [json.loads(line) for line in (tmp_path / out / "log.jsonl").read_text().splitlines()]

    threads = torch.get_num_threads()
    try:
        one, two = run("one", 6), run("two", 6)
        assert [row.get("loss") for row in one] == [row.get("loss") for row in two]
        assert one[-1]["final"]
        assert one[-1]["step"] == 6
        run("three", 3)
        gone_on = run("three", 6)
    finally:
        torch.set_num_threads(threads)
    assert [row["loss"] for row in gone_on if "loss" in row] == [row["loss"] for row in one if "loss" in row]
    weights = [load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("one", "three")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def _stop_after(save):
    def stopping(*given):
        save(*given)
        raise KeyboardInterrupt

    return stopping
