"""Likeness in meaning: answers against references by the hidden states of a local encoder.

Two scores of a row, both from the last layer, in fp32 on the CPU, the best of several references:

- ``embedding_similarity``: 100 · cosine of the mean hidden states (over all tokens, the special ones too);
- ``bertscore``: 100 · F1 of greedy token matching (Zhang et al. 2020, "BERTScore: Evaluating Text Generation with
  BERT", section 3), without idf weights and without rescaling. Special tokens can be matched but do not count, as in
  its authors' code; an answer or reference without any other token scores 0.

Weights are read from safetensors alone, and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqtune.errors import InputError
from seqtune.models.hub import CONFIG_FILES, TOKENIZER_FILES, WEIGHT_FILES, matches, no_safetensors
from seqtune.models.quiet import quiet
from seqtune.progress import say

if TYPE_CHECKING:
    import torch

#: Longest text (tokens) where neither tokenizer nor model says.
LONGEST = 512
_ROWS = 16  # scored together
_TEXTS = 16  # encoded together


def resolve(name: str) -> Path:
    """The folder of an encoder: a local one, or a model of the hub that is in its cache. Nothing is downloaded.

    Raises:
        InputError: it is neither, or has no weights in safetensors.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        patterns = [*CONFIG_FILES, *TOKENIZER_FILES, *WEIGHT_FILES]
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    name, local_files_only=True, allow_patterns=patterns, ignore_patterns=["*/*"]
                )
            )
        except (HFValidationError, LocalEntryNotFoundError):
            mend = "Name a folder with config.json, tokenizer and model.safetensors"
            if name.count("/") < 2 and not name.startswith((".", "/", "~")):
                mend += f", or download the model first: hf download {name}"
            raise InputError(
                f"similarity_model {name}: neither a folder here nor a model in the hub's cache", mend=mend + "."
            ) from None
    names = sorted(path.name for path in folder.iterdir())
    if "config.json" not in names:
        raise InputError(
            f"similarity_model {name}: no config.json in it",
            mend="Name the folder of an encoder in the format of transformers.",
        )
    if not any(matches(each, WEIGHT_FILES) for each in names):
        found = no_safetensors(f"similarity_model {name}", names)
        mend = "Save it with transformers' `save_pretrained`, if you trust it, or name another encoder."
        raise InputError(found.headline, found.details, mend)
    return folder


def digest(name: str) -> str:
    """SHA-256 over the names and bytes of an encoder's files.

    Raises:
        InputError: as `resolve`.
    """
    patterns = [*CONFIG_FILES, *TOKENIZER_FILES, *WEIGHT_FILES]
    found = hashlib.sha256()
    for path in sorted(path for path in resolve(name).iterdir() if matches(path.name, patterns)):
        with path.open("rb") as file:
            found.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


@dataclass(frozen=True)
class _Text:
    """Shape suffixes: T tokens, H hidden size."""

    mean_H: torch.Tensor
    tokens_TH: torch.Tensor
    """Of length 1."""
    counts_T: torch.Tensor
    """Whether the token is one of the text's own."""


class Encoder:
    """An encoder and its tokenizer.

    Args:
        name: as `resolve` takes it.

    Raises:
        InputError: as `resolve`; or the files can't be read, lack weights, or have no padding token.
    """

    def __init__(self, name: str):
        import torch
        from transformers import AutoModel, AutoTokenizer

        path = resolve(name)
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
                model, info = AutoModel.from_pretrained(
                    path,
                    dtype=torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except Exception as error:  # safetensors, transformers, tokenizers and torch each raise their own
            raise InputError(
                f"similarity_model {name}: it can't be loaded",
                [f"from {path}", *str(error).splitlines()[:3]],
                "Name an encoder that transformers knows; code that comes with a model is not run.",
            ) from None
        unused = ("pooler.", "decoder.", "lm_head.")
        missing = sorted(each for each in info["missing_keys"] if not each.startswith(unused))
        if missing:  # they would be random numbers
            raise InputError(
                f"similarity_model {name}: the weights do not make a whole {type(model).__name__}",
                [f"missing   {each}" for each in missing[:5]],
                "Download or save it again, or name another encoder.",
            )
        if tokenizer.pad_token_id is None:
            raise InputError(
                f"similarity_model {name}: the tokenizer has no padding token",
                mend="Name an encoder (BERT and its kind); these have one.",
            )
        self._name, self._tokenizer = name, tokenizer
        whole = model.get_encoder() if model.config.is_encoder_decoder else model
        self._model: Any = whole.requires_grad_(False).eval()
        self._longest = _longest(tokenizer, model.config)

    def scores(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """``embedding_similarity`` (−100 to 100) and ``bertscore`` of each answer, against the best reference."""
        found, cut = [], set()
        for start in range(0, len(predictions), _ROWS):
            rows = list(zip(predictions[start : start + _ROWS], references[start : start + _ROWS], strict=True))
            texts = list(dict.fromkeys(text for answer, wanted in rows for text in (answer, *wanted)))
            encoded = dict(self._encoded(texts, cut))
            for answer, wanted in rows:
                pairs = [(encoded[answer], encoded[each]) for each in wanted]
                found.append(
                    {
                        "embedding_similarity": max(100 * _cosine(said.mean_H, right.mean_H) for said, right in pairs),
                        "bertscore": max(100 * _bertscore(said, right) for said, right in pairs),
                    }
                )
        if cut:
            say(f"{self._name}: {len(cut):,} texts are longer than its {self._longest:,} tokens; the rest is not seen")
        return found

    def _encoded(self, texts: Sequence[str], cut: set[str]) -> Iterator[tuple[str, _Text]]:
        import torch

        for start in range(0, len(texts), _TEXTS):
            batch = list(texts[start : start + _TEXTS])
            ids = self._tokenizer(
                batch,
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_special_tokens_mask=True,
                return_tensors="pt",
            )
            full = [len(each) for each in self._tokenizer(batch, verbose=False)["input_ids"]]
            with torch.inference_mode():
                states_BTH = self._model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])[0].double()
            for index, text in enumerate(batch):
                if full[index] > self._longest:
                    cut.add(text)
                seen = ids["attention_mask"][index].bool()
                states_TH = states_BTH[index][seen]
                own = ids["special_tokens_mask"][index][seen] == 0
                mean_H = states_TH.mean(dim=0) if len(states_TH) else states_BTH.new_zeros(states_BTH.shape[-1])
                yield text, _Text(mean_H, torch.nn.functional.normalize(states_TH, dim=-1), own)


def _longest(tokenizer: Any, config: Any) -> int:
    """The longest text (tokens) that tokenizer and positions allow."""
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    if "roberta" in config.model_type or config.model_type in ("camembert", "mpnet"):
        positions -= config.pad_token_id + 1  # their positions start behind the padding token's number
    return int(min(tokenizer.model_max_length, positions))


def _cosine(left_H: torch.Tensor, right_H: torch.Tensor) -> float:
    lengths = left_H.norm() * right_H.norm()
    return max(-1.0, min(1.0, float(left_H @ right_H / lengths))) if lengths > 0 else 0.0


def _bertscore(said: _Text, wanted: _Text) -> float:
    """F1 of the mean likeness of each token to the one on the other side that is most like it."""
    if not (said.counts_T.any() and wanted.counts_T.any()):
        return 0.0
    likeness = said.tokens_TH @ wanted.tokens_TH.T
    precision = float(likeness.max(dim=1).values[said.counts_T].mean())
    recall = float(likeness.max(dim=0).values[wanted.counts_T].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
