"""The use case *demo*: the whole way on a real volume that a dependency ships, with nothing to download.

The MNI152 brain at 1 mm is thick-sliced by our own operator, written to a file, and restored from that file by the same
use case that a user calls. It shows that the pieces fit; it does not show how good a model is.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medidiff.errors import InputError, OutputError
from medidiff.io import read_volume, write_volume
from medidiff.io.atomic import atomic_write_json
from medidiff.io.places import check_targets
from medidiff.progress import OnProgress
from medidiff.reconstruct import OnPlan, ReconstructOptions, ReconstructResult, reconstruct
from medidiff.volume import Volume

if TYPE_CHECKING:
    from medidiff.operators.slices import SliceOperator

SLICE_MM = 4.0
AXIS = 2
# Inside nilearn's wheel. Found by its name, because importing nilearn imports scikit-learn and pandas as well.
TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
COLUMNS = ("method", "PSNR (dB)", "SSIM", "NRMSE")
CAUTION = (
    "MNI152 is an average of 152 heads: far smoother than any one of them, and so too easy to score on. These figures "
    "show that the pieces fit together; benchmarks/superresolution scores on real heads."
)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo left.

    Args:
        folder: Where everything is.
        rows: Method, PSNR in dB, SSIM and NRMSE, each inside the head.
        reconstruction: What the use case *reconstruct* returned.
        files: Everything written, by what it is.
    """

    folder: Path
    rows: tuple[tuple[str, float, float, float], ...]
    reconstruction: ReconstructResult
    files: dict[str, Path]


def run_demo(
    folder: Path,
    options: ReconstructOptions,
    on_progress: OnProgress | None = None,
    on_plan: OnPlan | None = None,
) -> DemoResult:
    """Thick-slice the packaged brain, restore it from its file, and hold the result against the truth.

    Args:
        folder: Where to write; made if it is not there.
        options: As for ``reconstruct``; preview and report are set by the demo.
        on_progress: As for ``reconstruct``.
        on_plan: As for ``reconstruct``.
    Raises:
        InputError: nilearn, which ships the brain, is not installed as a whole.
        OutputError: the folder cannot be made or written.
        CheckpointError: there is no such model.
    """
    options.check_model()
    files = _places(folder)
    truth = sliceable(read_volume(template_path()))
    thick, operator = thick_sliced(truth)
    write_volume(thick, files["thick scan"])
    result = reconstruct(files["thick scan"], files["reconstruction"], options, on_progress, on_plan)
    cubic = spline_only(thick, operator)
    rows = score_rows(
        truth,
        {"cubic": cubic, "cubic + projection": result.volumes["baseline"], "medidiff": result.volumes["restored"]},
    )
    _present(result, truth, rows, files)
    return DemoResult(folder, rows, result, files)


def template_path() -> Path:
    """The MNI152 T1 at 1 mm inside nilearn's package.

    Raises:
        InputError: it is not there.
    """
    found = importlib.util.find_spec("nilearn")
    path = Path(found.origin).parent / TEMPLATE if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise InputError("the demo needs the MNI152 brain that nilearn ships, and it is not there: pip install nilearn")
    return path


def sliceable(volume: Volume) -> Volume:
    """The part that is a whole number of thick slices along the slice axis."""
    factor = round(SLICE_MM / volume.geometry.spacing[AXIS])
    count = volume.geometry.shape[AXIS] // factor * factor
    i, j, _ = volume.geometry.shape
    return Volume(volume.data[..., :count], volume.geometry.cropped((0, 0, 0), (i, j, count)), volume.modality)


def thick_sliced(volume: Volume) -> tuple[Volume, SliceOperator]:
    """What a scanner with touching slices of ``SLICE_MM`` would have measured, and the operator that says so."""
    import torch

    from medidiff.operators.slices import SliceOperator, SliceProfile

    factor = SLICE_MM / volume.geometry.spacing[AXIS]
    operator = SliceOperator((1, *volume.geometry.shape), AXIS, SliceProfile(factor, factor))
    measured = operator.forward(torch.from_numpy(volume.data)[None])[0].numpy()
    geometry = volume.geometry.resampled(AXIS, measured.shape[1 + AXIS], SLICE_MM)
    return Volume(measured, geometry, volume.modality), operator


def spline_only(thick: Volume, operator: SliceOperator) -> Volume:
    """Plain cubic interpolation, what most tools do, on the operator's fine grid."""
    import numpy as np

    from medidiff.operators.slices import spline_matrix

    fine = operator.in_shape[1 + AXIS]
    along = np.moveaxis(thick.data, 1 + AXIS, -1) @ spline_matrix(operator.centres, fine).T.astype(np.float32)
    geometry = thick.geometry.resampled(AXIS, fine, SLICE_MM / operator.profile.factor)
    return Volume(np.moveaxis(along, -1, 1 + AXIS), geometry, thick.modality)


def score_rows(truth: Volume, estimates: dict[str, Volume]) -> tuple[tuple[str, float, float, float], ...]:
    """Scores inside the head, one row for each estimate on the truth's grid."""
    from medidiff.metrics import head_mask, nrmse, psnr, robust_range, ssim

    target = truth.data[0]
    mask = head_mask(target, spacing=truth.geometry.spacing)
    span = robust_range(target, mask)
    rows = []
    for name, estimate in estimates.items():
        if estimate.geometry.distance(truth.geometry) > 1e-3:
            raise InputError(f"{name} does not lie where the truth lies: they cannot be compared")
        x = estimate.data[0]
        rows.append(
            (
                name,
                psnr(x, target, data_range=span, mask=mask),
                ssim(x, target, data_range=span, mask=mask),
                nrmse(x, target, mask=mask),
            )
        )
    return tuple(rows)


def formatted(rows: tuple[tuple[str, float, float, float], ...]) -> list[tuple[str, str, str, str]]:
    """Rows with as many digits as mean something."""
    return [(name, f"{psnr:.2f}", f"{ssim:.4f}", f"{nrmse:.4f}") for name, psnr, ssim, nrmse in rows]


def _places(folder: Path) -> dict[str, Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder}: {error.strerror or error}; choose another place"
        ) from error
    files = {
        "thick scan": folder / "thick.nii.gz",
        "reconstruction": folder / "reconstruction.nii.gz",
        "picture": folder / "preview.png",
        "page": folder / "report.html",
        "scores": folder / "report.json",
    }
    volumes = (files["thick scan"], files["reconstruction"])
    check_targets(volumes, [path for path in files.values() if path not in volumes])
    return files


def _present(
    result: ReconstructResult, truth: Volume, rows: tuple[tuple[str, float, float, float], ...], files: dict[str, Path]
) -> None:
    from medidiff.report.html import Table
    from medidiff.restoration.present import write_presentation

    record: dict[str, Any] = result.record | {
        "simulated": True,
        "scores": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
        "scored": "inside the head; PSNR and SSIM over the range from zero to the 99.9th percentile",
        "caution": CAUTION,
    }
    table = Table(COLUMNS, formatted(rows), caption=CAUTION)
    write_presentation(result.volumes, record, preview=files["picture"], report=files["page"], truth=truth, table=table)
    atomic_write_json(files["scores"], record)
