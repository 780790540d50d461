"""Fine-tune a language model on your own question–answer pairs, on the computer you have.

```python
import seqtune

run = seqtune.finetune("support.json", input_text_key="question", output_text_key="reply")
run.metrics, run.verdict
model = seqtune.load(run.path)
model.generate(["How do I reset it?"])
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from seqtune.errors import InputError, RunError, SeqtuneError

if TYPE_CHECKING:
    from seqtune.api import TunedModel, evaluate, finetune, load, rerun, resume
    from seqtune.driver import build_driver, modules
    from seqtune.run import Run

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Run",
    "RunError",
    "SeqtuneError",
    "TunedModel",
    "build_driver",
    "evaluate",
    "finetune",
    "load",
    "modules",
    "rerun",
    "resume",
]

# PyTorch and transformers take seconds to import: only when one of these is used.
_HOMES = {
    "TunedModel": "seqtune.api",
    "evaluate": "seqtune.api",
    "finetune": "seqtune.api",
    "load": "seqtune.api",
    "rerun": "seqtune.api",
    "resume": "seqtune.api",
    "build_driver": "seqtune.driver",
    "modules": "seqtune.driver",
    "Run": "seqtune.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seqtune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
