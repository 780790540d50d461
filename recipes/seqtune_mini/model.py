"""The model of the recipe: transformers' T5, its loss over packed rows, and what is measured on held-out text.

Training calls `logits_of`, T5 in forty lines over a dictionary of weights with transformers' names: packed rows need
masks which transformers' model does not take, and fewer, larger operations are what makes a small model fast.
`tests/recipes/test_seqtune_mini.py` holds the two to be the same.
"""

import random
from dataclasses import dataclass

import mixture
import numpy as np
import torch
from packing import Batch, encode, pack
from torch import Tensor
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

HEAD_WIDTH = 32
HIDDEN = -1e4  # added to the scores of what must not be seen; finite, so that padding, which sees nothing, gives no NaN
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """The choices of size; heads are `HEAD_WIDTH` wide."""

    width: int = 320
    feed_forward: int = 640
    encoder_layers: int = 3
    decoder_layers: int = 3


def new_model(tokenizer, size: Size) -> T5ForConditionalGeneration:
    """T5 v1.1: gated GELU, RMS norm; the embedding is also the head, as it is a quarter of all weights."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=size.width,
        d_kv=HEAD_WIDTH,
        num_heads=size.width // HEAD_WIDTH,
        d_ff=size.feed_forward,
        num_layers=size.encoder_layers,
        num_decoder_layers=size.decoder_layers,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    model = T5ForConditionalGeneration(config)
    look_at_neighbours(model)
    return model


@torch.no_grad()
def look_at_neighbours(model) -> None:
    """Let some heads begin by looking one or two places to the side.

    To copy, a model has to know which piece follows which. Heads that look at a neighbour are the first half of that;
    from nearly equal position biases they take thousands of steps to appear. They stay free to change. Buckets of the
    encoder: 0 is the place itself, 1 to 7 are so many places before it, 17 to 23 behind it; the decoder has no behind.
    """
    encoder = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    decoder = model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    for head, bucket in enumerate((1, 17, 2, 18)):
        encoder[bucket, head] += 4.0
    for head, bucket in enumerate((1, 2, 0)):
        decoder[bucket, head] += 4.0


def on_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """The batch as tensors there; ids are int64."""
    return {
        name: torch.from_numpy(array.astype(np.int32 if name in ("source", "target") else np.uint8))
        .to(device, non_blocking=True)
        .long()
        for name, array in batch.items()
    }


def logits_of(weights: Weights, config: T5Config, batch: dict[str, Tensor]) -> Tensor:
    """Teacher-forced logits, (rows x TARGET, vocabulary).

    Args:
        weights: transformers' names of a T5 with tied embeddings to tensors of one dtype, which is computed in.
        batch: of `packing.pack`, by `on_device`.
    """
    embedding = weights["shared.weight"]

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weights[f"{name}.weight"], config.layer_norm_epsilon)

    def attend(x: Tensor, others: Tensor, name: str, mask: Tensor) -> Tensor:
        def heads(of: Tensor, part: str) -> Tensor:
            return (
                functional.linear(of, weights[f"{name}.{part}.weight"]).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)
            )

        seen = functional.scaled_dot_product_attention(
            heads(x, "q"), heads(others, "k"), heads(others, "v"), attn_mask=mask, scale=1.0
        )
        return functional.linear(seen.transpose(1, 2).flatten(2), weights[f"{name}.o.weight"])

    def gated(x: Tensor, name: str) -> Tensor:
        gate = functional.gelu(functional.linear(x, weights[f"{name}.wi_0.weight"]), approximate="tanh")
        return functional.linear(
            gate * functional.linear(x, weights[f"{name}.wi_1.weight"]), weights[f"{name}.wo.weight"]
        )

    def hidden(allowed: Tensor) -> Tensor:
        return torch.zeros((), dtype=embedding.dtype, device=allowed.device).where(allowed[:, None], HIDDEN)

    def biases(stack: str, length: int) -> Tensor:
        places = torch.arange(length, device=embedding.device)
        buckets = T5Attention._relative_position_bucket(
            places[None, :] - places[:, None], stack == "encoder", config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        )  # fmt: skip
        table = weights[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return functional.embedding(buckets, table).permute(2, 0, 1)[None]

    source, target = batch["source_place"], batch["target_place"]
    x = functional.embedding(batch["source"], embedding)
    mask = biases("encoder", source.shape[1]) + hidden(source[:, :, None] == source[:, None, :])
    for number in range(config.num_layers):
        at = f"encoder.block.{number}.layer"
        near = norm(x, f"{at}.0.layer_norm")
        x = x + attend(near, near, f"{at}.0.SelfAttention", mask)
        x = x + gated(norm(x, f"{at}.1.layer_norm"), f"{at}.1.DenseReluDense")
    encoded = norm(x, "encoder.final_layer_norm")

    first = target != functional.pad(target[:, :-1], (1, 0))  # where an example begins, the decoder starts anew
    x = functional.embedding(functional.pad(batch["target"][:, :-1], (1, 0)).masked_fill(first, 0), embedding)
    same = target[:, :, None] == target[:, None, :]
    mask = biases("decoder", target.shape[1]) + hidden(same & torch.ones_like(same[0]).tril())
    cross = hidden(target[:, :, None] == source[:, None, :]).expand(-1, config.num_heads, -1, -1)
    for number in range(config.num_decoder_layers):
        at = f"decoder.block.{number}.layer"
        near = norm(x, f"{at}.0.layer_norm")
        x = x + attend(near, near, f"{at}.0.SelfAttention", mask)
        x = x + attend(norm(x, f"{at}.1.layer_norm"), encoded, f"{at}.1.EncDecAttention", cross)
        x = x + gated(norm(x, f"{at}.2.layer_norm"), f"{at}.2.DenseReluDense")
    out = norm(x, "decoder.final_layer_norm") * config.d_model**-0.5
    return functional.linear(out.flatten(0, 1), embedding)


def loss_of(weights: Weights, config: T5Config, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy a real target piece (padding, id 0, does not count), in nats."""
    return functional.cross_entropy(
        logits_of(weights, config, batch).float(), batch["target"].flatten(), ignore_index=0
    )


