"""The command line.

No logic: options are made from `seqtune.settings`, the work is done by `seqtune.api` and the dataflow.

Results go to standard output, everything else to standard error. Exit status: 0 done, 1 the run failed, 2 bad usage or
bad input, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by the closing of the terminal.

Heavy imports stand inside the commands: ``--help`` and errors must not wait for PyTorch. A module holds commands of one
kind; importing it adds them to the group. `app.ORDER` is the order in the help.
"""

from seqtune.cli import (
    asking,
    checking,
    comparing,
    exporting,
    publishing,
    serving,
    showing,
    sweeping,
    training,
)  # each adds its commands
from seqtune.cli.app import seqtune
from seqtune.cli.ending import main

__all__ = [
    "asking",
    "checking",
    "comparing",
    "exporting",
    "main",
    "publishing",
    "seqtune",
    "serving",
    "showing",
    "sweeping",
    "training",
]
