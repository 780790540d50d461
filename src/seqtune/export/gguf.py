"""The merged model as one GGUF file for llama.cpp, in float32 or q8_0: T5's kind alone.

llama.cpp has ReLU, or GELU with a gate, distances of 128 at most, one embedding for questions and answers, and no
decoder that is deeper than its encoder; another model is refused, for it would be computed wrongly or not at all.

Nor does it scale the outputs, as T5 v1.0 and seqtune-mini want it (by ``d_model ** -0.5``): the factor goes into the
last norm, so that head and embedding stay one tensor. (llama.cpp's own converter leaves it out.)

A file that llama.cpp dislikes may end the process that reads it, so that it is run in one of its own (`llamacpp`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from seqtune.data import tokens
from seqtune.errors import InputError, RunError
from seqtune.export import checking, vocabulary
from seqtune.export.tuned import Tuned
from seqtune.generation import blueprint
from seqtune.models import pieces
from seqtune.progress import say

NEEDS = ("gguf", "cyllama")

#: In place of `checking.BOUND`: llama.cpp looks GELU up in a table of float16, which made 0.008 nats at most as tried.
BOUND = 0.05

#: Models that llama.cpp computes as transformers does (``model_type``).
KINDS = ("t5", "mt5", "umt5")
#: The activations that it takes for T5, without and with a gate.
ACTIVATIONS = {False: "relu", True: "gelu_new"}
#: The distance from which on all are one, which it doesn't read from the file.
DISTANCE = 128

SNIPPET = '''"""Answers of this model, with llama.cpp: pip install cyllama; python load.py "a question" ..."""

import sys
from pathlib import Path

from cyllama.llama import llama_cpp

HERE = Path(__file__).resolve().parent
TEMPLATE = $template
HOW = {"split_special_tokens": True, "truncation": True, "max_length": $source_limit}  # of transformers' tokenizer
START, FIRST, ENDS = $start, $first, $ends  # FIRST: the token that every answer begins with, or None
THREADS = 1  # more are faster for a large model on an idle machine; on a busy one they wait for each other

llama_cpp.disable_logging()
settings = llama_cpp.LlamaModelParams()
settings.n_gpu_layers = 0
model = llama_cpp.LlamaModel(str(HERE / "model.gguf"), settings, verbose=False)
vocabulary = model.get_vocab()
greedy = llama_cpp.LlamaSampler(llama_cpp.LlamaSamplerChainParams())
greedy.add_greedy()
before = model.metadata().get("seqtune.before_text", "")  # what llama.cpp doesn't put before a text by itself

tokenizer = None
if (HERE / "tokenizer_config.json").exists():  # llama.cpp has no such tokenizer, or one that cuts texts otherwise
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(HERE)


def encoded(text):
    """The token ids of a text, its end token last."""
    if tokenizer:
        return tokenizer(text, **HOW)["input_ids"]
    ids = vocabulary.tokenize(before + text if text else text, add_special=True, parse_special=True)
    return ids if len(ids) <= $source_limit else [*ids[: $source_limit - 1], ids[-1]]


def decoded(ids):
    """The text of an answer."""
    if tokenizer:
        return tokenizer.decode(ids, skip_special_tokens=True).strip()
    return vocabulary.detokenize(ids, 256 * len(ids) + 256, False, False).strip()


def begun(ids):
    """llama.cpp as it has read a question. What it keeps of an answer it keeps in float32."""
    settings = llama_cpp.LlamaContextParams()
    settings.n_ctx = max(len(ids), $limit + 1)
    settings.n_batch = settings.n_ubatch = len(ids)
    settings.n_threads = settings.n_threads_batch = THREADS
    settings.type_k = settings.type_v = 0  # float32
    settings.flash_attn_type = 0  # none: it computes in float16
    context = llama_cpp.LlamaContext(model, settings, verbose=False)
    batch = llama_cpp.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
    batch.set_batch(ids, 0, True)
    context.encode(batch)
    return context


def go_on(context, token, position):
    """One step of the decoder."""
    batch = llama_cpp.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
    batch.add(token, position, [0], True)
    context.decode(batch)


def tokens(texts):
    """The token ids of an answer to each text; greedy."""
    found = []
    for text in texts:
        context, written = begun(encoded(TEMPLATE.replace("{question}", text))), []
        while len(written) < $open_limit and not (written and written[-1] in ENDS):
            go_on(context, written[-1] if written else START, len(written))
            written.append(FIRST if FIRST is not None and not written else greedy.sample(context, -1))
        found.append(written)
    return found


if __name__ == "__main__":
    for answer in tokens(sys.argv[1:]):
        print(decoded(answer))
'''


def write(tuned: Tuned, folder: Path, quantization: str) -> None:
    """The file; the tokenizer beside it where llama.cpp's own gives other ids.

    Raises:
        InputError: llama.cpp would compute this model otherwise.
    """
    import gguf

    model: Any = tuned.model
    _check(model)
    config = model.config
    writer = gguf.GGUFWriter(str(folder / "model.gguf"), "t5")
    writer.add_context_length(max(tuned.settings["max_source_length"], tuned.limit))
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.num_layers)
    writer.add_decoder_block_count(config.num_decoder_layers)
    writer.add_head_count(config.num_heads)
    writer.add_key_length(config.d_kv)
    writer.add_value_length(config.d_kv)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
    writer.add_decoder_start_token_id(tuned.options["decoder_start_token_id"])
    kinds = {"float32": gguf.LlamaFileType.ALL_F32, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
    writer.add_file_type(kinds[quantization])
    inside = vocabulary.add(writer, tuned.tokenizer, model.get_decoder().embed_tokens.num_embeddings)
    for name, weight in _weights(model):
        array = weight.detach().float().contiguous().numpy()
        if quantization == "q8_0" and _is_large(name, weight):
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "load.py").write_text(checking.snippet(SNIPPET, tuned), encoding="utf-8")
    if not inside:
        say("llama.cpp has no tokenizer of this kind: load.py takes transformers'")
        tuned.save_tokenizer(folder)
    elif wrong := _cut_otherwise(tuned, folder):
        say(f"llama.cpp's tokenizer cuts {wrong} texts otherwise: load.py takes transformers'")
        tuned.save_tokenizer(folder)


def log_probs(tuned: Tuned, folder: Path, answers: list[list[int]]) -> list[list[float]]:
    """Of llama.cpp, a token after the other."""
    start = tuned.options["decoder_start_token_id"]
    return _asked(folder, "log_probs", [list(each) for each in zip(tuned.sources, answers, strict=True)], start)


def answers(folder: Path, texts: list[str]) -> list[list[int]]:
    """What ``load.py`` answers."""
    return _asked(folder, "tokens", texts)


def _check(model: Any) -> None:
    config = model.config
    found = []
    if config.model_type not in KINDS:
        found = ["T5, T5 v1.1, FLAN-T5, mT5 and umT5 can be exported to gguf"]
    else:
        activation, distance = config.dense_act_fn, config.relative_attention_max_distance
        if activation != ACTIVATIONS[config.is_gated_act]:
            found.append(f"its activation is {activation}   expected {' or a gated '.join(ACTIVATIONS.values())}")
        if distance != DISTANCE:
            found.append(f"its relative_attention_max_distance is {distance}   expected {DISTANCE}")
        if config.num_decoder_layers > config.num_layers:
            found.append("its decoder has more layers than its encoder   expected as many at most")
        embeddings = [part.embed_tokens.weight for part in (model.get_encoder(), model.get_decoder())]
        if not embeddings[0].equal(embeddings[1]):
            found.append("its encoder and decoder have embeddings of their own   expected one of both")
    if found:
        raise InputError(
            f"to = 'gguf'   llama.cpp has no such {type(model).__name__}", found,
            "Export to merged, adapter, ctranslate2 or onnx instead.",
        )  # fmt: skip


def _weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight, by llama.cpp's name without ``.weight``."""
    plan: Any = blueprint.draw(model)  # all of `KINDS` are drawn
    yield "token_embd", plan.embedding
    if plan.head.weight.data_ptr() != plan.embedding.data_ptr():
        yield "output", plan.head.weight
    yield "enc.output_norm", model.get_encoder().final_layer_norm.weight
    yield "dec.output_norm", plan.last.weight  # scaled where the outputs are
    for side, stack in (("enc", model.get_encoder()), ("dec", model.get_decoder())):
        for index, block in enumerate(stack.block):
            at, own, dense = f"{side}.blk.{index}", block.layer[0].SelfAttention, block.layer[-1].DenseReluDense
            yield f"{at}.attn_norm", block.layer[0].layer_norm.weight
            for part in "qkvo":
                yield f"{at}.attn_{part}", getattr(own, part).weight
            if own.has_relative_attention_bias:  # of T5 the first layer's, which llama.cpp takes for the others too
                yield f"{at}.attn_rel_b", own.relative_attention_bias.weight
            if side == "dec":
                yield f"{at}.cross_attn_norm", block.layer[1].layer_norm.weight
                for part in "qkvo":
                    yield f"{at}.cross_attn_{part}", getattr(block.layer[1].EncDecAttention, part).weight
            yield f"{at}.ffn_norm", block.layer[-1].layer_norm.weight
            if model.config.is_gated_act:
                yield f"{at}.ffn_gate", dense.wi_0.weight
            yield f"{at}.ffn_up", (dense.wi_1 if model.config.is_gated_act else dense.wi).weight
            yield f"{at}.ffn_down", dense.wo.weight


