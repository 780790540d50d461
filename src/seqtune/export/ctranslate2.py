"""The merged model for CTranslate2, in float32, bfloat16 or int8.

Its converter takes transformers' ``tie_word_embeddings``, which version 5 has set for every T5, to mean that the
decoder's outputs are scaled; of T5 v1.1, FLAN-T5 and mT5 the log-probabilities would be far off (greedy answers the
same). So the scale is set here, to what the model does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from seqtune.errors import InputError
from seqtune.export.tuned import Tuned
from seqtune.models.quiet import quiet

NEEDS = ("ctranslate2",)

SNIPPET = '''"""Answers of this model, with CTranslate2 and its tokenizer: python load.py "a question" ..."""

import sys
from pathlib import Path

import ctranslate2
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
TEMPLATE = $template
HOW = {"split_special_tokens": True, "truncation": True, "max_length": $source_limit}  # nothing in a text is obeyed
FIRST = $first  # the token that every answer begins with, or None

tokenizer = AutoTokenizer.from_pretrained(HERE)
translator = ctranslate2.Translator(str(HERE), device="cpu", compute_type="default")


def tokens(texts):
    """The token ids of an answer to each text; greedy."""
    texts = [TEMPLATE.replace("{question}", text) for text in texts]
    ids = [tokenizer(text, **HOW)["input_ids"] for text in texts]
    sources = [tokenizer.convert_ids_to_tokens(each) for each in ids]
    prefix = None if FIRST is None else [tokenizer.convert_ids_to_tokens([FIRST])] * len(sources)
    found = translator.translate_batch(
        sources, target_prefix=prefix, beam_size=1, max_decoding_length=$open_limit, max_input_length=0
    )
    return [tokenizer.convert_tokens_to_ids(each.hypotheses[0]) for each in found]


if __name__ == "__main__":
    for answer in tokens(sys.argv[1:]):
        print(tokenizer.decode(answer, skip_special_tokens=True).strip())
'''


def write(tuned: Tuned, folder: Path, quantization: str) -> None:
    """The converted model and the tokenizer.

    Raises:
        InputError: CTranslate2 has no such family.
    """
    from ctranslate2.converters import TransformersConverter
    from ctranslate2.converters.transformers import _MODEL_LOADERS

    kind = type(tuned.model.config).__name__
    if kind not in _MODEL_LOADERS:
        raise InputError(
            f"CTranslate2 has no {type(tuned.model).__name__}", mend="Export to merged, adapter or onnx instead."
        )

    class Converter(TransformersConverter):
        def load_model(self, *args: Any, **kwargs: Any) -> Any:
            model: Any = super().load_model(*args, **kwargs)
            decoder = model.get_decoder()  # BART's kind: what transformers 5 no longer has in its configuration
            model.config.normalize_before = hasattr(decoder, "layer_norm")
            model.config.normalize_embedding = hasattr(decoder, "layernorm_embedding")
            return model

        def _load(self) -> Any:
            spec = super()._load()
            start = tuned.options["decoder_start_token_id"]
            spec.config.decoder_start_token = tuned.tokenizer.convert_ids_to_tokens(start)
            if kind in ("T5Config", "MT5Config"):
                config = tuned.model.config
                scaled = getattr(config, "scale_decoder_outputs", False)
                spec.decoder.scale_outputs = config.d_model**-0.5 if scaled else 1.0
            return spec

    with tempfile.TemporaryDirectory(prefix="seqtune-") as plain, quiet():
        tuned.save(Path(plain))
        Converter(plain).convert(str(folder), quantization=quantization, force=True)
    tuned.save_tokenizer(folder)


def log_probs(tuned: Tuned, folder: Path, answers: list[list[int]]) -> list[list[float]]:
    """Of CTranslate2's own scorer."""
    import ctranslate2

    names: Any = tuned.tokenizer.convert_ids_to_tokens
    translator = ctranslate2.Translator(str(folder), device="cpu", compute_type="default")
    bare = [answer[:-1] if answer[-1] in tuned.ends else answer for answer in answers]
    scored = translator.score_batch(
        [names(source) for source in tuned.sources], [names(answer) for answer in bare], max_input_length=0
    )
    return [list(each.log_probs)[: len(answer)] for each, answer in zip(scored, answers, strict=True)]
