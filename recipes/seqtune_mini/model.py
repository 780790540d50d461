"""The model of the recipe, its loss, and what is measured on held-out text."""

import random

import mixture
import torch
from batching import batches, encode, tensors_of
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

HEAD_WIDTH = 32


def new_model(tokenizer) -> T5ForConditionalGeneration:
    """T5 v1.1: gated GELU, RMS norm; the embedding is also the head, as it is a third of all weights."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=256,
        d_kv=HEAD_WIDTH,
        num_heads=8,
        d_ff=512,
        num_layers=3,
        num_decoder_layers=3,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    model = T5ForConditionalGeneration(config)
    model.set_attn_implementation("eager")  # the fastest here: the sequences are short
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


def logits_of(model, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Teacher-forced logits, (rows x length, vocabulary)."""
    mask = (source != 0).long()
    encoded = model.encoder(input_ids=source, attention_mask=mask).last_hidden_state
    shifted = functional.pad(target[:, :-1], (1, 0))
    hidden = model.decoder(
        input_ids=shifted, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
    ).last_hidden_state
    return functional.linear(hidden.flatten(0, 1) * model.config.d_model**-0.5, model.shared.weight)


def loss_of(model, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy a real target piece (padding, id 0, does not count)."""
    return functional.cross_entropy(logits_of(model, source, target).float(), target.flatten(), ignore_index=0)


@torch.no_grad()
def measure(model, held, tokenizer) -> dict[str, float]:
    """Held-out loss by family, and the share of copying examples of which every piece is right.

    Teacher forcing with all pieces right is the same as greedy decoding giving exactly the target, and much cheaper.
    """
    rng, result = random.Random(7), {}
    groups: dict[str, list] = {"copy": [], "span": [], "continue": [], "dialogue": [], "trivia": []}
    for _ in range(96):
        text = rng.choice(held.wikipedia + held.books)
        groups["copy"] += [made for task in mixture.COPY_TASKS if (made := task(rng, text))]
        groups["span"].append(mixture.span_corruption(rng, text))
        groups["continue"] += [made for made in [mixture.continuation(rng, text)] if made]
        groups["dialogue"] += [made for made in [mixture.dialogue_reply(rng, rng.choice(held.dialogues))] if made]
        groups["trivia"].append(rng.choice(held.trivia))
    total, pieces = 0.0, 0
    for name, pairs in groups.items():
        loss = count = right = seen = 0
        for rows in batches(encode(tokenizer, pairs), 4096, rng):
            source, target = tensors_of(rows)
            logits = logits_of(model, source, target).float()
            real = int((target != 0).sum())
            loss += real * float(functional.cross_entropy(logits, target.flatten(), ignore_index=0))
            count += real
            good = (logits.argmax(-1).view_as(target) == target) | (target == 0)
            right, seen = right + int(good.all(1).sum()), seen + len(rows)
        result[f"held_{name}"] = round(loss / count, 4)
        if name == "copy":
            result["copy_exact"] = round(right / seen, 4)
        else:
            total, pieces = total + loss, pieces + count
    return {"held": round(total / pieces, 4), **result}
