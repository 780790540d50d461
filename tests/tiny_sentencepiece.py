"""A tiny FLAN-T5 with a tokenizer of T5's own kind: SentencePiece, which drops line breaks and ``{``."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceTrainer
from transformers import AutoTokenizer

from tiny_models import SENTENCES, tiny_model


def tiny_with_sentencepiece(folder: Path, sentences: Sequence[str] = SENTENCES, pieces: int = 110) -> Path:
    """Save the model and the tokenizer, trained on the sentences, in the folder, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=written,
        vocab_size=pieces,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(written.getvalue())
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 10, **names})
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (folder / "spiece.model").unlink()
    tokenizer.save_pretrained(folder)
    tiny_model("flan-t5", len(tokenizer)).save_pretrained(folder)
    return folder
