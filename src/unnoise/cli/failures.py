"""How a command ends when something goes wrong: one sentence on the standard error stream, and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

from ..errors import Problem

PACKAGE = str(Path(__file__).parents[1])


class Terminated(BaseException):
    """SIGTERM came outside of the training loop, which has its own way with it."""


def told(command: Callable[[], int], debug: bool = False) -> int:
    """What `command` returns, or the exit code of its failure, told in one sentence unless `debug`."""
    try:
        with _quiet(debug), _terminable():
            code = command()
            sys.stdout.flush()  # a reader that has gone is noticed here, not at exit
            return code
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BrokenPipeError:  # `unnoise papers | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except BaseException as error:
        if debug:
            raise
        sentence, code = _sentence(error)
        if not int(os.environ.get("RANK", "0")):  # of several processes, the first tells
            print(f"unnoise: {sentence}", file=sys.stderr)
        return code


def _sentence(error: BaseException) -> tuple[str, int]:
    if isinstance(error, Problem):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped", 128 + signal.SIGINT
    if isinstance(error, Terminated):
        return "stopped", 128 + signal.SIGTERM
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    if isinstance(error, MemoryError) or "out of memory" in first or "can't allocate memory" in first:
        return "there is not enough memory; lower --batch-size, or take a smaller network or --size", 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        remedy = (
            "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that, or name another place"
        )
        return f"{where}{error.strerror or error}; {remedy}", 1
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return f"unexpected {what}; this is a fault of unnoise: run again with --debug to see where, and report it", 1


class _quiet:
    """Inside, warnings of this package are told as sentences, and those of libraries not at all."""

    def __init__(self, debug: bool):
        self.debug, self.caught = debug, warnings.catch_warnings()

    def __enter__(self):
        self.caught.__enter__()
        if not self.debug:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=UserWarning, module=r"unnoise\b")
            warnings.showwarning = self._show

    def __exit__(self, *error):
        self.caught.__exit__(*error)

    def _show(self, message, category, filename, lineno, file=None, line=None):
        if filename.startswith(PACKAGE):
            print(f"unnoise: warning: {message}", file=sys.stderr)


class _terminable:
    """Inside, SIGTERM unwinds as Ctrl-C does, so that nothing is left half-written."""

    def __enter__(self):
        self.before = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._hear)

    def __exit__(self, *_):
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def _hear(self, number, _frame):
        raise Terminated
