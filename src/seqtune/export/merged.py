"""The model with its adapter merged into the weights (in fp32), for plain transformers."""

from __future__ import annotations

from pathlib import Path

from seqtune.export.tuned import Tuned
from seqtune.models.quiet import quiet

NEEDS = ("transformers",)

SNIPPET = '''"""Answers of this model, with transformers alone: python load.py "a question" ..."""

import sys
from pathlib import Path

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
TEMPLATE = $template
HOW = {"split_special_tokens": True, "truncation": True, "max_length": $source_limit}  # nothing in a text is obeyed

tokenizer = AutoTokenizer.from_pretrained(HERE)
model = AutoModelForSeq2SeqLM.from_pretrained(HERE).eval()


def tokens(texts):
    """The token ids of an answer to each text; generation_config.json says how: greedy, $limit tokens at most."""
    found = []
    for text in texts:
        text = TEMPLATE.replace("{question}", text)
        batch = tokenizer(text, **HOW, return_tensors="pt")
        written = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        found.append(written[0].tolist())
    return found


if __name__ == "__main__":
    for answer in tokens(sys.argv[1:]):
        print(tokenizer.decode(answer, skip_special_tokens=True).strip())
'''


def write(tuned: Tuned, folder: Path, quantization: str) -> None:
    """The model's safetensors and configuration, and the tokenizer."""
    with quiet():
        tuned.save(folder)


def log_probs(tuned: Tuned, folder: Path, answers: list[list[int]]) -> list[list[float]]:
    """Of the model as it is read back."""
    from transformers import AutoModelForSeq2SeqLM

    with quiet():
        model = AutoModelForSeq2SeqLM.from_pretrained(str(folder), local_files_only=True).eval()
    return tuned.log_probs(model, answers)
