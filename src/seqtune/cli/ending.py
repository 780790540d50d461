"""How a command ends: exit status, errors without a traceback, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from seqtune.cli.app import seqtune
from seqtune.errors import SeqtuneError


class Stopped(BaseException):
    """Ctrl-C, SIGTERM or SIGHUP: unwinds everything, so that temporary folders go."""

    def __init__(self, signal_number: int):
        self.status = 128 + signal_number
        self.text = "stopped"


def main() -> None:
    """Run the command line; errors of ours are printed without a traceback."""
    _unwind_on_signals()
    try:
        seqtune.main(prog_name="seqtune", standalone_mode=False)
        sys.stdout.flush()
    except SeqtuneError as error:
        _fail(str(error), error.exit_status)
    except click.exceptions.NoArgsIsHelpError as error:
        _fail(error.format_message(), error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        usage = f"{context.get_usage()}\n{_try_help(context)}\n\n" if context is not None else ""
        _fail(f"{usage}{error.format_message()}", error.exit_code)
    except (Stopped, KeyboardInterrupt, click.exceptions.Abort) as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT)
        behind_echo = "\n" if stopped.status == 130 and sys.stderr.isatty() else ""  # the terminal has shown ^C
        _fail(behind_echo + stopped.text, stopped.status)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(text: str, status: int) -> NoReturn:
    from seqtune.terminal import clean

    for number in (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])):
        if signal.getsignal(number) != signal.SIG_IGN:  # all is unwound: one that comes now may end us at once
            signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # the terminal may be gone
        click.echo(clean(text), err=True)
    sys.exit(status)


def _try_help(context: click.Context) -> str:
    return f"`{context.command_path} --help` lists the options."


def _unwind_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise `Stopped`, unless whoever started us wants it otherwise (nohup)."""

    def unwind(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):  # the terminal was closed
        usual[signal.SIGHUP] = signal.SIG_DFL
    for number, handler in usual.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, unwind)
