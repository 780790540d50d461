"""Every knob, declared once: name, type, default, bounds, unit, one line of help.

The nodes of the dataflow take their defaults from `DEFAULT`; the command line, a ``--config`` file, the JSON Schema
(`Settings.model_json_schema()`) and the table in the documentation are made from `Settings`. Names are those of
transformers and PEFT where these have one. ``None`` means "derived": the help says from what, and the run prints the
value with the reason.

Not covered: what a knob *does*; that stands at the node or function that takes it.
"""

from __future__ import annotations

import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seqtune.errors import InputError, did_you_mean

#: The groups of knobs, in the order in which a row of data meets them.
GROUPS = ("data", "model", "tokenization", "finetuning", "evaluation", "delivery")


def knob(default: Any, help: str, *, group: str, unit: str = "", derived: str = "", **bounds: Any) -> Any:
    """A field of `Settings`.

    Args:
        default: the value when nothing is given; None where it is derived.
        help: one line, shown by ``--help`` and in the documentation.
        group: one of `GROUPS`.
        unit: what the number counts ("rows", "tokens").
        derived: for a default of None, what stands in for it, in words.
        **bounds: pydantic's: ``ge``, ``gt``, ``le``, ``lt``, ``min_length``, ``pattern``.
    """
    return Field(
        default, description=help, json_schema_extra={"group": group, "unit": unit, "derived": derived}, **bounds
    )


