"""Draw the held-out losses of a run, and its copying score, from its log: an SVG. Needs matplotlib.

python curve.py logs/main.jsonl ../../docs/seqtune-mini.svg
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

SHOWN = {
    "held_continue": "continuation",
    "held_trivia": "trivia answer",
    "held_span": "span corruption",
    "held_dialogue": "dialogue reply",
    "held_copy": "copying",
}


def draw(log: Path, target: Path) -> None:
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    measured = [row for row in rows if "held" in row]
    millions = [row["tokens"] / 1e6 for row in measured]
    mpl.rcParams.update({"svg.hashsalt": "seqtune-mini", "font.size": 9})  # the same file for the same log
    figure, (losses, copying) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, label in SHOWN.items():
        losses.plot(millions, [row[name] for row in measured], label=label)
    losses.set(xlabel="million pieces", ylabel="held-out loss, nats a piece", ylim=(0, None))
    losses.legend(frameon=False)
    copying.plot(millions, [100 * row["copy_exact"] for row in measured], color="black")
    copying.set(xlabel="million pieces", ylabel="copied without a fault, %", ylim=(0, 100))
    for axes in (losses, copying):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    draw(given.log, given.target)
