"""Lesions lost and lesions made up: ``python -m benchmarks.hallucination --out DIR [--data DIR] [--resume]``.

A ball with a soft edge is put into a fine scan, bright or dark; both scans, with and without it, are sliced and
restored. It is *lost* if less than half of its contrast comes back, and one is *invented* where the restoration of the
scan without it differs from that scan by half its contrast or more at the same place. Writes hallucination.csv, .png
and .md into DIR.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.docs import include
from benchmarks.hallucination.lesions import Lesion, place
from benchmarks.hallucination.summary import write_figure, write_table
from benchmarks.rows import Rows
from medidiff.calibrate import CalibrateOptions, Restored, fine_scan, restored, slice_operator
from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.io.atomic import atomic_write_bytes
from medidiff.metrics import head_mask, robust_range
from medidiff.models import find_model
from medidiff.uncertainty import Calibration, beside_model, load_calibration
from medidiff.volume import Volume

Array = NDArray[Any]

KEY = ("group", "person", "factor", "radius", "contrast")
COLUMNS = (
    *KEY, "axis", "recovered", "recovered_cubic", "invented", "invented_cubic", "half_width", "half_width_before",
    "inside_interval",
)  # fmt: skip
RADII_MM = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
CONTRASTS = (-0.25, 0.25)  # of the bright end of the scan, about what separates white matter from a lesion on T1
FACTORS = (4.0, 6.0)
BLOCK, DEEP_MM = 64, 25.0
PROFILE = "box"


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A piece of a person in which lesions are put."""

    group: str
    person: int
    volume: Volume
    allowed: Array


def hippocampus(data: Path, count: int) -> Iterator[Site]:
    """Crops of held-out people: the last 40 by file name."""
    paths = sorted(data.glob("msd-hippocampus/images/*.nii.gz"))[-40:]
    for number, path in enumerate(paths[:: max(1, len(paths) // count)][:count], 1):
        volume = fine_scan(path)
        yield Site("hippocampus", number, volume, np.ones(volume.geometry.shape, dtype=bool))


def head(data: Path, count: int) -> Iterator[Site]:
    """Blocks deep in the head of one person who was never trained on; the block is the unit, and the person is one."""
    volume = fine_scan(data / "head-t1-dcm-qa-uih" / "uih-b_T1w_1mm.nii.gz")
    spacing = volume.geometry.spacing
    inside = head_mask(volume.data[0], spacing=spacing)
    deep = ndimage.distance_transform_edt(inside, sampling=spacing) > DEEP_MM
    rng = np.random.default_rng(0)
    centres = np.argwhere(deep)
    for number in range(1, count + 1):
        middle = centres[rng.integers(len(centres))]
        start = [int(np.clip(c - BLOCK // 2, 0, n - BLOCK)) for c, n in zip(middle, deep.shape, strict=True)]
        box = tuple(slice(s, s + BLOCK) for s in start)
        geometry = volume.geometry.cropped((start[0], start[1], start[2]), (BLOCK, BLOCK, BLOCK))
        piece = Volume(np.ascontiguousarray(volume.data[(slice(None), *box)]), geometry, volume.modality)
        yield Site("uih-b", number, piece, deep[box])


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    path = find_model(args.model)
    model, calibration = load_model(path)[0], load_calibration(args.calibration or beside_model(path))
    rows = Rows(args.out / "hallucination.csv", COLUMNS, KEY, resume=args.resume)
    for site in (*hippocampus(args.data, args.people), *head(args.data, args.blocks)):
        for factor in FACTORS:
            _site(site, factor, model, calibration, rows)
        print(f"{site.group} {site.person}", flush=True)
    write_table(rows.all, args.out / "hallucination.md")
    write_figure(rows.all, args.out / "hallucination.png")
    text = (args.out / "hallucination.md").read_text(encoding="utf-8")
    print(text)
    if args.docs:
        include(args.docs, "hallucination", text)
        folder = args.docs.parent / "benchmarks"
        folder.mkdir(exist_ok=True)
        for name in ("hallucination.csv", "hallucination.png"):
            atomic_write_bytes(folder / name, (args.out / name).read_bytes())


def _site(site: Site, factor: float, model: Preconditioned, calibration: Calibration, rows: Rows) -> None:
    """Every lesion at one site: the scan without one is restored once."""
    x = site.volume.data[0].astype(np.float32)
    spacing, axis = site.volume.geometry.spacing, site.person % 3
    bright = robust_range(x, np.ones(x.shape, dtype=bool))
    before: Restored | None = None
    for index, radius in enumerate(RADII_MM):
        # The same place for every factor and for bright and dark.
        rng = np.random.default_rng([site.person, len(site.group), index])
        lesion = place(site.allowed, radius, bright, spacing, rng)
        for contrast in CONTRASTS if lesion is not None else ():
            key = {"group": site.group, "person": site.person, "factor": factor, "radius": radius, "contrast": contrast}
            if lesion is None or key in rows:
                continue
            before = before or _restore(site.volume, x, axis, factor, model)
            own = Lesion(lesion.centre, radius, contrast * bright, spacing)
            after = _restore(site.volume, own.insert(x), axis, factor, model)
            rows.add(key | {"axis": "RAS"[axis]} | _scores(own, x, before, after, calibration, factor))


def _restore(volume: Volume, x: Array, axis: int, factor: float, model: Preconditioned) -> Restored:
    operator = slice_operator(volume.geometry.shape, axis, PROFILE, factor)
    return restored(
        model, Volume(x[None], volume.geometry, volume.modality), operator, CalibrateOptions(region="whole")
    )


def _scores(
    lesion: Lesion, x: Array, before: Restored, after: Restored, calibration: Calibration, factor: float
) -> dict[str, float]:
    """How much of the lesion came back, how much was there without one, and what the map says at its place.

    Contrasts are in each scan's own model units: a lesion hardly moves them, but the two are kept apart.
    """
    from medidiff.operators.slices import SliceProfile

    core, profile = lesion.core(x.shape), SliceProfile(factor, factor, PROFILE)
    truth, plain = after.error + after.seen.mean, before.error + before.seen.mean
    added = lesion.seen(truth) - lesion.seen(plain)
    width = calibration.half_width(after.seen, profile)
    found = {
        "half_width": float(width[core].mean()) / abs(added),
        "half_width_before": float(calibration.half_width(before.seen, profile)[core].mean()) / abs(added),
        "inside_interval": float((np.abs(after.error) <= width)[core].mean()),
    }
    for name, one, other in (
        ("", after.seen.mean, before.seen.mean),
        ("_cubic", after.seen.baseline, before.seen.baseline),
    ):
        found[f"recovered{name}"] = (lesion.seen(one) - lesion.seen(other)) / added
        found[f"invented{name}"] = (lesion.seen(other) - lesion.seen(plain)) / abs(added)
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hallucination", description=(__doc__ or "").splitlines()[0]
    )
    shared = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--out", type=Path, required=True, help="folder for the CSV, the figure and the table")
    parser.add_argument("--data", type=Path, default=shared, help="folder of real volumes (default: ../shared/data)")
    parser.add_argument("--model", default="brain-t1", help="name or file of the model")
    parser.add_argument("--calibration", type=Path, help="calibration (default: beside the model)")
    parser.add_argument("--people", type=int, default=16, help="how many hippocampus people")
    parser.add_argument("--blocks", type=int, default=8, help="how many blocks of the whole head")
    parser.add_argument("--docs", type=Path, help="also put table, figure and rows beside this page")
    parser.add_argument("--resume", action="store_true", help="keep the rows that DIR already holds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
