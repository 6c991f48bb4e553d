"""What flows are told in tests."""

from __future__ import annotations

RECONSTRUCT = """
kind: flow-reconstruct
state: {state}
source: {{kind: folder, folder: {source}}}
output: {output}
options: {{fast: true, spacing: {spacing}}}
retries: 0
"""