class Settings(BaseModel):
    """All knobs of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    # fmt: off
    data_path: str | None = knob(None, "Question-answer file (JSON, JSON Lines, CSV, TSV, Parquet), saved dataset folder, or dataset id of the Hugging Face hub.", group="data", derived="required; with start=presaved the run's own", min_length=1)
    input_text_key: str = knob("question", "Key of the input text in each row; dots reach into nested objects (message.text).", group="data", min_length=1)
    output_text_key: str = knob("reply", "Key of the target text in each row; dots reach into nested objects.", group="data", min_length=1)
    dataset_split: str = knob("train", "Which split of a hub dataset or saved dataset folder to read.", group="data", min_length=1)
    encoding: str = knob("auto", "Encoding of files of text: auto is UTF-8, or UTF-16 where the file shows it; windows-1252, latin-1 and others are converted when named.", group="data", min_length=1)
    validation_path: str | None = knob(None, "Your own validation file, instead of a share of data_path.", group="data", derived="split off data_path", min_length=1)
    hold_out_path: str | None = knob(None, "Your own hold-out file, instead of a share of data_path.", group="data", derived="split off data_path", min_length=1)
    on_bad_rows: Literal["fail", "skip"] = knob("fail", "What to do with rows that can't be used: stop and list them, or leave them out.", group="data")
    values_as_text: bool = knob(False, "Take numbers and booleans as text (42, true), rather than as rows that can't be used.", group="data")
    mask: Literal["none", "secrets", "all"] = knob("none", "What to mask in questions and answers before anything is trained: keys that look like secrets; all: e-mail addresses and phone numbers too.", group="data")
    max_samples: int | None = knob(None, "Use only this many rows of data_path, chosen by random_state.", group="data", unit="rows", derived="all", ge=3)
    near_duplicate_threshold: float = knob(0.7, "Questions that share this much of their text (pieces of four characters, Jaccard) are near-duplicates and stay in one set; 1: only the same question does.", group="data", ge=0.5, le=1)
    streaming: bool = knob(False, "Read the training rows as they are needed, from a folder of Parquet or JSON Lines files; a sample of it is validation and hold-out.", group="data")
    shuffle_buffer: int = knob(50_000, "With streaming: rows that are held and shuffled together.", group="data", unit="rows", ge=1)
    train_size: float = knob(0.8, "Share of the rows to train on.", group="data", gt=0, lt=1)
    validation_size: float | None = knob(None, "Share of the rows to choose the best adapter by.", group="data", derived="half of what train_size leaves, or all that is left when hold_out_size is given", gt=0, lt=1)
    hold_out_size: float | None = knob(None, "Share of the rows kept for the final score.", group="data", derived="half of what train_size leaves, or all that is left when validation_size is given", gt=0, lt=1)
    random_state: int = knob(42, "Seed of the splits, the order of the batches, dropout, the adapter's first weights and sampling.", group="data", ge=0, lt=2**32)

    model_id: str | None = knob(None, "Base model: a hub id, a local folder, or seqtune-mini (embedded, needs no network).", group="model", derived="google/flan-t5-small, or model_id_tokenizer when that is given alone", min_length=1)
    model_id_tokenizer: str | None = knob(None, "Tokenizer, where it is not the base model's own.", group="model", derived="model_id", min_length=1)
    model_revision: str | None = knob(None, "Branch, tag or commit of the base model on the hub.", group="model", derived="main", min_length=1)
    load_in_4bit: bool = knob(False, "Keep the base model's linear layers in 4 bits (QLoRA: NF4, double quantization): less memory, slower; meant for a GPU. Needs seqtune[qlora].", group="model")
    device_type: Literal["auto", "cpu", "cuda", "mps"] = knob("auto", "Where to compute: the best there is, or this one.", group="model")

    input_template: str = knob("{question}", "Text given to the model for each input, for instance 'answer the question: {question}'.", group="tokenization", pattern=r"\{question\}")
    preserve_characters: bool = knob(False, "Give characters that the tokenizer can't give back ({ or line breaks with T5) pieces of their own, and train these with the adapter.", group="tokenization")
    max_source_length: int | None = knob(None, "Longest input; longer ones are cut, and it is said how many.", group="tokenization", unit="tokens", derived="what the model takes (1,024 where it has no limit)", ge=2)
    max_target_length: int | None = knob(None, "Longest target in training; longer ones are cut, and it is said how many.", group="tokenization", unit="tokens", derived="what the model takes (1,024 where it has no limit)", ge=2)

    lora_r: int = knob(16, "Rank of the LoRA update.", group="finetuning", ge=1)
    lora_alpha: float = knob(32.0, "Scale of the LoRA update: alpha/r, or alpha/sqrt(r) with use_rslora.", group="finetuning", gt=0)
    lora_dropout: float = knob(0.05, "Dropout on the input of the LoRA update.", group="finetuning", ge=0, lt=1)
    target_modules: str | None = knob(None, "Modules to adapt, separated by commas (q,v), or all-linear.", group="finetuning", derived="query and value projections of the attention", min_length=1)
    use_dora: bool = knob(False, "Weight-decomposed LoRA (DoRA).", group="finetuning")
    use_rslora: bool = knob(False, "Rank-stabilised LoRA.", group="finetuning")
    seeds: int = knob(1, "Train this many times, with random_state and the seeds after it: the spread of training itself counts in the verdict. The first adapter is kept.", group="finetuning", unit="trainings", ge=1, le=100)
    num_train_epochs: float = knob(3.0, "Passes over the training rows.", group="finetuning", unit="epochs", gt=0)
    max_steps: int | None = knob(None, "Optimizer steps; overrides num_train_epochs.", group="finetuning", unit="steps", derived="from num_train_epochs", ge=1)
    minutes: float | None = knob(None, "Fit the whole run into this time: a rehearsal finds out how many steps do; never more than num_train_epochs.", group="finetuning", unit="minutes", derived="as long as it takes", gt=0)
    learning_rate: float = knob(1e-3, "Peak learning rate of AdamW.", group="finetuning", gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = knob("linear", "Shape of the learning rate after the warm-up.", group="finetuning")
    warmup_steps: float = knob(0.05, "Steps of rising learning rate; below 1, a share of all steps.", group="finetuning", unit="steps", ge=0)
    weight_decay: float = knob(0.0, "AdamW's decoupled weight decay.", group="finetuning", ge=0)
    max_grad_norm: float = knob(1.0, "Gradients longer than this are scaled down to it; 0 turns it off.", group="finetuning", ge=0)
    per_device_train_batch_size: int = knob(8, "Rows of a forward and backward pass.", group="finetuning", unit="rows", ge=1)
    gradient_accumulation_steps: int = knob(1, "Passes an optimizer step; the gradient is the mean over their target tokens.", group="finetuning", unit="passes", ge=1)
    auto_batch: bool = knob(False, "Where memory runs out, halve the rows of a pass and go on, with the same rows a step.", group="finetuning")
    eval_steps: int | None = knob(None, "Steps between two measurements of the validation loss.", group="finetuning", unit="steps", derived="half an epoch, but 20 measurements a run at most", ge=1)
    early_stopping_patience: int = knob(5, "Stop after this many measurements without a better validation loss; 0 never stops early.", group="finetuning", unit="measurements", ge=0)
    group_by_length: bool | None = knob(None, "Batches of rows of like length: less padding, a quarter faster, at a slightly higher loss.", group="finetuning", derived="with the fast engine, in runs of 2,000 steps and more")
    precision: Literal["auto", "fp32", "bf16"] = knob("auto", "Arithmetic of training's products: auto is bf16 where the GPU or CPU has units for it. Adapter, optimizer and losses are always fp32.", group="finetuning")
    engine: Literal["fast", "reference"] = knob("fast", "fast: the measured short cuts of seqtune.engine.speed; reference: the plain path, to compare with.", group="finetuning")
    shard_base: bool = knob(False, "With several processes: each holds a share of the frozen base model (FSDP2), for one that no single device holds.", group="finetuning")

    max_eval_rows: int = knob(500, "Rows of the validation and of the hold-out set that both models answer, chosen by random_state.", group="evaluation", unit="rows", ge=1)
    per_device_eval_batch_size: int = knob(16, "Rows answered or scored together.", group="evaluation", unit="rows", ge=1)
    max_new_tokens: int | None = knob(None, "Longest answer.", group="evaluation", unit="tokens", derived="the longest training target and a quarter more, at most 512", ge=1)
    num_beams: int = knob(1, "Beams of the search for an answer; 1 is greedy.", group="evaluation", ge=1)
    do_sample: bool = knob(False, "Draw answers at random (seeded by random_state) instead of taking the likeliest.", group="evaluation")
    temperature: float = knob(1.0, "Flatness of the distribution that do_sample draws from.", group="evaluation", gt=0)
    top_k: int = knob(50, "do_sample draws from this many likeliest tokens; 0 is all.", group="evaluation", ge=0)
    top_p: float = knob(1.0, "do_sample draws from the likeliest tokens that together have this probability.", group="evaluation", gt=0, le=1)
    answer_precision: Literal["auto", "fp32", "bf16"] = knob("auto", "Arithmetic of the products when answers are written: auto is bf16 where the GPU or CPU has units for it and ROUGE-L of the validation rows stays within 0.3 points of fp32's; fp32 gives transformers' tokens. The losses are fp32 in any case.", group="evaluation")
    rouge_tokenizer: Literal["auto", "english", "unicode"] = knob("auto", "Words of ROUGE: Google's (a-z and 0-9, stemmed) or any script's.", group="evaluation")
    metric: str | None = knob(None, "Functions of your own that score an answer, module:function, separated by commas; runs their code. Each takes (prediction, references) and gives a number.", group="evaluation", derived="none", min_length=1)
    similarity_model: str | None = knob(None, "Encoder for embedding similarity and BERTScore: a local folder, or a hub id that is in the cache.", group="evaluation", derived="none: these two are not scored", min_length=1)
    bootstrap_samples: int = knob(10_000, "Resamples of the paired bootstrap behind the interval of every lift.", group="evaluation", ge=100)

    out: str | None = knob(None, "The run directory to write.", group="delivery", derived="runs/NAME-OF-THE-FILE, with a number where that is taken", min_length=1)
    overwrite: bool = knob(False, "Replace the run that is in `out`.", group="delivery")
    report_text: Literal["none", "sample", "all"] = knob("none", "Whose questions and answers stand in report.html: nobody's (it can open the predictions files beside it), those of some telling rows, or all that have room.", group="delivery")
    save_steps: int | None = knob(None, "Steps between two checkpoints, besides those by the clock.", group="delivery", unit="steps", derived="by the clock alone (save_minutes)", ge=1)
    save_minutes: float = knob(5.0, "Minutes between two checkpoints; 0 makes none by the clock. The end of training and a signal make one too.", group="delivery", unit="minutes", ge=0)
    checkpoints_path: str | None = knob(None, "Folder in which training keeps its state, and goes on from it.", group="delivery", derived="OUT/checkpoints; in a dataflow of your own none", min_length=1)
    allow_changed: bool = knob(False, "Go on with a stopped run although its data, base model or settings are no longer the same.", group="delivery")
    adapter_path: str | None = knob(None, "With start=presaved: a run directory, or an adapter folder in PEFT's format.", group="delivery", derived="required with start=presaved", min_length=1)
    work_dir: str | None = knob(None, "Where trained adapters are kept (each under its SHA-256; they may be deleted when delivered).", group="delivery", derived="$XDG_CACHE_HOME/seqtune or ~/.cache/seqtune; a temporary folder on the command line", min_length=1)
    # fmt: on


DEFAULT = Settings()


#: Settings of the dataflow that choose nodes rather than feed them (Hamilton's config).
STARTS = ("base", "presaved")


_TYPE_WORDS = {int: "a whole number", float: "a number", bool: "yes or no", str: "text"}
_BOUND_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Knob:
    """What is known of one knob, for the command line and the tables."""

    name: str
    type: Any
    default: Any
    derived: str
    unit: str
    help: str
    group: str
    bounds: dict[str, Any]

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a Literal; empty for any other type."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()

    @property
    def type_name(self) -> str:
        """The type in words: ``int``, ``float``, ``fail | skip``."""
        return " | ".join(self.choices) or self.type.__name__

    @property
    def bounds_text(self) -> str:
        """The bounds in words: ``at least 1``, ``above 0, below 1``; empty where there are none."""
        return ", ".join(f"{word} {self.bounds[name]:,}" for name, word in _BOUND_WORDS.items() if name in self.bounds)

    @property
    def expected(self) -> str:
        """What it takes, in words: ``a whole number, at least 1``, ``auto, fp32 or bf16``."""
        if self.choices:
            return " or ".join([", ".join(self.choices[:-1]), self.choices[-1]])
        if "pattern" in self.bounds:
            return "text with " + self.bounds["pattern"].replace("\\", "")
        return ", ".join(part for part in (_TYPE_WORDS[self.type], self.bounds_text) if part)

    @property
    def default_text(self) -> str:
        """The default as a person reads it; what stands in for a derived one."""
        if self.default is None:
            return self.derived or "none"
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def knobs(of: type[BaseModel] = Settings) -> dict[str, Knob]:
    """All knobs by name, in the order of declaration; of a run, or of another class that declares knobs."""
    table = {}
    for name, field in of.model_fields.items():
        extra = typing.cast(dict[str, str], field.json_schema_extra)
        table[name] = Knob(
            name=name,
            type=_without_none(field.annotation),
            default=field.default,
            derived=extra["derived"],
            unit=extra["unit"],
            help=field.description or "",
            group=extra["group"],
            bounds={
                bound: getattr(rule, bound)
                for rule in field.metadata
                for bound in (*_BOUND_WORDS, "min_length", "pattern")
                if getattr(rule, bound, None) is not None
            },
        )
    return table


def validated(given: Mapping[str, Any], of: type[BaseModel] = Settings) -> dict[str, Any]:
    """The given knobs, checked and converted (``"0.001"`` to a number, a path to text); the others are left out.

    Raises:
        InputError: naming every unknown knob and every value that it does not take at once.
    """
    known = knobs(of)
    problems = [f"{name} is no setting   {did_you_mean(name, known)}".rstrip() for name in given if name not in known]
    candidates = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in given.items()
        if name in known
    }
    # pydantic takes True for 1, and so `lora_r: yes` in YAML.
    bad = {name for name, value in candidates.items() if isinstance(value, bool) and known[name].type is not bool}
    values: dict[str, Any] = {}
    try:
        checked = of.model_validate({name: value for name, value in candidates.items() if name not in bad})
        values = {name: getattr(checked, name) for name in candidates}
    except ValidationError as error:
        bad.update(str(problem["loc"][0]) for problem in error.errors())
    problems += [f"{_found(name, candidates[name])}   expected {known[name].expected}" for name in known if name in bad]
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        raise InputError(
            f"settings: {len(problems)} {noun}",
            problems,
            f"`seqtune {'inputs' if of is Settings else 'serve --help'}` lists all settings with their types and bounds.",
        )
    return values


def _found(name: str, value: Any) -> str:
    """A value that was refused, as a person reads it: ``lora_r = 1.5``, ``lora_r is empty``."""
    if value is None or value == "":
        return f"{name} is empty"
    text = ("yes" if value else "no") if isinstance(value, bool) else repr(value)
    return f"{name} = {text[:57] + '…' if len(text) > 58 else text}"


def resolved(saved: Mapping[str, Any] | None, given: Mapping[str, Any], required: Iterable[str] = ()) -> dict[str, Any]:
    """For each knob of ``given``: its value; where that is None the saved run's; where there is none the default.

    Raises:
        InputError: as `validated`; or a ``required`` one has no value in either.
    """
    fallback = {**DEFAULT.model_dump(), **((saved or {}).get("settings") or {})}
    values = validated({name: fallback.get(name) if value is None else value for name, value in given.items()})
    missing = [f"{name} is needed   {knobs()[name].help}" for name in required if values[name] is None]
    if missing:
        raise InputError("settings: the saved adapter does not say them", missing)
    return values


def read_config(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML or TOML file, checked.

    Raises:
        InputError: the file is missing, can't be read as YAML or TOML, holds no mapping, or has unknown or bad settings.
    """
    path = Path(path)
    if not path.is_file():
        hint = did_you_mean(path.name, sorted(each.name for each in path.parent.glob("*")))
        raise InputError(
            f"{path}: no such file" + (f"; {hint}" if hint else ""),
            mend="--config takes a YAML (.yaml, .yml) or TOML (.toml) file.",
        )
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
        content: Any = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        mend = "Expected YAML, or TOML in a file named .toml."
        raise InputError(f"{path}: can't be read", [_reason(error)], mend) from None
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        found = f"{type(content).__name__}" if not isinstance(content, dict) else "a name that is no text"
        raise InputError(
            f"{path}: expected settings with their values, found {found}",
            mend="One setting a line, for instance `lora_r: 16`.",
        )
    nested = [name for name, value in content.items() if isinstance(value, dict)]
    if nested:
        raise InputError(
            f"{path}: settings stand side by side, not one inside another",
            [f"{name} holds {', '.join(map(str, content[name])) or 'nothing'}" for name in nested],
            "One setting a line, for instance `lora_r: 16`.",
        )
    try:
        return validated({key.replace("-", "_"): value for key, value in content.items()})
    except InputError as error:
        raise InputError(f"{path}: {error.headline}", error.details, error.mend) from None


def _reason(error: Exception) -> str:
    """Why a file can't be read, in a line with the place."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'not YAML'}"
    return (str(error) or type(error).__name__).splitlines()[0]


def of_group(names: Iterable[str]) -> list[Knob]:
    """The knobs of the given groups, in order."""
    wanted = set(names)
    return [each for each in knobs().values() if each.group in wanted]


def _without_none(annotation: Any) -> Any:
    """``int`` for ``int | None``; anything else as it is."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        (only,) = (part for part in typing.get_args(annotation) if part is not type(None))
        return only
    return annotation
