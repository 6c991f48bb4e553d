"""Prefect flows over medidiff: thin, one library call a task. Nothing under ``medidiff`` imports this package.

python -m flows.ingest --once configs/flow-ingest.yaml
python -m flows.train --once configs/flow-train.yaml
python -m flows.reconstruct --once configs/flow-reconstruct.yaml
python -m flows.synthesize_and_release --once configs/flow-release.yaml
python -m flows.nightly --once configs/nightly.yaml
"""

from __future__ import annotations

from flows.engine.environment import settle

# Prefect reads its surroundings when it is imported, and every module of this package that needs it comes after this.
settle()
