"""Every error that medidiff raises on purpose.

A message says what was expected, what was found, in which file, and what to do. Each class carries the exit
code that the command line ends with, so the CLI never has to interpret an error.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_BAD_INPUT = 3
EXIT_REFUSED = 4
EXIT_INTERRUPTED = 130


class MedidiffError(Exception):
    """Base of every deliberate error."""

    exit_code = EXIT_FAILURE


class InputError(MedidiffError):
    """A file or folder given by the user cannot be used as it is."""

    exit_code = EXIT_BAD_INPUT


class GeometryError(InputError):
    """A grid is impossible or does not fit another: wrong shape, sheared or singular affine."""


class DicomSeriesError(InputError):
    """A DICOM series cannot become one volume."""


class BudgetError(InputError):
    """A file declares more data than the memory budget allows."""


class ConfigError(MedidiffError):
    """A configuration is not valid, or contradicts the data."""

    exit_code = EXIT_USAGE


class CheckpointError(MedidiffError):
    """A model or training checkpoint is damaged, or belongs to something else."""


class OutputError(MedidiffError):
    """The result cannot be written: no permission, no room, or the place is taken."""


class TargetError(OutputError):
    """What was named for a result can never hold it: it is the input, a folder, or has no ending of a format."""

    exit_code = EXIT_USAGE


class GateRefused(MedidiffError):
    """A privacy or quality gate refuses; the reasons are in the message."""

    exit_code = EXIT_REFUSED
