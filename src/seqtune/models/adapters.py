"""LoRA adapters: into a model, onto the disk, back again. The base model that comes in is never changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune.errors import InputError
from seqtune.models import families, loading, pieces, quantized
from seqtune.models.quiet import quiet
from seqtune.progress import say


def lora_config(
    model: PreTrainedModel, base_model_id: str, settings: dict[str, Any], new_ids: Sequence[int] = ()
) -> LoraConfig:
    """PEFT's configuration from our knobs of the same names.

    ``new_ids`` are tokens whose embeddings are trained too (`pieces`).

    No ``task_type``: PEFT 0.21's wrapper for SEQ_2_SEQ_LM looks for a method that transformers 5 has renamed, so that
    an adapter saved with it can't be loaded by plain PEFT. Without it PEFT forwards every call to the model.

    Raises:
        InputError: ``target_modules`` match nothing in this model; the error lists the modules there are.
    """
    targets = families.target_modules(model, settings["target_modules"])
    if settings["target_modules"] is None:
        shown = targets if isinstance(targets, str) else ", ".join(targets)
        say(f"target modules: {shown} (the query and value projections of this architecture)")
    return LoraConfig(
        r=settings["lora_r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings["lora_dropout"],
        target_modules=targets,
        use_dora=settings["use_dora"],
        use_rslora=settings["use_rslora"],
        bias="none",
        trainable_token_indices=list(new_ids) or None,
        base_model_name_or_path=base_model_id,
    )


def attach(base_model: PreTrainedModel, config: PeftConfig, base_model_id: str) -> PeftModel:
    """The base model with a fresh, untrained adapter in it; only the adapter's weights are trainable.

    The first weights of the adapter are drawn from PyTorch's generator: seed it.

    Raises:
        InputError: nothing is trainable.
    """
    own = copy.deepcopy(config)
    own.base_model_name_or_path = None  # PEFT writes the folder that the model was read from here; the id says more
    with quiet():
        model = get_peft_model(loading.shared_copy(base_model), own)
    own.base_model_name_or_path = base_model_id
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("the adapter has nothing to train", mend="Name other --target-modules.")
    return model


def save(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the adapter in PEFT's own format (safetensors), with the tokenizer beside it."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    config_file = folder / "adapter_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if isinstance(config.get("target_modules"), list):  # a set in PEFT: its order changes from process to process
        config["target_modules"].sort()
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template of a model card, all questions and no answers
    tokenizer.save_pretrained(str(folder))
    pieces.save(tokenizer, folder)


def load(base_model: PreTrainedModel, folder: str | Path) -> PeftModel:
    """The base model with the adapter of that folder in it, in evaluation mode, nothing trainable.

    Raises:
        InputError: the adapter is damaged or does not fit the base model.
    """
    try:
        with quiet():
            model = PeftModel.from_pretrained(loading.shared_copy(base_model), str(folder), is_trainable=False)
    except (ValueError, KeyError, RuntimeError, SafetensorError, OSError) as error:
        raise InputError(
            f"{folder}: this adapter can't be put into {base_model.name_or_path or 'the base model'}",
            [(str(error).splitlines() or [type(error).__name__])[0]],
            "Check that it was trained on this base model (--model-id) and that its files are whole.",
        ) from None
    model.requires_grad_(False)
    return pieces.settled(model).to(next(base_model.parameters()).device).eval()


def merged(model: PeftModel) -> PreTrainedModel:
    """A plain transformers model with the adapter added into its weights, in their dtype (fp32 as we load models).

    ``model`` and its base stay as they are. Merging writes into the weights, which the base model shares: those that
    are adapted are copied, the others stay shared. A base in 4 bits is written out in fp32 first: what is merged into
    4 bits is rounded again.
    """
    if quantized.is_quantized(model):
        model = _over_written_out(model)
    tied = model.config.tie_word_embeddings
    adapted = {
        id(weight)
        for module in model.modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        for weight in module.parameters()
    }
    shared = {id(weight): weight for weight in model.parameters() if id(weight) not in adapted}
    with quiet():
        plain = copy.deepcopy(model, shared).merge_and_unload()  # deepcopy takes what its memo has for copied
    # PEFT 0.21 clears this where head and embedding differ; but umT5 also scales the decoder's outputs by it.
    plain.config.tie_word_embeddings = tied
    return plain


def _over_written_out(model: PeftModel) -> PeftModel:
    """The adapter of a model in 4 bits over the same weights in fp32."""
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = copy.deepcopy(model.peft_config["default"])
    with quiet():
        base: Any = loading.shared_copy(model).unload()
        plain = get_peft_model(quantized.written_out(base), config)
        set_peft_model_state_dict(plain, weights)
    plain.requires_grad_(False)
    return plain.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's ``adapter_config.json``.

    Raises:
        InputError: the folder holds no adapter in safetensors, or its configuration is damaged.
    """
    missing = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: no adapter ({' and '.join(missing)} missing)",
            mend="Expected a run directory of seqtune, or an adapter folder in PEFT's format with safetensors weights.",
        )
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it holds {type(config).__name__}, not an object")
    except ValueError as error:
        raise InputError(f"{folder / 'adapter_config.json'}: damaged ({error})", mend="Bring the file back.") from None
    return config


