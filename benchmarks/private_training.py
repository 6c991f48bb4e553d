"""What private training is worth: ``python -m benchmarks.private_training --out DIR NAME=FILE NAME=FILE ...``.

Each generator (before and after private training, say) is asked for its denoising error on held-out people and for
images, which are compared with those people. Writes private-training.csv, .md and .png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.docs import include
from benchmarks.generators.people import HELD_OUT, TRAINING
from benchmarks.generators.scoring import Principal, in_space
from benchmarks.reconstruction.scoring import save
from benchmarks.rows import Row, Rows
from medidiff.data.cohort import Cohort, load_people, people
from medidiff.diffusion.generator import GenerativeModel, load_generator
from medidiff.generation.draw import Request, Sampling, draw
from medidiff.io.atomic import atomic_write_bytes, atomic_write_text
from medidiff.metrics.features import load_encoder
from medidiff.training.generative import DenoisingError
from medidiff.training.generative_data import encode_people

KEY = ("generator",)
SPACES = ("pca", "encoder")
SCORES = tuple(f"{metric}_{space}" for space in SPACES for metric in ("kid", "mmd", "recall", "coverage"))
COLUMNS = (*KEY, "epsilon", "steps", "held_out_loss", "images", *SCORES)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.out / "private-training.csv", COLUMNS, KEY, resume=True)
    folders = {"images": args.data / "images", "labels": args.data / "labels"}
    pictures: dict[str, NDArray[np.float32]] = {}
    for text in args.generators:
        name, _, path = text.partition("=")
        model, card = load_generator(Path(path))
        apart = load_people(people(Cohort(**folders, last=HELD_OUT)), model.spec.shape)
        pictures["people"] = apart.images
        pictures[name] = images_of(model, args.images)
        if {"generator": name} in rows:
            continue
        few = apart[: args.people]
        loss = DenoisingError(tuple(encode_people(few, model.spec)), model.spec)(model)
        training = load_people(people(Cohort(**folders, first=TRAINING)), model.spec.shape).images
        spaces = {"pca": Principal.of(training), "encoder": load_encoder(args.encoder)}
        found = {
            f"{k}_{s}": v
            for s, space in spaces.items()
            for k, v in in_space(space, apart.images, pictures[name]).items()
        }
        privacy = card.get("differential_privacy", {})
        about = {"generator": name, "epsilon": privacy.get("epsilon"), "steps": card["steps"], "held_out_loss": loss}
        rows.add(about | {"images": args.images} | {k: v for k, v in found.items() if k in COLUMNS})
    text = table(rows.all) + "\n\nMeasured on: " + ", ".join(f"{k} {v}" for k, v in machine.describe().items()) + "."
    atomic_write_text(args.out / "private-training.md", text + "\n")
    figure(pictures, args.out / "private-training.png")
    print(text)
    if args.docs:
        include(args.docs, "private-training", text)
        for suffix in ("csv", "png"):
            to = args.docs.parent / "benchmarks" / f"private-training.{suffix}"
            atomic_write_bytes(to, (args.out / f"private-training.{suffix}").read_bytes())


def images_of(model: GenerativeModel, count: int) -> NDArray[np.float32]:
    """Images on the whole grid, shape (n, 1, i, j, k), model units."""
    inside = np.ones(model.spec.shape, dtype=bool)
    requests = [Request(seed, inside=inside) for seed in range(count)]
    return np.stack([each.image.data for each in draw(model, requests, Sampling())]).astype(np.float32)


def table(rows: Sequence[Row]) -> str:
    lines = ["| generator | epsilon | denoising error, held-out people | KID | MMD | KID, learned | MMD, learned |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        values = [row["held_out_loss"], *(row[name] for name in ("kid_pca", "mmd_pca", "kid_encoder", "mmd_encoder"))]
        cells = " | ".join(f"{float(value):.3g}" for value in values)
        lines.append(f"| {row['generator']} | {row['epsilon'] or '0'} | {cells} |")
    return "\n".join(lines)


def figure(pictures: dict[str, NDArray[np.float32]], out: Path, count: int = 8) -> None:
    """The first images of each, by seed, a middle plane."""
    drawing = Figure(figsize=(10, 1.75 * len(pictures)), dpi=110, layout="constrained", facecolor="white")
    canvas, axes = FigureCanvasAgg(drawing), drawing.subplots(len(pictures), count, squeeze=False)
    for line, (name, images) in zip(axes, pictures.items(), strict=True):
        for axis, volume in zip(line, images[:count, 0], strict=False):
            axis.imshow(volume[:, :, volume.shape[2] // 2].T, cmap="gray", vmin=0, vmax=1, origin="lower")
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name)
    save(canvas, out)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.private_training", description=about)
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "msd-hippocampus"
    parser.add_argument("generators", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=shared, help="folder with images/ and labels/")
    parser.add_argument("--images", type=int, default=40, help="how many are drawn of each")
    parser.add_argument("--people", type=int, default=40, help="held-out people of the denoising error")
    parser.add_argument("--encoder", default="features-t1")
    parser.add_argument("--docs", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
