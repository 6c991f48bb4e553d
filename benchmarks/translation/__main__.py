"""``python -m benchmarks.translation --models DIR --out DIR``: ours against what one person's pairs allow otherwise."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.docs import include
from benchmarks.rows import Row, Rows
from benchmarks.translation.rivals import Pair, histogram, regression, tissues
from medidiff.data.intensity import IntensityCodec
from medidiff.generation.translate import BRIGHT, Translator
from medidiff.io import read_volume
from medidiff.io.atomic import atomic_write_text
from medidiff.metrics import psnr_interval, ssim
from medidiff.volume import Volume

Array = NDArray[Any]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PEOPLE = ("07", "19")
FILE = "brain-ms-ljubljana/cross_patient{person}_{what}_MNI1mm.nii.gz"
KEY = ("to", "person", "method")
SCORES = ("psnr", "psnr_low", "psnr_high", "ssim", "cnr", "cnr_real", "lesion_voxels")
BLOCK = 24
SAMPLE_STEPS = 6
ABOUT = (
    "Two people with multiple sclerosis (Ljubljana, skull-stripped, MNI space, 1 mm). Everything is fitted to one "
    "person and scored on the other. MR has no unit: each answer is first brought to the scale of the truth by the "
    "gain and offset that suit best. PSNR (data range: the truth's 99.5th percentile) and SSIM within the brain; 95% "
    "intervals over blocks of 24 voxels of the one brain, which say nothing of other people. Lesion contrast: mean in "
    "the annotated lesions minus mean in white matter 3 to 8 voxels away, over the standard deviation there; in "
    "brackets that of the real scan."
)


class Person:
    """Both contrasts, the brain, the lesions and the white matter around them, cut to the brain."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        whole = {w: _read(root, name, f"{w}_brain") for w in ("T1", "FLAIR")}
        box = _box(whole["T1"].data[0] > 0)
        self.scans = {w: _cut(volume, box) for w, volume in whole.items()}
        self.images = {w: _encode(whole[w])[box] for w in whole}
        self.brain = (self.images["T1"] > 0.05) & (self.images["FLAIR"] > 0.05)
        lesions = _read(root, name, "lesions").data[0][box] > 0
        self.lesions = lesions & self.brain
        white = tissues(self.images["T1"], self.brain) == 3
        around = ndimage.binary_dilation(lesions, iterations=8) & ~ndimage.binary_dilation(lesions, iterations=2)
        self.white = white & around

    def pair(self, to: str) -> Pair:
        return Pair(self.images["T1" if to == "FLAIR" else "FLAIR"], self.images[to], self.brain)


def _read(root: Path, name: str, what: str) -> Volume:
    return read_volume(root / FILE.format(person=name, what=what)).reoriented()


def _box(mask: Array) -> tuple[slice, ...]:
    """Where the mask is, with a margin of 8 voxels."""
    hits = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(max(0, int(hit[0]) - 8), int(hit[-1]) + 9) for hit in hits)


def _cut(volume: Volume, box: tuple[slice, ...]) -> Volume:
    data = volume.data[(slice(None), *box)]
    start = tuple(part.start for part in box)
    return Volume(data, volume.geometry.cropped((start[0], start[1], start[2]), data.shape[1:]), volume.modality)


def _encode(volume: Volume) -> Array:
    codec = IntensityCodec.fit(volume.data, volume.modality)
    return np.asarray(codec.encode(volume.data[0].astype(np.float32)))


def methods(train: Person, test: Person, to: str, models: Path, samples: bool) -> Mapping[str, Callable[[], Array]]:
    """What is compared; each returns shape (i, j, k) in units of its own."""
    pair, given = train.pair(to), test.pair(to).source
    name = f"translate-from-{train.name}"
    translator = Translator.load(models / name / f"{name}.safetensors")
    scan = test.scans["T1" if to == "FLAIR" else "FLAIR"]
    found: dict[str, Callable[[], Array]] = {
        "the given scan": lambda: given,
        "histogram by tissue": lambda: histogram(pair, given, test.brain),
        "linear in 5^3 voxels": lambda: regression(pair, given, test.brain),
        "medidiff, mean": lambda: translator(scan, to).data[0] / BRIGHT,
    }
    if samples:
        found["medidiff, sample"] = lambda: translator(scan, to, steps=SAMPLE_STEPS).data[0] / BRIGHT
    return found


def fitted(estimate: Array, truth: Array, brain: Array) -> Array:
    """The gain and offset that bring an answer nearest to the truth within the brain."""
    # In float32 a million voxels are too many for NumPy: it would take the fit for ill-conditioned and bend it.
    gain, offset = np.polyfit(estimate[brain].astype(np.float64), truth[brain].astype(np.float64), 1)
    return np.asarray(gain * estimate + offset)


def contrast(image: Array, person: Person) -> float:
    """How far lesions stand out of the white matter around them, in its standard deviations."""
    around = image[person.white]
    return float((image[person.lesions].mean() - around.mean()) / around.std())


def score(estimate: Array, person: Person, to: str) -> dict[str, float]:
    truth = person.images[to]
    scaled = fitted(estimate, truth, person.brain)
    reach = float(np.percentile(truth[person.brain], 99.5))
    level = psnr_interval(scaled, truth, data_range=reach, mask=person.brain, seed=0, edge=BLOCK)
    return {
        "psnr": level.value, "psnr_low": level.low, "psnr_high": level.high,
        "ssim": ssim(scaled, truth, data_range=reach, mask=person.brain),
        "cnr": contrast(scaled, person), "cnr_real": contrast(truth, person),
        "lesion_voxels": int(person.lesions.sum()),
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    lines = ["| to | person | method | PSNR dB | SSIM | lesion contrast |", "|---|---|---|---|---|---|"]
    for row in rows:
        found = {name: float(row[name]) for name in SCORES}
        level = f"{found['psnr']:.2f} ({found['psnr_low']:.2f} to {found['psnr_high']:.2f})"
        lesions = f"{found['cnr']:+.2f} ({found['cnr_real']:+.2f})"
        lines.append(f"| {row['to']} | {row['person']} | {row['method']} | {level} | {found['ssim']:.3f} | {lesions} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.translation", description=ABOUT)
    parser.add_argument("--models", type=Path, required=True, help="folder of what `medidiff train` made, such as runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the CSV and the table")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of real volumes (default: ../shared/data)")
    parser.add_argument("--docs", type=Path, help="also put the table into this page")
    parser.add_argument("--samples", action="store_true", help="also score one sample of ours each, six evaluations")
    parser.add_argument("--resume", action="store_true", help="keep the rows that DIR already holds")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.out / "translation.csv", (*KEY, *SCORES), KEY, resume=args.resume)
    people = {name: Person(args.data, name) for name in PEOPLE}
    for test in reversed(PEOPLE):
        train = PEOPLE[1 - PEOPLE.index(test)]
        for to in ("FLAIR", "T1"):
            for name, method in methods(people[train], people[test], to, args.models, args.samples).items():
                key: dict[str, str | float] = {"to": to, "person": test, "method": name}
                if key not in rows:
                    print(to, test, name, flush=True)
                    rows.add(key | score(method(), people[test], to))
    text = f"{ABOUT}\n\n{table(rows.all)}\n"
    atomic_write_text(args.out / "translation.md", text)
    if args.docs is not None:
        include(args.docs, "translation", text)
    print(text)


if __name__ == "__main__":
    main()