def held_out(held, tokenizer, rows: int = 64) -> dict[str, Batch]:
    """A batch of what training never sees for each family of tasks."""
    rng = random.Random(7)
    groups: dict[str, list] = {"copy": [], "span": [], "continue": [], "dialogue": [], "trivia": []}
    for _ in range(192):
        text = rng.choice(held.wikipedia + held.books)
        groups["copy"] += [made for task in mixture.COPY_TASKS if (made := task(rng, text))]
        groups["span"].append(mixture.span_corruption(rng, text))
        groups["continue"] += [made for made in [mixture.continuation(rng, text)] if made]
        groups["dialogue"] += [made for made in [mixture.dialogue_reply(rng, rng.choice(held.dialogues))] if made]
        groups["trivia"].append(rng.choice(held.trivia))
    return {name: pack(iter(encode(tokenizer, pairs)), rows) for name, pairs in groups.items()}


@torch.no_grad()
def measure(weights: Weights, config: T5Config, batches: dict[str, Batch]) -> dict[str, float]:
    """Held-out loss by family, and the share of copying examples of which every piece is right.

    Teacher forcing with all pieces right is the same as greedy decoding giving exactly the target, and much cheaper.
    """
    result: dict[str, float] = {}
    total, pieces = 0.0, 0
    for name, arrays in batches.items():
        batch = on_device(arrays, weights["shared.weight"].device)
        logits, target = logits_of(weights, config, batch).float(), batch["target"]
        loss, real = float(functional.cross_entropy(logits, target.flatten(), ignore_index=0)), int((target != 0).sum())
        result[f"held_{name}"] = round(loss, 4)
        if name != "copy":
            total, pieces = total + loss * real, pieces + real
            continue
        wrong = ((logits.argmax(-1).view_as(target) != target) & (target != 0)).cpu().numpy()
        rows = list(zip(arrays["target_place"], wrong, strict=True))
        examples = sum(int(places.max()) for places, _ in rows)
        failed = sum(len(np.unique(places[errors])) for places, errors in rows)
        result["copy_exact"] = round(1 - failed / examples, 4)
    return {"held": round(total / pieces, 4), **result}