def _is_large(name: str, weight: Tensor) -> bool:
    """Whether a weight is quantized: q8_0 has blocks of 32; biases of positions are few."""
    return weight.dim() == 2 and weight.shape[1] % 32 == 0 and not name.endswith("attn_rel_b")


def _cut_otherwise(tuned: Tuned, folder: Path) -> str:
    """How many of how many texts llama.cpp encodes, or decodes, otherwise; empty where it does as the run does."""
    limit, template = tuned.settings["max_source_length"], tuned.settings["input_template"]
    long, own = "A long text, of 2 parts. " * limit, "x".join(["", *pieces.characters_of(tuned.tokenizer), ""])
    plain = [*tuned.texts, *tuned.references, *vocabulary.PROBES, long, own]
    texts = [*plain, *tokens.apply_template(template, plain)]  # answers are decoded without it
    ids = [
        tuned.tokenizer(text, split_special_tokens=True, truncation=True, max_length=limit)["input_ids"]
        for text in texts
    ]
    back = [tuned.answerer.text(each) for each in ids]
    theirs, read = _asked(folder, "encoded", texts), _asked(folder, "decoded", ids)
    wrong = sum(a != b or c != d for a, b, c, d in zip(ids, theirs, back, read, strict=True))
    return f"{wrong} of {len(texts)}" if wrong else ""


def _asked(folder: Path, what: str, given: list[Any], *further: Any) -> Any:
    """What ``load.py`` makes of it in a process of its own; see `llamacpp`."""
    script = Path(__file__).with_name("llamacpp.py")  # -P: beside it lies what is called as packages are
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(folder / "load.py"), what],
        input=json.dumps([given, *further]), capture_output=True, check=False, encoding="utf-8",
        env={**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise RunError("llama.cpp can't use the export; nothing was published", said[-1:])
    return json.loads(done.stdout)
