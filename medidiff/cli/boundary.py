"""Where errors end: one line for a person, one exit code for a script."""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TextIO

from medidiff.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    ConfigError,
    DicomSeriesError,
    GateRefused,
    MedidiffError,
    OutputError,
)

# Set by the application's options.
debug = False

_OUTPUT_PROBLEMS = {
    errno.ENOSPC: "no room left on the device: free some, or choose another place with --output",
    errno.EDQUOT: "the disk quota is used up: free some, or choose another place with --output",
    errno.EFBIG: "no room for a file of this size: allow larger ones, or choose another place with --output",
    errno.EROFS: "the file system is read-only: choose another place with --output",
    errno.EACCES: "permission denied: change the permissions, or choose another place",
    errno.EPERM: "operation not permitted: change the permissions, or choose another place",
}


def run(command: Callable[[], object]) -> int:
    """Call the application and return the process's exit code; every error has been printed on stderr.

    An interrupt (Ctrl-C) and a polite request to end (SIGTERM) both unwind the stack, so that temporary files are
    removed, and both end with ``EXIT_INTERRUPTED``.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    warnings.showwarning = _show_warning
    try:
        command()
    except SystemExit as leave:
        code = _code(leave)
        if code == EXIT_INTERRUPTED:
            _say("interrupted")
        return code
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (say, `head`) has gone. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception as error:  # noqa: BLE001 - the one place where any error becomes a line and a code
        return _report(error)
    return EXIT_OK


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """What a user can act on, as one line; what only a developer can is for --debug."""
    del filename, lineno, file, line
    if debug or issubclass(category, UserWarning):
        _say(f"warning: {message}")


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _code(leave: SystemExit) -> int:
    if leave.code is None:
        return EXIT_OK
    return leave.code if isinstance(leave.code, int) else EXIT_FAILURE


def _report(error: Exception) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    known = known_error(error)
    if known is None:
        again = "" if debug else "; run again with --debug to see where, and please report it"
        # Its message is left out: nobody has seen to it that it holds no identifier.
        _say(f"internal error: {type(error).__name__}{again}")
        return EXIT_FAILURE
    _say(str(known), lines=isinstance(known, ConfigError | DicomSeriesError | GateRefused))
    return known.exit_code


def known_error(error: Exception) -> MedidiffError | None:
    """The deliberate error that an exception stands for; None for a defect of the program."""
    if isinstance(error, MedidiffError):
        return error
    if isinstance(error, OSError) and error.errno in _OUTPUT_PROBLEMS:
        place = f"{error.filename}: " if error.filename else ""
        return OutputError(f"{place}{_OUTPUT_PROBLEMS[error.errno]}")
    # By name, because only a command that ran the engine has torch loaded.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return MedidiffError("out of memory: close other programs, take a smaller volume, or use --device cpu")
    return None


def printable(text: str, *, lines: bool = False) -> str:
    """The text without control characters: a file's name or header must not steer the terminal, nor forge a log line.

    Args:
        text: What is to be printed.
        lines: Whether it is of several lines on purpose, as the list of what is wrong with a config is.
    """
    return "".join(c if c.isprintable() or (lines and c == "\n") else repr(c)[1:-1] for c in text)


def _say(message: str, *, lines: bool = False) -> None:
    print(f"medidiff: {printable(message, lines=lines)}", file=sys.stderr)  # noqa: T201 - the CLI's own voice
