"""Network costs come out in the order that arithmetic says."""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.network_cost import main, networks


def test_every_network_is_measured_and_the_stock_one_on_voxels_is_dearest(tmp_path: Path) -> None:
    main(["--out", str(tmp_path), "--quick"])
    with (tmp_path / "network_cost.csv").open(newline="") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(networks())
    flops = {name: float(row["forward_gflop"]) for name, row in rows.items()}
    assert max(flops, key=lambda name: flops[name]) == "MONAI DiffusionModelUNet 32-64-96 on voxels, stock"
    assert flops["residual U-Net 32-64-96 on Haar"] < flops["MONAI DiffusionModelUNet 32-64-96 on Haar"]
    assert all(float(row["training_cpu_s"]) > 0 for row in rows.values())
    assert all(f"| {name} |" in (tmp_path / "network_cost.md").read_text() for name in rows)
