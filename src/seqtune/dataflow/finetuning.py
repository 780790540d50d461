"""Fine-tuning: base model + LoRA → trained adapter (the best by validation loss) → the tuned model.

With ``start=presaved`` the adapter comes from the disk instead. Training returns a record of files (`TrainedAdapter`);
the live models are nodes of their own and are never cached.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from hamilton.function_modifiers import cache, config
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqtune import run, settings, store
from seqtune.caching import Deferred
from seqtune.data import tokens
from seqtune.data.streaming import Stream
from seqtune.engine import hardware, loop, sharding
from seqtune.engine.checkpoint import Checkpoints
from seqtune.generation import pad_token_id
from seqtune.models import adapters, loading, pieces, quantized
from seqtune.models.loading import BaseCheckpoint
from seqtune.rehearsal import fitted, rehearse
from seqtune.run import TrainedAdapter
from seqtune.settings import DEFAULT


@cache(behavior="recompute", format="live")
def device(device_type: Literal["auto", "cpu", "cuda", "mps"] = DEFAULT.device_type) -> torch.device:
    """Where to compute: CUDA, then Apple's MPS, then the CPU, unless one is asked for."""
    return hardware.choose_device(device_type)


@cache(behavior="recompute", format="live")
def base_model(
    base_checkpoint: BaseCheckpoint, device: torch.device, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """The base model as it was downloaded: fp32 (or 4 bits), frozen, in evaluation mode; with room for added pieces."""
    return pieces.make_room(loading.load_model(base_checkpoint, device), pieces.ids_of(tokenizer))


@config.when(start="base")
@cache(behavior="recompute")
def training_knobs__base(
    base_checkpoint: BaseCheckpoint,
    learning_rate: float = DEFAULT.learning_rate,
    num_train_epochs: float = DEFAULT.num_train_epochs,
    max_steps: int | None = DEFAULT.max_steps,
    minutes: float | None = DEFAULT.minutes,
    per_device_train_batch_size: int = DEFAULT.per_device_train_batch_size,
    gradient_accumulation_steps: int = DEFAULT.gradient_accumulation_steps,
    auto_batch: bool = DEFAULT.auto_batch,
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = DEFAULT.lr_scheduler_type,
    warmup_steps: float = DEFAULT.warmup_steps,
    weight_decay: float = DEFAULT.weight_decay,
    max_grad_norm: float = DEFAULT.max_grad_norm,
    eval_steps: int | None = DEFAULT.eval_steps,
    early_stopping_patience: int = DEFAULT.early_stopping_patience,
    per_device_eval_batch_size: int = DEFAULT.per_device_eval_batch_size,
    engine: Literal["fast", "reference"] = DEFAULT.engine,
    group_by_length: bool | None = DEFAULT.group_by_length,
    shard_base: bool = DEFAULT.shard_base,
    seeds: int = DEFAULT.seeds,
    random_state: int = DEFAULT.random_state,
) -> dict[str, Any]:
    """How to train, as it was asked for; by the plain engine where the base is in 4 bits, or in shares."""
    knobs = locals()
    in_4bit = knobs.pop("base_checkpoint").load_in_4bit
    asked_for = settings.validated(knobs)
    return quantized.with_plain_engine(asked_for) if in_4bit else sharding.settled(asked_for)


@config.when(start="base")
@cache(behavior="recompute")
def lora_settings__base(
    lora_r: int = DEFAULT.lora_r,
    lora_alpha: float = DEFAULT.lora_alpha,
    lora_dropout: float = DEFAULT.lora_dropout,
    target_modules: str | None = DEFAULT.target_modules,
    use_dora: bool = DEFAULT.use_dora,
    use_rslora: bool = DEFAULT.use_rslora,
) -> dict[str, Any]:
    """What the adapter is to be."""
    return settings.validated(locals())


@config.when(start="base")
@cache(behavior="recompute")
def compute_precision__base(
    device: torch.device, precision: Literal["auto", "fp32", "bf16"] = DEFAULT.precision
) -> dict[str, str]:
    """The arithmetic of training, with the reason."""
    return hardware.choose_precision(precision, device)


@config.when(start="presaved")
@cache(behavior="recompute")
def compute_precision__presaved(saved_run: dict[str, Any]) -> dict[str, str]:
    """The arithmetic of the saved run's training; unknown for an adapter from elsewhere."""
    return run.saved_precision(saved_run)


@config.when(start="base")
@cache(behavior="recompute", format="live")
def lora_config__base(
    base_model: PreTrainedModel,
    base_checkpoint: BaseCheckpoint,
    lora_settings: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
) -> PeftConfig:
    """PEFT's configuration of the adapter. Replace this node to train another kind of adapter."""
    return adapters.lora_config(base_model, base_checkpoint.stable_id, lora_settings, pieces.ids_of(tokenizer))


@config.when(start="presaved")
@cache(behavior="recompute", format="live")
def lora_config__presaved(saved_run: dict[str, Any]) -> PeftConfig:
    """PEFT's configuration of the saved adapter."""
    return adapters.load_config(saved_run["adapter"])


@config.when(start="base")
@cache(behavior="recompute", format="live")
def checkpoints__base(
    checkpoints_path: str | None = DEFAULT.checkpoints_path,
    save_steps: int | None = DEFAULT.save_steps,
    save_minutes: float = DEFAULT.save_minutes,
    allow_changed: bool = DEFAULT.allow_changed,
) -> Checkpoints:
    """Where training keeps its state, and goes on from it; nowhere unless a folder is given (`seqtune.claim`)."""
    folder = Path(checkpoints_path) if checkpoints_path else None
    return Checkpoints(folder, save_steps, save_minutes, allow_changed)


@config.when(start="base")
@cache(behavior="recompute", format="live")
def rehearsing__base(
    base_model: PreTrainedModel,
    base_checkpoint: BaseCheckpoint,
    lora_config: PeftConfig,
    tokenizer: PreTrainedTokenizerBase,
    tokenized_train: Dataset,
    validation_sample: Dataset,
    tokenized_validation: Dataset,
    hold_out_sample: Dataset,
    tokenized_hold_out: Dataset,
    training_knobs: dict[str, Any],
    evaluation_settings: dict[str, Any],
    compute_precision: dict[str, str],
    device: torch.device,
) -> Deferred:
    """Does a little of the run and measures it, when it is called: only a plan, or a limit in minutes, needs that."""
    return Deferred(
        rehearse,
        base_model,
        base_checkpoint.stable_id,
        lora_config,
        tokenizer,
        tokenized_train,
        {
            "validation": (validation_sample, tokenized_validation),
            "hold_out": (hold_out_sample, tokenized_hold_out),
        },
        training_knobs,
        evaluation_settings,
        compute_precision["value"],
        device,
    )


@config.when(start="base")
@cache(behavior="recompute")
def training_settings__base(
    training_knobs: dict[str, Any],
    tokenized_train: Dataset,
    rehearsing: Deferred,
    checkpoints: Checkpoints,
) -> dict[str, Any]:
    """How to train: as it was asked for, with as many steps as fit into `minutes` where these are given."""
    return fitted(training_knobs, len(tokenized_train), rehearsing, checkpoints.folder)


@config.when(start="base")
@cache(format="adapter")
def trained_adapter__base(
    base_model: PreTrainedModel,
    base_checkpoint: BaseCheckpoint,
    lora_config: PeftConfig,
    tokenizer: PreTrainedTokenizerBase,
    tokenized_train: Dataset,
    tokenized_validation: Dataset,
    training_settings: dict[str, Any],
    compute_precision: dict[str, str],
    device: torch.device,
    versions: dict[str, str],
    checkpoints: Checkpoints,
    training_stream: dict[str, Any] | None,
    work_dir: str | None = DEFAULT.work_dir,
) -> TrainedAdapter:
    """The adapter, fitted; of all its states the one with the lowest validation loss. The base model is left alone."""
    with hardware.seeded(training_settings["random_state"], device):
        model = adapters.attach(base_model, lora_config, base_checkpoint.stable_id)
        state = loop.train(
            model,
            tokens.as_rows(tokenized_train),
            tokens.as_rows(tokenized_validation),
            training_settings,
            device=device,
            precision=compute_precision["value"],
            pad_token_id=pad_token_id(tokenizer),
            checkpoints=checkpoints,
            stream=Stream(training_stream, tokenizer) if training_stream is not None else None,
            made_of=store.made_of(
                {"training": tokenized_train, "validation": tokenized_validation},
                base_checkpoint,
                tokenizer,
                lora_config,
                training_settings,
                compute_precision["value"],
                device,
                versions,
                training_stream,
            ),
        )
    return store.keep(model, tokenizer, base_checkpoint, state, work_dir)


@config.when(start="presaved")
@cache(behavior="recompute", format="adapter")
def trained_adapter__presaved(saved_run: dict[str, Any], base_checkpoint: BaseCheckpoint) -> TrainedAdapter:
    """The saved adapter; what its training measured comes from its run, and is unknown without one."""
    return store.saved(saved_run, base_checkpoint)


@cache(behavior="recompute", format="live")
def finetuned_model(base_model: PreTrainedModel, trained_adapter: TrainedAdapter) -> PeftModel:
    """The base model with the trained adapter in it, in evaluation mode. The base model itself stays as it is."""
    return adapters.load(base_model, trained_adapter.path)
