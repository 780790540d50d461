"""The training loop: one visible function, `train`, and one explicit state, `TrainState`.

Read `train` from top to bottom: it is the whole of what happens. Accelerate places the tensors and does mixed
precision; PEFT has put the adapter into the model before; the batches come from `batching`, the loss from `loss`, and
`checkpoint` keeps the state between two steps.

Several processes (`ranks`) share the rows of each step. A step is the same step however many share it: the same rows,
and the gradient of the sum over all their target tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import get_scheduler

from seqtune.engine import batching, loss, memory, sharding, speed
from seqtune.engine.checkpoint import Checkpoints
from seqtune.engine.feeding import Feed, Table
from seqtune.engine.ranks import ALONE, Ranks
from seqtune.engine.sharding import WHOLE, Shards
from seqtune.engine.state import Snapshot, TrainState, bytes_of_checkpoint, packed, restore, snapshot, unpacked
from seqtune.engine.stopping import finishing_the_step
from seqtune.errors import RunError, is_out_of_memory
from seqtune.models import quantized
from seqtune.progress import advance, say, show, warn

#: Measurements of the validation loss in a run, at most, when `eval_steps` is derived.
MAX_EVALUATIONS = 20

#: Steps of a run from which on rows of like length share a batch, when `group_by_length` is derived: where time matters
#: more than the last per cent of the loss (docs/performance.md).
GROUPED_FROM = 2000

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """How long the run is, worked out from the settings and the number of rows before the first step."""

    rows_per_step: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    eval_steps: int

    @property
    def evaluations(self) -> int:
        """Measurements of the validation loss after the first step, when nothing stops the run early."""
        return math.ceil(self.total_steps / self.eval_steps)

    @classmethod
    def of(cls, rows: int, settings: dict[str, Any]) -> Plan:
        """The plan for this many training rows (settings under the names of `seqtune.settings`)."""
        rows_per_step = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
        steps_per_epoch = math.ceil(rows / rows_per_step)
        total = settings["max_steps"] or max(1, math.ceil(settings["num_train_epochs"] * steps_per_epoch))
        warmup = settings["warmup_steps"]
        return cls(
            rows_per_step=rows_per_step,
            steps_per_epoch=steps_per_epoch,
            total_steps=total,
            warmup_steps=min(total - 1, int(warmup * total) if warmup < 1 else int(warmup)),
            eval_steps=settings["eval_steps"]
            or max(1, math.ceil(steps_per_epoch / 2), math.ceil(total / MAX_EVALUATIONS)),
        )


def is_grouped(plan: Plan, settings: Mapping[str, Any]) -> bool:
    """Whether rows of like length share a batch."""
    given = settings["group_by_length"]
    return settings["engine"] == "fast" and plan.total_steps >= GROUPED_FROM if given is None else given


def train(
    model: PeftModel,
    train_rows: Rows,
    validation_rows: Rows,
    settings: dict[str, Any],
    *,
    device: torch.device,
    precision: str,
    pad_token_id: int,
    checkpoints: Checkpoints | None = None,
    made_of: dict[str, Any] | None = None,
    ranks: Ranks = ALONE,
    shards: Shards = WHOLE,
    stream: Feed | None = None,
) -> TrainState:
    """Fit the adapter; leave the best one, by validation loss, in the model.

    The validation loss is measured before the first step too: where training never improves on it, the adapter that is
    left is the untrained one, and `TrainState.best_step` is 0.

    Args:
        model: with the adapter in it; only the adapter's weights are trained.
        train_rows: rows with ``input_ids`` and ``labels`` (lists of token ids).
        validation_rows: rows of the same form; their loss chooses the best adapter.
        settings: the knobs of the group ``finetuning``, ``per_device_eval_batch_size`` and ``random_state``.
        device: where to compute.
        precision: ``fp32`` or ``bf16`` (autocast; the adapter and the optimizer stay fp32).
        pad_token_id: of the tokenizer.
        checkpoints: where the state is kept, and found again: a run that was stopped goes on, and ends as if it had
            not been (bit for bit, on the same machine, threads and versions; on a GPU to rounding). None keeps nothing.
        made_of: what a run that goes on must have been made of too.
        ranks: who trains with us; all call this with the same rows and settings, and end with the same state. The first
            alone keeps checkpoints.
        shards: how the base model lies on the ranks (`sharding.shard`).
        stream: gives the rows of the steps, where they do not fit in memory; ``train_rows`` are then a sample of them.

    Raises:
        RunError: the loss or the gradient is not a number; named with its step and rows, before the optimizer uses it.
            Or the disk has no room for the checkpoints.
        InputError: the checkpoints there belong to a run that was made of something else; or as `sharding.check`.
    """
    sharding.check(settings, ranks.size)
    quantized.compute_in(model, precision)
    fast = settings["engine"] == "fast"
    checkpoints = (checkpoints if ranks.first else None) or Checkpoints()
    made_of = {**(made_of or {}), "ranks": ranks.size}
    plan = Plan.of(stream.rows if stream is not None else len(train_rows), settings)
    state = TrainState()
    say(
        f"training: {plan.total_steps} steps of {plan.rows_per_step} rows ({plan.steps_per_epoch} an epoch), "
        f"{plan.warmup_steps} of them warm-up; validation loss every {plan.eval_steps} "
        f"({'given' if settings['eval_steps'] else f'half an epoch, at most {MAX_EVALUATIONS} times a run'})"
    )
    grouped = is_grouped(plan, settings) and stream is None
    if grouped:
        reason = "given" if settings["group_by_length"] else f"{GROUPED_FROM:,} steps and more"
        say(f"batches of rows of like length ({reason})")
    mean_targets = sum(len(row["labels"]) for row in train_rows) / plan.steps_per_epoch
    window_steps = batching.window_steps(plan.steps_per_epoch) if grouped else 1
    feed = stream if stream is not None else Table(train_rows, settings["random_state"], window_steps)
    on_cpu = fast and device.type == "cpu"

    AcceleratorState._reset_state(reset_partial_state=True)  # a second run in this process may differ in precision
    mixed = precision if precision != "fp32" and not fast else "no"  # the fast engine does its own
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=mixed)
    adapter = [weight for weight in model.parameters() if weight.requires_grad]
    adamw = torch.optim.AdamW(
        adapter,
        lr=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        fused=fast and device.type in ("cpu", "cuda"),
    )
    shape = settings["lr_scheduler_type"].replace("constant", "constant_with_warmup")  # the plain one has none
    scheduler = get_scheduler(shape, adamw, plan.warmup_steps, plan.total_steps)
    prepared = accelerator.prepare_model(model, evaluation_mode=True)  # as for training, but never wrapped in DDP
    optimizer = accelerator.prepare_optimizer(adamw)

    def measure() -> None:
        """Validation loss of the adapter as it is; kept if it is the best so far."""
        started = time.perf_counter()
        batch_size = settings["per_device_eval_batch_size"]
        validation_loss = mean_loss(
            prepared, validation_rows, batch_size, pad_token_id, device, paths.forward, ranks, shards
        )
        state.log[-1]["validation_loss"] = validation_loss
        state.log[-1]["validation_seconds"] = round(time.perf_counter() - started, 6)
        if validation_loss < state.best_loss:
            state.best_loss, state.best_step, state.evaluations_without_gain = validation_loss, state.step, 0
            state.best_adapter = _copy(get_peft_model_state_dict(model, save_embedding_layers=False))
        else:
            state.evaluations_without_gain += 1
        show(state.log, model)
        prepared.train()

    def gradient(rows: Rows) -> float:
        """Our part of the mean loss of a step's rows; its gradient is in the adapter's weights."""
        lengths = [(len(row["labels"]), len(row["input_ids"])) for row in rows]
        share = batching.shares(range(len(rows)), lengths, ranks.size)[ranks.rank]
        shortest = min(range(len(rows)), key=lambda row: sum(lengths[row]))
        while True:
            most = state.rows_per_pass or settings["per_device_train_batch_size"]
            passes = batching.micro_batches(share, most)
            if on_cpu:
                passes = [few for part in passes for few in batching.by_budget(part, rows)]
            targets = sum(target for target, _ in lengths)  # of all ranks
            # Steps of short rows have fewer tokens than those of long ones: each token weighs the same in an epoch.
            weight = targets / mean_targets if grouped else 1.0
            step_loss, part = 0.0, []
            ranks.reseed(settings["random_state"], state.step)
            try:
                for number, (part, counts) in enumerate(shards.even(passes, [shortest])):
                    batch = batching.collate([rows[row] for row in part], pad_token_id, device)
                    paths.dice.begin(state.step, number)
                    mean_nll = paths.forward(prepared, batch).sum() / targets * counts
                    accelerator.backward(mean_nll * weight)
                    step_loss += mean_nll.item()
                return step_loss
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            batch = mean_nll = None  # whatever the pass still holds goes before anything else is tried
            optimizer.zero_grad()
            if not shards.on and paths.release():
                warn(f"step {state.step + 1}: no memory beside the recorded passes: kernels are launched one by one")
                continue
            few = [rows[row] for row in part]
            if not settings["auto_batch"] or len(few) == 1:
                # A pass that all ranks take part in can't be measured by one that is about to end.
                needed = None if shards.on else memory.needed_by(prepared, few, train_rows, pad_token_id, paths.forward)
                raise memory.out_of_memory(state.step + 1, few, most, needed, device)
            state.rows_per_pass = (len(few) + 1) // 2
            warn(
                f"step {state.step + 1}: no memory for {len(few)} rows in a pass; from here on {state.rows_per_pass}, "
                f"of {len(rows)} in a step as before (auto_batch)"
            )

    def now() -> Snapshot:
        ranks.check_same(adapter, state.step)
        return snapshot(model, adamw, scheduler, state)

    with ExitStack() as stack:
        stack.enter_context(shards.told())
        stop = stack.enter_context(finishing_the_step(checkpoints.on or ranks.size > 1))
        # Before anything is restored: the check of the fast engine must come out as it did in the first place.
        paths = _paths(stack, model, train_rows, settings, device, precision, pad_token_id, ranks, shards)
        checkpoints.check_space(bytes_of_checkpoint(model))
        ranks.as_the_first(adapter)
        before = checkpoints.newest(made_of)
        if ranks.size > 1:
            before = unpacked(ranks.from_the_first(packed(before)))
        if before is not None:
            restore(before, model, adamw, scheduler, state)
            state.resumed_at.append(state.step)
            state.changes += before.values["changes"]
            prepared.train()
        else:
            state.log.append({"step": 0, "epoch": 0.0})
            measure()
        advance("training", state.step, plan.total_steps, "steps", best_validation_loss=state.best_loss)
        while state.step < plan.total_steps and not state.stopped_early:
            for numbers, rows, place in feed.steps(state.epoch, state.place, plan.rows_per_step):
                started = time.perf_counter()
                step_loss = gradient(rows)
                (step_loss,) = ranks.sum(step_loss)
                ranks.sum_gradients(adapter)
                norm = accelerator.clip_grad_norm_(adapter, settings["max_grad_norm"] or math.inf)
                grad_norm = float(norm) if norm is not None else math.nan
                if not (math.isfinite(step_loss) and math.isfinite(grad_norm)):  # on all ranks, or on none
                    (kept,) = ranks.most(checkpoints.newest_step or 0)
                    raise _not_a_number(state.step + 1, step_loss, grad_norm, numbers, int(kept))
                learning_rate = scheduler.get_last_lr()[0]
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()

                tokens = sum(len(row["labels"]) + len(row["input_ids"]) for row in rows)
                seconds = time.perf_counter() - started
                state.step += 1
                state.place = place
                state.tokens += tokens
                state.seconds += seconds
                state.log.append(
                    {
                        "step": state.step,
                        "epoch": round(state.epoch + (state.step - state.epoch_began) / plan.steps_per_epoch, 4),
                        "loss": step_loss,
                        "learning_rate": learning_rate,
                        "grad_norm": grad_norm,
                        "tokens": tokens,
                        "seconds": round(seconds, 6),
                    }
                )
                if state.step % plan.eval_steps == 0 or state.step == plan.total_steps:
                    measure()
                    patience = settings["early_stopping_patience"]
                    state.stopped_early = 0 < patience <= state.evaluations_without_gain
                ended = state.step == plan.total_steps or state.stopped_early
                # Read once: a signal that comes later waits for the next step. What one rank was told, all do.
                number, due = (int(most) for most in ranks.most(stop.signal_number, checkpoints.due(state.step)))
                if number:
                    checkpoints.save_or_fail(now(), made_of)
                elif ended or due:
                    checkpoints.save_or_warn(now(), made_of)
                show(state.log)
                if number:
                    ranks.wait()  # until it is written
                    stop.obey(number)
                advance(
                    "training",
                    state.step,
                    plan.total_steps,
                    "steps",
                    loss=step_loss,
                    best_validation_loss=state.best_loss,
                )
                if ended:
                    break
            else:
                state.epoch, state.place, state.epoch_began = state.epoch + 1, [], state.step

    if state.best_step == 0:
        warn("training never lowered the validation loss: the adapter that is delivered is the untrained one")
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    set_peft_model_state_dict(model, state.best_adapter)
    model.eval()
    return state


def mean_loss(
    model: Any,
    rows: Rows,
    batch_size: int,
    pad_token_id: int,
    device: torch.device,
    forward: loss.Forward = loss.forward,
    ranks: Ranks = ALONE,
    shards: Shards = WHOLE,
) -> float:
    """Mean negative log-likelihood of a target token over the rows, in nats; dropout off. Ranks share the batches."""
    model.eval()
    nll, tokens = 0.0, 0.0
    lengths = [len(row["input_ids"]) + len(row["labels"]) for row in rows]
    batches = list(batching.by_length(lengths, batch_size))
    for part, counts in shards.even(batches[ranks.rank :: ranks.size], batches[-1][-1:]):
        batch = batching.collate([rows[row] for row in part], pad_token_id, device)
        row_nll, row_tokens = loss.row_losses(model, batch, forward)
        nll += counts * sum(row_nll)
        tokens += counts * sum(row_tokens)
    nll, tokens = ranks.sum(nll, tokens)
    if not math.isfinite(nll):
        raise RunError("the validation loss is not a number", mend="Try --precision fp32 or a lower --learning-rate.")
    return nll / tokens


def _paths(
    stack: ExitStack,
    model: PeftModel,
    rows: Rows,
    settings: dict[str, Any],
    device: torch.device,
    precision: str,
    pad_token_id: int,
    ranks: Ranks,
    shards: Shards,
) -> speed.FastPaths:
    """The engine that was asked for, entered into ``stack``; the plain one where the fast one disagrees with it."""
    seed = ranks.seed(settings["random_state"])
    plain = speed.FastPaths(shards.forward(loss.forward), speed.Dice(seed))
    if settings["engine"] != "fast":
        return plain
    shortest = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]) + len(rows[row]["labels"]))[:2]
    few = batching.collate([rows[row] for row in shortest], pad_token_id, device)
    model.eval()
    forward = speed.under_autocast(loss.forward, device) if precision == "bf16" else loss.forward
    with torch.inference_mode():
        expected = forward(model, few)
    with ExitStack() as trial:
        paths = trial.enter_context(speed.fast_paths(model, device=device, precision=precision, seed=seed))
        if speed.agrees(model, few, expected, paths, precision):
            stack.push(trial.pop_all())
            return paths
    warn(
        f"the fast engine does not compute this {type(model.get_base_model()).__name__} right: the plain one trains it"
    )
    return speed.FastPaths(forward, plain.dice)


def _not_a_number(step: int, step_loss: float, grad_norm: float, rows: Sequence[int], kept: int) -> RunError:
    state = f"The state of step {kept} is kept, but from there " if kept else "Nothing was delivered: "
    return RunError(
        f"step {step}: the training loss is {step_loss} and the length of the gradient {grad_norm}",
        [f"rows of the training set in this step: {', '.join(str(row + 1) for row in sorted(rows))}"],
        f"{state}the step would fail again. Try a lower --learning-rate, or --precision fp32, in another --out.",
    )


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
