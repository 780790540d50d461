"""The two optimisers, and checkpoints as safetensors and JSON: no pickle, so nothing in them can run."""

import json
from pathlib import Path

import torch
from model import HEAD_WIDTH
from safetensors.torch import load_file, save_file


def optimisers(
    weights: dict[str, torch.Tensor], muon_lr: float, adam_lr: float, matrices_by: str = "muon"
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding, the position biases and, more slowly, the norms.

    With ``matrices_by="adamw"`` AdamW trains the matrices too, at a tenth of `adam_lr`: to compare.

    T5 does not divide its attention scores by the root of the head's width; its small initial queries make up for
    that. Muon's steps have one size whatever the weights', so the queries get a rate as much smaller, or attention
    saturates within a few hundred steps and nothing more is learnt.
    """
    inner = {name for name, weight in weights.items() if "block" in name and weight.ndim == 2 and "bias" not in name}
    queries = [weight for name, weight in weights.items() if name in inner and ".q." in name]
    matrices = [weight for name, weight in weights.items() if name in inner and ".q." not in name]
    small = [weight for name, weight in weights.items() if "layer_norm" in name]
    large = [weight for name, weight in weights.items() if name not in inner and "layer_norm" not in name]
    by_adamw = [{"params": large}, {"params": small, "lr": 0.1 * adam_lr}]
    made: list[torch.optim.Optimizer] = []
    if matrices_by == "muon":
        by_muon = [{"params": matrices}, {"params": queries, "lr": muon_lr * HEAD_WIDTH**-0.5}]
        made.append(torch.optim.Muon(by_muon, lr=muon_lr, weight_decay=0.01))
    else:
        by_adamw.append({"params": matrices + queries, "lr": 0.1 * adam_lr})
    made.append(torch.optim.AdamW(by_adamw, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True))
    for optimiser in made:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return made


def save(folder: Path, weights, made, state: dict) -> None:
    """Write weights, optimiser moments and the place in the data; state.json, the last, makes it valid."""
    folder.mkdir(parents=True, exist_ok=True)
    moments = {
        f"{place}.{index}.{key}": value.contiguous()
        for place, optimiser in enumerate(made)
        for index, entry in optimiser.state_dict()["state"].items()
        for key, value in entry.items()
    }
    for name, content in (("model", weights), ("moments", moments)):
        save_file({key: value.detach() for key, value in content.items()}, folder / f"{name}.part")
        (folder / f"{name}.part").replace(folder / f"{name}.safetensors")
    (folder / "state.part").write_text(json.dumps(state) + "\n", encoding="utf-8")
    (folder / "state.part").replace(folder / "state.json")


def restore(folder: Path, weights, made) -> dict:
    with torch.no_grad():
        for key, value in load_file(folder / "model.safetensors").items():
            weights[key].copy_(value)
    moments = load_file(folder / "moments.safetensors")
    for place, optimiser in enumerate(made):
        whole = optimiser.state_dict()
        for key, value in moments.items():
            at, index, what = key.split(".", 2)
            if int(at) == place:
                whole["state"].setdefault(int(index), {})[what] = value
        optimiser.load_state_dict(whole)
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))
