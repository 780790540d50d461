"""ROUGE of a run's answers in fp32, in bf16 and as the run has settled it, on its own rows: what bf16 costs.

python benchmarks/answer_precision.py runs/demo [runs/other …]
"""

from __future__ import annotations

import sys
from typing import Any

import seqtune
from seqtune import metrics


def main() -> None:
    print("| run | rows | precision | ROUGE-1 | ROUGE-L | chrF | exact match | rows as in fp32 |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    for path in sys.argv[1:]:
        run = seqtune.Run(path)
        for split, rows in run.predictions.items():
            references = [row.get("references", [row["reference"]]) for row in rows]
            words = run.manifest["settings"]["rouge_tokenizer"]
            answers: dict[str, list[str]] = {}
            for precision in ("fp32", "bf16", "auto"):
                model: Any = seqtune.load(path, device_type="cpu")
                if precision != "auto":
                    model.settings["answer_precision"] = precision
                shown_as = precision if precision != "auto" else f"auto ({model.answerer.precision})"
                answers[precision] = model.generate([row["input"] for row in rows])
                scores = metrics.set_scores(answers[precision], references, words)
                same = sum(a == b for a, b in zip(answers["fp32"], answers[precision], strict=True))
                shown = " | ".join(f"{scores[name]:.2f}" for name in ("rouge1", "rougeL", "chrf", "exact_match"))
                print(f"| {run.path.name}, {split} | {len(rows)} | {shown_as} | {shown} | {same} |", flush=True)


if __name__ == "__main__":
    main()
