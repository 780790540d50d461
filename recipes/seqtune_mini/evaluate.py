"""What the embedded model is worth as a base: ROUGE-L on hold-out rows, against learning from nothing.

    python evaluate.py [--sets support nl2bash examples copying] [--base seqtune-mini] [--rows N] [--epochs N]
        [--models base LoRA "all weights" "random weights"] [--device-type cpu]

Four models a set, of the same rows, steps and tokenizer: the base as it is; the base with LoRA, by seqtune; the base
with all its weights trained; the same architecture from random weights, all of them trained. The last two are trained
by `every_weight` here, with a learning rate of their own each. All of it in fp32. As many epochs as `seqtune finetune`
takes (3); of the example data as many as `seqtune demo`.

`copying` is a made task, 1,000 rows of "key: value" facts (up to 100 pieces), answered by a sentence with some of the
values in it: counted is the share of the values, names and numbers that no other row has, which the answers carry.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import copying
import torch

from seqtune import build_driver, scoring
from seqtune.data import tokens
from seqtune.demo import SETTINGS, example_data
from seqtune.engine import batching, loss
from seqtune.progress import say
from seqtune.settings import DEFAULT

DATA = Path(__file__).parents[3] / "shared" / "data"

#: Name: file, keys, rows taken. Shared data are looked for beside the repository; see --data.
SETS: dict[str, tuple[str, str, str, int]] = {
    "support": ("support.json", "instruction", "response", 1000),
    "nl2bash": ("nl2bash.json", "description", "command", 2000),
    "examples": ("", "question", "reply", 1000),
    "copying": ("", "question", "reply", 1000),
}
#: Of the adapter: of four choices the one with the best answers to the validation rows of nl2bash (docs/log.md).
LORA = {"lora_r": 32, "lora_alpha": 32}
#: Peak learning rates of training all weights with AdamW; not searched.
RATES = {"all weights": 1e-3, "random weights": 1e-3}
MODELS = ("base", "LoRA", *RATES)
WARM_UP = 0.05  # share of the steps

SLOTS = ("Name", "City", "Product", "Order", "Amount", "Account", "Room")
#: What is asked for, and the sentence that is meant.
SENTENCES = (
    ("shipped", "Good news, {Name}: order {Order} is on its way to {City}."),
    ("refund", "We have sent {Amount} back to account {Account}."),
    ("greeting", "Dear {Name}, thank you for choosing {Product}."),
    ("late", "I am sorry, order {Order} is held up in {City}."),
    ("room", "{Name} is in room {Room} until noon."),
    ("price", "A {Product} costs {Amount} at present."),
    ("return", "Please send the {Product} back and name order {Order}."),
    ("welcome", "Welcome to {City}, {Name}! Your room is {Room}."),
    ("account", "Account {Account} now belongs to {Name}."),
    ("invoice", "The invoice for order {Order} comes to {Amount}."),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--base", default="seqtune-mini", help="the embedded model, or a folder that package.py wrote")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of support.json and nl2bash.json")
    parser.add_argument("--rows", type=int, help="rows of each set, at most")
    parser.add_argument("--epochs", type=float, help="of every set; else the command's and the demo's own")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device-type", default="cpu", help="cpu, cuda, mps or auto")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print("| set | model | ROUGE-L | loss | values carried | seconds |\n|---|---|--:|--:|--:|--:|", flush=True)
    for name in arguments.sets:
        for line in evaluated(name, arguments):
            print(line, flush=True)


def evaluated(name: str, arguments: argparse.Namespace) -> list[str]:
    """The lines of one set."""
    file, question, reply, most = SETS[name]
    epochs = arguments.epochs or (SETTINGS if name == "examples" else DEFAULT.model_dump())["num_train_epochs"]
    rows = slots(most) if name == "copying" else _read(arguments.data / file if file else example_data())
    rows = rows[: min(most, arguments.rows or most)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        inputs = {
            **SETTINGS, **LORA, "data_path": str(path), "out": str(Path(folder) / "run"), "model_id": arguments.base,
            "input_text_key": question, "output_text_key": reply, "num_train_epochs": epochs,
            "device_type": arguments.device_type, "precision": "fp32", "answer_precision": "fp32",
        }  # fmt: skip
        wanted = [
            "base_model", "tokenizer", "evaluation_settings", "hold_out_sample", "tokenized_train",
            "tokenized_validation", "tokenized_hold_out", "rouge_words",
        ]  # fmt: skip
        if "base" in arguments.models:
            wanted.append("base_model_on_hold_out_set")
        if "LoRA" in arguments.models:
            wanted += ["finetuned_model_on_hold_out_set", "trained_adapter"]
        made = build_driver(config={"start": "base"}).execute(wanted, inputs=inputs)
        values = [json.loads(extra).get("values", []) for extra in made["hold_out_sample"]["extra"]]

        def line(model: str, answers: scoring.Answers, seconds: float) -> str:
            found = scoring.set_metrics(answers, made["rouge_words"]["value"])
            carried = [v in text for vs, text in zip(values, answers["predictions"], strict=True) for v in vs]
            share = f"{100 * sum(carried) / len(carried):.1f} %" if carried else ""
            return f"| {name} | {model} | {found['rougeL']:.1f} | {found['loss']:.2f} | {share} | {seconds:.0f} |"

        lines = []
        if "base" in arguments.models:
            lines.append(line("base", made["base_model_on_hold_out_set"], 0))
        if "LoRA" in arguments.models:
            seconds = made["trained_adapter"].training["seconds"]
            lines.append(line("LoRA", made["finetuned_model_on_hold_out_set"], seconds))
        for kind in (kind for kind in RATES if kind in arguments.models):
            model = copy.deepcopy(made["base_model"])
            if kind == "random weights":
                torch.manual_seed(0)
                model = type(model)(model.config).to(model.device, torch.float32)
            started = time.monotonic()
            every_weight(model, made, RATES[kind], epochs)
            seconds = time.monotonic() - started
            answers = scoring.answers_of(
                model, made["tokenizer"], made["hold_out_sample"], made["tokenized_hold_out"],
                made["evaluation_settings"], f"{name}: {kind} answers the hold-out rows",
            )  # fmt: skip
            lines.append(line(kind, answers, seconds))
    return lines


def every_weight(model: Any, made: Mapping[str, Any], rate: float, epochs: float) -> None:
    """Train all weights, in plain PyTorch: AdamW, as many steps of as many rows as the adapter's; the best is kept."""
    train, validation = tokens.as_rows(made["tokenized_train"]), tokens.as_rows(made["tokenized_validation"])
    size, pad = SETTINGS["per_device_train_batch_size"], made["tokenizer"].pad_token_id
    lengths = [(len(row["labels"]), len(row["input_ids"])) for row in train]
    total = math.ceil(len(train) / size * epochs)
    model.requires_grad_(True)
    adamw = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adamw, lambda step: min((step + 1) / (WARM_UP * total), (total - step) / ((1 - WARM_UP) * total))
    )
    best, kept, step, epoch = math.inf, None, 0, 0
    while step < total:
        model.train()
        for chosen in batching.epoch_order(lengths, size, seed=0, epoch=epoch, window_steps=1)[: total - step]:
            batch = batching.collate([train[row] for row in chosen], pad, model.device)
            (loss.forward(model, batch).sum() / loss.target_tokens(batch)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adamw.step()
            schedule.step()
            adamw.zero_grad()
            step += 1
        epoch += 1
        model.eval()
        summed = [
            loss.row_losses(model, batching.collate(list(validation[at : at + 32]), pad, model.device))
            for at in range(0, len(validation), 32)
        ]
        nats = sum(sum(nll) for nll, _ in summed) / sum(sum(count) for _, count in summed)
        if nats < best:
            best, kept = nats, copy.deepcopy(model.state_dict())
    say(f"all weights: {step} steps, best validation loss {best:.3f}")
    model.load_state_dict(kept)
    model.eval().requires_grad_(False)


def slots(number: int) -> list[dict[str, Any]]:
    """Rows of facts, in any order and with others among them, and the sentence that is to be made of some of them.

    The made-up values occur in one row alone: what an answer says of them it has from its question.
    """
    rng, seen = random.Random(11), set()

    def value(slot: str) -> str:
        while True:
            if slot in ("Name", "City", "Product"):
                made = "".join(rng.choices(copying.SYLLABLES, k=rng.randint(2, 3))).capitalize()
            else:
                made = rng.choice(("", "AB-", "Q", "#")) + str(rng.randrange(100, 10**6))
            if made not in seen:
                seen.add(made)
                return made

    rows = []
    while len(rows) < number:
        what, sentence = rng.choice(SENTENCES)
        used = [slot for slot in SLOTS if "{" + slot + "}" in sentence]
        there = rng.sample(SLOTS, rng.randint(0, 2))
        facts = {slot: value(slot) for slot in rng.sample(sorted({*used, *there}), len({*used, *there}))}
        lines = "\n".join(f"{slot}: {made}" for slot, made in facts.items())
        values = [facts[slot] for slot in used]
        rows.append({"question": f"{lines}\n{what}", "reply": sentence.format(**facts), "values": values})
    return rows


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        sys.exit(f"{path} is not there: name its folder with --data, or leave the set out with --sets")
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
