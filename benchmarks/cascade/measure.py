"""What whole heads of the cascade are worth: contrast between tissues, and how much of the detail of a real head."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.docs import include
from benchmarks.rows import Row, Rows
from medidiff.data.cohort import centred_grid
from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.generator import GenerativeModel, load_generator
from medidiff.generation.cascade import Upsampler, resized
from medidiff.generation.draw import Request, Sampling, draw
from medidiff.io import read_volume, write_volume
from medidiff.io.atomic import atomic_write_text
from medidiff.models import find_model
from medidiff.training.coarse_heads import AIR, SPACING_MM, TISSUES, Placement, largest_part, tissues_of
from medidiff.volume import Modality, Volume

Array = NDArray[Any]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
# Label maps and a person that no stage was trained on.
MAPS = ("synthseg-labels/training_seg_13.nii.gz", "synthseg-labels/training_seg_14.nii.gz")
REAL = "head-t1-dcm-qa-uih/uih-b_T1w_1mm.nii.gz"
KEY = ("head", "image")
BANDS = ((0.0, 0.06), (0.06, 0.125), (0.125, 0.25), (0.25, 0.5))
SCORES = tuple(f"power_{low:g}_{high:g}" for low, high in BANDS)
CUBE = 96
# Coarse voxels of the middle that are made fine: the cube, and what the network sees from its border.
PART = 36
ABOUT = (
    "Power: mean squared amplitude of the middle 96 mm of the head (Hann window) in bands of spatial frequency, cycles "
    "per mm, over that of the real head uih-b (1 mm, trained on by nobody) in the same band, each image first scaled "
    "to a standard deviation of 1. A voxel of 4 mm carries nothing beyond 0.125. One draw from each of two label maps "
    "that no stage was trained on: too few for an interval."
)


def bands(image: Array) -> list[float]:
    """Power of the middle of an image at 1 mm in each of ``BANDS``, at unit variance."""
    box = [slice(max(0, n // 2 - CUBE // 2), max(0, n // 2 - CUBE // 2) + CUBE) for n in image.shape]
    x = image[tuple(box)].astype(np.float64)
    x = (x - x.mean()) / x.std()
    for axis, n in enumerate(x.shape):
        x = x * np.hanning(n).reshape([-1 if a == axis else 1 for a in range(3)])
    power = np.abs(np.fft.fftn(x)) ** 2 / x.size
    frequency = np.sqrt(sum(np.square(f) for f in np.meshgrid(*map(np.fft.fftfreq, x.shape), indexing="ij")))
    return [float(power[(frequency >= low) & (frequency < high)].mean()) for low, high in BANDS]


def real(root: Path) -> tuple[Volume, Volume]:
    """The real head at 1 mm, and as voxels of 4 mm show it, on the coarse grid; model units."""
    scan = read_volume(root / REAL).reoriented()
    codec = IntensityCodec.fit(scan.data, scan.modality)
    image = codec.encode(scan.data[0].astype(np.float32))
    placement = Placement.of(largest_part(image > AIR), scan.geometry.spacing, (48, 64, 56))
    coarse = Volume(placement.take(image)[None], centred_grid((48, 64, 56), (SPACING_MM,) * 3), Modality.MR)
    return Volume(image[None], scan.geometry, Modality.MR), coarse


def drawn(model: GenerativeModel, root: Path, seed: int) -> Iterator[tuple[str, Volume, Volume]]:
    """A T1 for each label map: name, coarse image, coarse tissues."""
    for path in MAPS:
        labels = read_volume(root / path).reoriented()
        fine = tissues_of(labels.data[0])
        placement = Placement.of(fine > 0, labels.geometry.spacing, model.spec.shape)
        tissues = placement.take_labels(fine, len(TISSUES))
        request = Request(seed, {"contrast": "t1"}, labels=tissues, inside=np.ones(model.spec.shape, bool))
        (item,) = draw(model, [request], Sampling())
        assert item.label is not None  # noqa: S101 - a benchmark: this generator has labels
        yield path.split("_")[-1][:2], item.image, item.label


def middle(volume: Volume, size: int) -> Volume:
    """The middle of a volume, so many voxels along each axis."""
    start = tuple((n - size) // 2 for n in volume.geometry.shape)
    i, j, k = (slice(s, s + size) for s in start)
    grid = volume.geometry.cropped((start[0], start[1], start[2]), (size,) * 3)
    return Volume(np.ascontiguousarray(volume.data[:, i, j, k]), grid, volume.modality)


def contrasts(image: Array, tissues: Array) -> dict[str, float]:
    """Mean of each tissue over that of white matter."""
    white = image[tissues == 1].mean()
    return {name: float(image[tissues == n].mean() / white) for n, name in enumerate(TISSUES, start=1)}


def table(rows: list[Row]) -> str:
    """A line a row."""
    names = [f"{low:g} to {high:g}" for low, high in BANDS]
    lines = ["| head | image | " + " | ".join(names) + " |", "|---" * (2 + len(BANDS)) + "|"]
    cells = [[row["head"], row["image"], *(f"{float(row[score]):.2f}" for score in SCORES)] for row in rows]
    return "\n".join([*lines, *("| " + " | ".join(each) + " |" for each in cells)])


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascade measure", description=ABOUT)
    parser.add_argument("--model", required=True, help="the coarse generator: a name or a file")
    parser.add_argument("--upsample", default="brain-t1", help="the second stage (default: brain-t1)")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows, table and heads")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of real volumes (default: ../shared/data)")
    parser.add_argument("--docs", type=Path, help="also put the table into this page")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", action="store_true", help="also write whole heads at 1 mm (a minute or two each)")
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.out / "cascade.csv", (*KEY, *SCORES), KEY, resume=False)
    second = Upsampler(load_model(find_model(args.upsample), torch.device("cpu"))[0])
    truth, coarse = real(args.data)
    reference = bands(truth.data[0])

    def add(head: str, kind: str, image: Array) -> None:
        ratios = [a / b for a, b in zip(bands(image), reference, strict=True)]
        rows.add({"head": head, "image": kind} | dict(zip(SCORES, ratios, strict=True)))
        print(head, kind, [round(r, 3) for r in ratios], flush=True)

    add("uih-b", "real, at 4 mm, interpolated", resized(middle(coarse, PART).data[0], (int(PART * SPACING_MM),) * 3))
    add("uih-b", "real, at 4 mm, second stage", second.image(middle(coarse, PART)).data[0])
    model = load_generator(find_model(args.model))[0]
    lines = []
    for name, image, tissues in drawn(model, args.data, args.seed):
        add(f"map {name}", "drawn at 4 mm, second stage", second.image(middle(image, PART)).data[0])
        write_volume(image, args.out / f"map{name}-4mm.nii.gz")
        if args.whole:
            write_volume(second.image(image), args.out / f"map{name}-1mm.nii.gz")
        found = contrasts(image.data[0], tissues.data[0])
        lines.append(
            f"Map {name}, mean over that of white matter: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items())
        )
    text = "\n\n".join([ABOUT, table(rows.all), "\n".join(f"- {line}" for line in lines)])
    atomic_write_text(args.out / "cascade.md", text + "\n")
    if args.docs is not None:
        include(args.docs, "cascade", text)
    print(text)
