"""Turn a checkpoint into the packaged model: bfloat16 weights, configuration, tokenizer and model card.

The files are written to a folder beside the target and renamed one by one, so that a reader never sees half a file.
Before that the folder is loaded the way users load it, by plain AutoTokenizer and AutoModelForSeq2SeqLM.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from model import HEAD_WIDTH, Size, new_model
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

CARD = Path(__file__).with_name("model_card.md")
LARGEST = 24_000_000  # bytes of weights; the package is meant to stay small
DEFAULT_OUT = Path(__file__).resolve().parents[2] / "src" / "seqtune" / "models" / "seqtune_mini"


def figures(run: Path) -> dict[str, str]:
    """What the model card reports: the size of the run and its last measurements, read from log.jsonl."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = next((row for row in reversed(rows) if "held" in row), {})
    last = rows[-1]
    shown = {
        "steps": f"{last['step']:,}",
        "tokens": f"{last['tokens'] / 1e6:.1f} million",
        "minutes": f"{last['seconds'] / 60:.0f}",
        "copy_exact": f"{100 * measured['copy_exact']:.0f} %" if measured else "not measured",
    }
    for name in ("held", "held_span", "held_continue", "held_dialogue", "held_trivia", "held_copy"):
        shown[name] = f"{measured[name]:.2f}" if measured else "not measured"
    return shown


def write(run: Path, tokenizer_folder: Path, folder: Path) -> None:
    """Write all files of the package to `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    choices = json.loads((run / "choices.json").read_text(encoding="utf-8"))
    model = new_model(tokenizer, Size(**{name: choices[name] for name in Size.__dataclass_fields__}))
    weights = load_file(run / "checkpoint" / "model.safetensors")
    model.load_state_dict(weights, strict=False)  # not strict: the tied copies of the embedding are not in the file
    absent = set(dict(model.named_parameters())) ^ set(weights)
    if absent:
        raise SystemExit(f"checkpoint and model differ in {sorted(absent)}")
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder / name, folder / name)
    size = (folder / "model.safetensors").stat().st_size
    count = sum(weight.numel() for weight in weights.values())
    shown = figures(run) | choices | {"parameters": f"{count / 1e6:.2f} million", "megabytes": f"{size / 1e6:.1f}"}
    shown |= {"heads": choices["width"] // HEAD_WIDTH, "denoisers": choices["denoisers"].upper()}
    shown["matrices_by"] = {"muon": "Muon", "adamw": "AdamW"}[choices["matrices_by"]]
    (folder / "README.md").write_text(CARD.read_text(encoding="utf-8").format(**shown), encoding="utf-8")
    if size > LARGEST:
        raise SystemExit(f"the weights take {size:,} bytes, more than {LARGEST:,}")


def check(folder: Path) -> str:
    """Load the folder as users do and let it answer once; the answer is returned for a look."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    text = "Line one:\n\t{{Order Number}}  costs $ 12.50 – naïve?\r\n"
    if tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) != text:
        raise SystemExit("the tokenizer does not give a text back exactly")
    inputs = tokenizer("I need a table for two people at half past seven.", return_tensors="pt")
    return tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the --out folder of train.py")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the --out folder of tokenizer.py")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the packaged model")
    args = parser.parse_args()
    temporary = args.out.with_name(args.out.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(args.run, args.tokenizer, temporary)
    print("answer:", check(temporary))
    args.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(temporary.iterdir()):
        path.chmod(0o644)  # safetensors writes for the owner only
        print(f"{path.stat().st_size:>12,}  {path.name}")
        path.replace(args.out / path.name)
    temporary.rmdir()


if __name__ == "__main__":
    main()
