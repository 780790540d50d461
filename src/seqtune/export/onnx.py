"""The merged model as two ONNX graphs: the encoder with the question's keys and values, the decoder with its cache.

They are drawn from our own blueprint of the decoder, so that inputs and outputs are the same for every family:

    encoder.onnx   input_ids, attention_mask [rows, tokens]  ->  memory [rows, layers, 2, tokens, inner]
    decoder.onnx   tokens [rows], past [rows, layers, 2, length, inner], memory, attention_mask
                   ->  logits [rows, vocabulary], present [rows, layers, 2, length + 1, inner]
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqtune.errors import InputError
from seqtune.export.tuned import Tuned
from seqtune.generation import blueprint
from seqtune.generation.plain import attended, normed

NEEDS = ("onnx", "onnxscript", "onnxruntime")

SNIPPET = '''"""Answers of this model, with ONNX Runtime and its tokenizer: python load.py "a question" ..."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
TEMPLATE = $template
HOW = {"split_special_tokens": True, "truncation": True, "max_length": $source_limit}  # nothing in a text is obeyed
START, FIRST, ENDS = $start, $first, $ends  # FIRST: the token that every answer begins with, or None

tokenizer = AutoTokenizer.from_pretrained(HERE)
encoder = onnxruntime.InferenceSession(str(HERE / "encoder.onnx"), providers=["CPUExecutionProvider"])
decoder = onnxruntime.InferenceSession(str(HERE / "decoder.onnx"), providers=["CPUExecutionProvider"])


def tokens(texts):
    """The token ids of an answer to each text; greedy."""
    found = []
    for text in texts:
        text = TEMPLATE.replace("{question}", text)
        ids = np.array([tokenizer(text, **HOW)["input_ids"]], dtype=np.int64)
        mask = np.ones_like(ids)
        (memory,) = encoder.run(["memory"], {"input_ids": ids, "attention_mask": mask})
        past = np.zeros((*memory.shape[:3], 0, memory.shape[4]), dtype=np.float32)
        written = []
        while len(written) < $open_limit and not (written and written[-1] in ENDS):
            token = np.array([written[-1] if written else START], dtype=np.int64)
            feed = {"tokens": token, "past": past, "memory": memory, "attention_mask": mask}
            logits, past = decoder.run(["logits", "present"], feed)
            written.append(FIRST if FIRST is not None and not written else int(logits[0].argmax()))
        found.append(written)
    return found


if __name__ == "__main__":
    for answer in tokens(sys.argv[1:]):
        print(tokenizer.decode(answer, skip_special_tokens=True).strip())
