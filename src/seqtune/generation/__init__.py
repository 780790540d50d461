"""Answers of a model, fast: what evaluation, `predict` and `seqtune.load` call, and a server can.

| file | what |
|---|---|
| `answering` | a model made ready to answer (`Answerer`); the answers of many rows |
| `session` | answers being written side by side, that come and go at any step |
| `wishes` | the knobs of transformers' ``generate`` and what they do to the scores |
| `beams` | the search with beams, for one question |
| `blueprint` | what a decoder is made of, the same for every family |
| `compiled`, `plain` | a decoder's step: one call of native code; PyTorch alone |
| `limits`, `losses` | how long an answer may be; what a model makes of given answers |
"""

from seqtune.generation.answering import GENERATE_KNOBS, Answerer, answer
from seqtune.generation.limits import LONGEST_ANSWER, with_token_limit
from seqtune.generation.losses import pad_token_id, score
from seqtune.generation.session import Answer, Session
from seqtune.generation.wishes import Wishes

__all__ = [
    "GENERATE_KNOBS",
    "LONGEST_ANSWER",
    "Answer",
    "Answerer",
    "Session",
    "Wishes",
    "answer",
    "pad_token_id",
    "score",
    "with_token_limit",
]
