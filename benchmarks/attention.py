"""fp32 products by MKL or oneDNN, attention fused (`sdpa`) or plain (`eager`): processor time of a LoRA step.

    python benchmarks/attention.py [--threads 1] [--repeats 5]

Interleaved, medians. A line for each length: seconds a step with MKL and fused attention (PyTorch's default), the
other variants' speed as a multiple of that one's, and the largest relative difference of their losses.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

from seqtune.models import loading

#: google/flan-t5-small's shape, for random weights.
FLAN_T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6, "num_layers": 8, "vocab_size": 32128}
LENGTHS = (16, 38, 128, 256)
VARIANTS = (("MKL", "sdpa"), ("MKL", "eager"), ("oneDNN", "sdpa"), ("oneDNN", "eager"))


def models() -> dict[str, T5ForConditionalGeneration]:
    """The embedded model with its trained weights, and the shape of flan-t5-small with random ones."""
    torch.manual_seed(0)
    config = T5Config(feed_forward_proj="gated-gelu", dropout_rate=0.0, decoder_start_token_id=0, **FLAN_T5_SMALL)
    mini = T5ForConditionalGeneration.from_pretrained(loading.embedded_folder(), dtype=torch.float32)
    return {"seqtune-mini": mini, "flan-t5-small": T5ForConditionalGeneration(config)}


def step(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Processor seconds of a forward and backward pass, and its loss."""
    model.zero_grad()
    started = time.process_time()
    loss = model(**batch).loss
    loss.backward()
    return time.process_time() - started, loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        "model          tokens  default s  "
        + "  ".join(f"{' + '.join(name):>14}" for name in VARIANTS[1:])
        + "  loss differs by"
    )
    for name, base in models().items():
        model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear")).train()
        for tokens in LENGTHS:
            ids = torch.randint(2, 8000, (arguments.rows, tokens))
            mask = torch.ones_like(ids)
            mask[::2, -tokens // 8 :] = 0  # as in a real batch
            batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.flip(1)}
            seconds: dict[tuple[str, str], list[float]] = {variant: [] for variant in VARIANTS}
            losses = {}
            for _ in range(arguments.repeats + 1):
                for variant in VARIANTS:
                    torch.set_float32_matmul_precision("highest" if variant[0] == "MKL" else "medium")
                    model.base_model.model.set_attn_implementation(variant[1])
                    taken, losses[variant] = step(model, batch)
                    seconds[variant].append(taken)
            medians = [statistics.median(seconds[variant][1:]) for variant in VARIANTS]
            gains = "  ".join(f"{medians[0] / median:14.2f}" for median in medians[1:])
            differs = (max(losses.values()) - min(losses.values())) / losses[VARIANTS[0]]
            print(f"{name:13} {tokens:7}  {medians[0]:9.3f}  {gains}  {differs:.1e}", flush=True)


if __name__ == "__main__":
    main()