'''


class _Encoder(nn.Module):
    def __init__(self, model: Any, plan: blueprint.Blueprint):
        super().__init__()
        self.encoder, self.plan = model.get_encoder(), plan
        self.weights = nn.ParameterList([nn.Parameter(layer.memory.weight, False) for layer in plan.layers])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        parts = []
        for layer, weight in zip(self.plan.layers, self.weights, strict=True):
            entries = nn.functional.linear(states, weight, layer.memory.bias)
            parts.append(torch.stack(entries.split(self.plan.inner, -1), 1))
        return torch.stack(parts, 1)


class _Decoder(nn.Module):
    """One step; all rows are at the same position, the length of the past."""

    def __init__(self, plan: blueprint.Blueprint):
        super().__init__()
        from transformers.activations import ACT2FN

        self.plan, self.activation = plan, ACT2FN[plan.activation]

    def forward(self, tokens: Tensor, past: Tensor, memory: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        plan, length = self.plan, past.shape[3]
        x = plan.embed(tokens, torch.full_like(tokens, length))
        unseen = (attention_mask == 0)[:, None]
        back = length - torch.arange(length + 1)
        fresh = []
        for index, layer in enumerate(plan.layers):
            h, x = normed(plan, layer.norms[0], x)
            q, k, v = _dense(layer.own, h).split(plan.inner, -1)
            fresh.append(torch.stack([k, v], 1)[:, :, None])
            entries = torch.cat([past[:, index], fresh[-1]], 2)
            bias = None
            if layer.distance is not None:
                bias = layer.distance[:, back.clamp(0, layer.distance.shape[1] - 1)][None]
            x = x + _dense(layer.own_out, attended(plan, q, entries, None, bias))
            h, x = normed(plan, layer.norms[1], x)
            x = x + _dense(layer.other_out, attended(plan, _dense(layer.query, h), memory[:, index], unseen, None))
            h, x = normed(plan, layer.norms[2], x)
            up = _dense(layer.up, h)
            if plan.gated:
                up, gate = up.chunk(2, -1)
                up = self.activation(up) * gate
            else:
                up = self.activation(up)
            x = x + _dense(layer.down, up)
        h, _ = normed(plan, plan.last, x)
        return _dense(plan.head, h), torch.cat([past, torch.stack(fresh, 1)], 3)


def write(tuned: Tuned, folder: Path, quantization: str) -> None:
    """The two graphs and the tokenizer.

    Raises:
        InputError: the decoder is of no kind that is known here.
    """
    plan = blueprint.draw(tuned.model)
    if plan is None:
        raise InputError(
            f"{type(tuned.model).__name__} can't be exported to onnx yet", mend="Export to merged instead."
        )
    free = torch.export.Dim.DYNAMIC
    ids, mask = torch.full((2, 7), 5), torch.ones(2, 7, dtype=torch.long)
    shape = (2, len(plan.layers), 2, 3, plan.inner)
    tokens, past, memory = torch.full((2,), 5), torch.zeros(shape), torch.zeros(*shape[:3], 7, plan.inner)
    tokens_free = {0: free, 1: free}
    _export(
        _Encoder(tuned.model, plan), (ids, mask), folder / "encoder.onnx", ["input_ids", "attention_mask"], ["memory"],
        {"input_ids": tokens_free, "attention_mask": tokens_free},
    )  # fmt: skip
    _export(
        _Decoder(plan), (tokens, past, memory, mask), folder / "decoder.onnx",
        ["tokens", "past", "memory", "attention_mask"], ["logits", "present"],
        {"tokens": {0: free}, "past": {0: free, 3: free}, "memory": {0: free, 3: free}, "attention_mask": tokens_free},
    )  # fmt: skip
    tuned.save_tokenizer(folder)


def log_probs(tuned: Tuned, folder: Path, answers: list[list[int]]) -> list[list[float]]:
    """Of the two graphs, a token after the other."""
    import onnxruntime

    encoder, decoder = (
        onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for name in ("encoder.onnx", "decoder.onnx")
    )
    found = []
    for source, answer in zip(tuned.sources, answers, strict=True):
        ids = np.array([source], dtype=np.int64)
        mask = np.ones_like(ids)
        memory = np.asarray(encoder.run(["memory"], {"input_ids": ids, "attention_mask": mask})[0])
        past = np.zeros((*memory.shape[:3], 0, memory.shape[4]), dtype=np.float32)
        row = []
        for before, token in zip([tuned.options["decoder_start_token_id"], *answer[:-1]], answer, strict=True):
            feed = {"tokens": np.array([before]), "past": past, "memory": memory, "attention_mask": mask}
            logits, past = decoder.run(["logits", "present"], feed)
            row.append(float(torch.from_numpy(np.asarray(logits))[0].log_softmax(-1)[token]))
        found.append(row)
    return found


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    file: Path,
    inputs: list[str],
    outputs: list[str],
    free: dict[str, Any],
) -> None:
    """One graph; weights of more than 2 GB lie beside it."""
    large = sum(weight.numel() for weight in module.parameters()) * 4 > 1_900_000_000
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter tells of torchvision, which nobody asked for
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(), example, str(file), dynamo=True, input_names=inputs, output_names=outputs,
                dynamic_shapes=free, external_data=large, verbose=False,
            )  # fmt: skip
    finally:
        logging.disable(before)


def _dense(dense: blueprint.Dense, x: Tensor) -> Tensor:
    return nn.functional.linear(x, dense.weight, dense.bias)
