"""Reconstruction: ``python -m benchmarks.reconstruction TASK --out DIR [options]``; each task has its own ``--help``.

Every task writes TASK.csv (every row), TASK.png and TASK.md into DIR, and with ``--docs PAGE`` puts the table, and
beside the page the rows and the figure, into the documentation.
"""

from __future__ import annotations

import sys
from importlib import import_module

# Task and module; each module has ``main(arguments)``.
TASKS = {
    "ct": "benchmarks.reconstruction.ct",
    "denoising": "benchmarks.reconstruction.denoising",
    "inpainting": "benchmarks.reconstruction.inpainting",
    "mri": "benchmarks.reconstruction.mri",
    "solvers": "benchmarks.reconstruction.solvers",
    "stacks": "benchmarks.reconstruction.stacks",
}


def main(arguments: list[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in TASKS:
        print(__doc__, f"Tasks: {', '.join(TASKS)}.", sep="\n")
        sys.exit(0 if given[:1] in ([], ["--help"], ["-h"]) else 2)
    import_module(TASKS[given[0]]).main(given[1:])


if __name__ == "__main__":
    main()
