"""How fast a DICOM series becomes a volume, beside dcm2niix and dicom2nifti.

    python -m benchmarks.dicom_reading [--slices 200] [--repeats 7] [--source FOLDER]

A series of the wanted number of slices is made from a real one (``--source``, or a packaged MR image) by repeating its
slices at new positions. Every reader gets it from a warm file cache. dcm2niix is timed as a process that writes an
uncompressed NIfTI, dicom2nifti as a call in this process that writes one; medidiff is timed for reading alone and for
reading and writing. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from benchmarks.machine import describe
from medidiff.io import write_volume
from medidiff.io.dicom import find_series, index, load, read_series


def make_series(folder: Path, slices: int, source: Path | None) -> None:
    """Write a series of ``slices`` slices with the headers and pixels of a real one."""
    originals = sorted(path for path in source.rglob("*") if path.is_file()) if source is not None else [_packaged()]
    uid = generate_uid()
    for number in range(slices):
        dataset = pydicom.dcmread(originals[number % len(originals)])
        if source is None:
            dataset.PixelData = dataset.pixel_array.repeat(4, 0).repeat(4, 1).tobytes()
            dataset.Rows = dataset.Columns = 256
        first = np.array(dataset.ImageOrientationPatient, dtype=float)
        normal = np.cross(first[:3], first[3:])
        dataset.ImagePositionPatient = [float(f"{value:.6f}") for value in number * 1.2 * normal]
        dataset.InstanceNumber = number + 1
        dataset.SeriesInstanceUID = uid
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(folder / f"{number:05d}.dcm")


def _packaged() -> Path:
    return Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small.dcm"


def median_seconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and smallest wall time, s, after one run that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), min(times)


def contestants(series: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    calls: dict[str, Callable[[], object]] = {
        "medidiff: headers only": lambda: sum(1 for _ in index(series, workers=1)),
        "medidiff: series to volume": lambda: load(find_series(series).series[0]),
        "medidiff: series to NIfTI file": lambda: write_volume(read_series(series), scratch / "mine.nii"),
    }
    if shutil.which("dcm2niix"):
        command = ["dcm2niix", "-z", "n", "-b", "n", "-w", "1", "-f", "theirs", "-o", str(scratch), str(series)]
        calls["dcm2niix: series to NIfTI file"] = lambda: subprocess.run(command, check=True, capture_output=True)
    try:
        import dicom2nifti
    except ImportError:
        pass
    else:
        target = str(scratch / "other.nii")
        calls["dicom2nifti: series to NIfTI file"] = lambda: dicom2nifti.dicom_series_to_nifti(
            str(series), target, reorient_nifti=False
        )
    return calls


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--source", type=Path, help="a folder with one classic series whose slices are repeated")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        series, scratch = Path(name) / "series", Path(name) / "out"
        series.mkdir()
        scratch.mkdir()
        make_series(series, options.slices, options.source)
        size = sum(path.stat().st_size for path in series.iterdir()) / 1e6
        lines = [", ".join(f"{key} {value}" for key, value in describe().items())]
        lines.append(f"{options.slices} slices, {size:.1f} MB, n = {options.repeats}, wall time, median (smallest)")
        for label, call in contestants(series, scratch).items():
            median, smallest = median_seconds(call, options.repeats)
            lines.append(f"{label:36s} {median * 1000:8.0f} ms ({smallest * 1000:.0f})")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
