"""Asks an export's ``load.py`` for its token ids, texts or probabilities: python -P llamacpp.py LOAD.PY WHAT.

Run by `gguf` as a process of its own, for llama.cpp ends the process where it dislikes something; so nothing of seqtune
is imported. JSON in and out: a list of what is asked, a list of what is found.
"""

from __future__ import annotations

import json
import runpy
import sys
from typing import Any

import numpy as np
from cyllama.llama import llama_cpp


class Model(llama_cpp.LlamaModel):
    """With the size of its vocabulary, which cyllama 0.2.18 asks for and doesn't have when logits are wanted."""

    @property
    def n_vocab(self) -> int:
        """How many tokens there are."""
        return self.get_vocab().n_vocab


def log_probs(loaded: dict[str, Any], source: list[int], answer: list[int], start: int) -> list[float]:
    """The log-probability of each token of an answer."""
    context, found = loaded["begun"](source), []
    for position, (before, token) in enumerate(zip([start, *answer[:-1]], answer, strict=True)):
        loaded["go_on"](context, before, position)
        logits = np.array(context.get_logits_ith(-1), dtype=np.float64)
        logits -= logits.max()
        found.append(float(logits[token] - np.log(np.exp(logits).sum())))
    return found


def main(load: str, what: str) -> None:
    """Answer what stands on the standard input."""
    llama_cpp.LlamaModel = Model
    loaded = runpy.run_path(load, run_name="export")
    given, *further = json.load(sys.stdin)
    if what == "log_probs":
        found = [log_probs(loaded, source, answer, *further) for source, answer in given]
    elif what == "tokens":
        found = loaded["tokens"](given)
    else:
        found = [loaded[what](each) for each in given]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
