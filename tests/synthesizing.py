"""A synthesis in a process of its own, to be killed: ``python -m tests.synthesizing MODEL FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from medidiff.synthesize import SynthesizeOptions, synthesize


def options(model: Path) -> SynthesizeOptions:
    shares = {"age_bands": {"18-29": 1.0, "30-44": 1.0}, "sex": {"female": 1.0, "male": 1.0}}
    return SynthesizeOptions.model_validate(
        {"model": str(model), "count": 12, "seed": 5, "steps": 2, "metadata": shares, "conditions": {"volume_ml": 0.5}}
    )


if __name__ == "__main__":
    synthesize(Path(sys.argv[2]), options(Path(sys.argv[1])), lambda done, total, _: print(done, total, flush=True))