def load_config(folder: str | Path) -> PeftConfig:
    """The adapter's configuration as PEFT reads it.

    Raises:
        InputError: as `read_config`, or PEFT does not know it.
    """
    read_config(Path(folder))
    try:
        with quiet():
            return PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{Path(folder) / 'adapter_config.json'}: not PEFT's ({error})") from None


def resolve_base(
    saved_run: dict[str, Any],
    model_id: str | None,
    model_id_tokenizer: str | None,
    revision: str | None,
    load_in_4bit: bool | None = None,
) -> loading.BaseCheckpoint:
    """The base model that a saved adapter was trained on (`run.open_saved` gives ``saved_run``).

    In 4 bits if it was in training, unless ``load_in_4bit`` says otherwise.

    Raises:
        InputError: the model found is not the one that the manifest names, by its SHA-256; or the adapter's own
            configuration names no base model.
    """
    manifest = saved_run["manifest"]
    if manifest is None:
        config = read_config(Path(saved_run["adapter"]))
        if not (model_id or config.get("base_model_name_or_path")):
            raise InputError(
                f"{saved_run['adapter']}: its configuration does not name the base model",
                mend="Name the model that it was trained on with --model-id.",
            )
        elsewhere = loading.resolve(model_id or config["base_model_name_or_path"], model_id_tokenizer, revision)
        return replace(elsewhere, load_in_4bit=bool(load_in_4bit))
    base = manifest["base_model"]
    found = loading.resolve(
        model_id or base["model_id"], model_id_tokenizer or base["tokenizer_id"], revision or base["revision"]
    )
    for what, name in (("base model", "sha256"), ("tokenizer", "tokenizer_sha256")):
        if getattr(found, name) != base[name]:
            raise InputError(
                f"{found.model_id}: not the {what} that the adapter was trained on",
                [f"found     sha256 {getattr(found, name)}", f"expected  sha256 {base[name]}"],
                "Name the right one with --model-id.",
            )
    # Runs of versions before this setting do not have it.
    return replace(found, load_in_4bit=base.get("load_in_4bit", False) if load_in_4bit is None else load_in_4bit)


def describe_targets(config: PeftConfig) -> str:
    """``q, v`` or ``all-linear``."""
    targets = getattr(config, "target_modules", None)
    return targets if isinstance(targets, str) else ", ".join(sorted(targets or ()))


def trainable_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Numbers of trainable and of all parameters."""
    counts = [(quantized.size(weight), weight.requires_grad) for weight in model.parameters()]
    return sum(n for n, trainable in counts if trainable), sum(n for n, _ in counts)
