"""The adapter in PEFT's own format, with the tokenizer: a few megabytes, for whoever has the base model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from seqtune.errors import InputError
from seqtune.export.tuned import Tuned
from seqtune.models import adapters, pieces, quantized
from seqtune.models.quiet import quiet

NEEDS = ("peft",)

SNIPPET = '''"""Answers of this adapter over its base, with transformers and PEFT: python load.py "a question" ..."""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
$imports
HERE = Path(__file__).resolve().parent
BASE, REVISION = $base, $revision
TEMPLATE = $template
HOW = {"split_special_tokens": True, "truncation": True, "max_length": $source_limit}  # nothing in a text is obeyed
OPTIONS = $options

tokenizer = AutoTokenizer.from_pretrained(HERE)
base = AutoModelForSeq2SeqLM.from_pretrained(BASE, revision=REVISION, dtype=torch.float32)
model = PeftModel.from_pretrained(base, HERE).eval()


def tokens(texts):
    """The token ids of an answer to each text; greedy."""
    found = []
    for text in texts:
        text = TEMPLATE.replace("{question}", text)
        batch = tokenizer(text, **HOW, return_tensors="pt")
        written = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **OPTIONS)
        found.append(written[0].tolist())
    return found


if __name__ == "__main__":
    for answer in tokens(sys.argv[1:]):
        print(tokenizer.decode(answer, skip_special_tokens=True).strip())
'''


def write(tuned: Tuned, folder: Path, quantization: str) -> None:
    """The adapter's two files, with the place where the base model is now, and the tokenizer.

    Raises:
        InputError: the base is in 4 bits, so that over its fp32 weights the adapter answers otherwise; or it has no
            room for the pieces that the run has given its tokenizer.
    """
    if quantized.is_quantized(tuned.adapted):
        raise InputError(
            "to = 'adapter'   this one was trained over a base in 4 bits, and load.py loads its base in fp32",
            [f"the adapter itself: {tuned.adapter}", f"its base: quantization_config={quantized.IN_TRANSFORMERS}"],
            "Export to merged, or take the adapter as it is.",
        )
    rows, added = _rows(tuned), pieces.ids_of(tuned.tokenizer)
    if max(added, default=0) >= rows:
        raise InputError(
            f"to = 'adapter'   the base model has {rows} tokens, and plain PEFT makes no room for more",
            mend="Export to merged instead.",
        )
    shutil.copyfile(tuned.adapter / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    config = {**adapters.read_config(tuned.adapter), "base_model_name_or_path": tuned.base_id}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tuned.save_tokenizer(folder)


def _rows(tuned: Tuned) -> int:
    """How many tokens the base model has by itself."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(tuned.base_path), local_files_only=True).get_text_config().vocab_size


def log_probs(tuned: Tuned, folder: Path, answers: list[list[int]]) -> list[list[float]]:
    """Of the base model with the adapter as plain PEFT reads it back."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    with quiet():
        base = AutoModelForSeq2SeqLM.from_pretrained(str(tuned.base_path), local_files_only=True, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(folder)).eval()
    return tuned.log_probs(model, answers)
