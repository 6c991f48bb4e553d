"""The use case *edit*: a scan and a region in, the scan with that region drawn anew out, marked for good."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff import __version__
from medidiff.diffusion.checkpoint import GENERATOR_FORMAT, load_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.device import choose_device
from medidiff.diffusion.generator import GenerativeModel, Value, load_generator
from medidiff.errors import CheckpointError, ConfigError, GeometryError, InputError, TargetError
from medidiff.generation.edit import EditSettings, seam
from medidiff.generation.sheet import Sheet, check_region, generator_sheet, restorer_sheet
from medidiff.io import check_restorable, read_volume
from medidiff.io.atomic import atomic_write_json
from medidiff.io.overwrite import can_overwrite, overwrite
from medidiff.io.places import beside, check_targets
from medidiff.io.source import file_sha256, open_source
from medidiff.io.writers import write_nifti
from medidiff.models import find_model, read_info
from medidiff.progress import OnProgress
from medidiff.restoration.repair import check_same_grid
from medidiff.rng import resolve_seed
from medidiff.synthetic.marks import EDIT_SENTENCE, SENTENCE, edited_description, nifti_description, nifti_is_marked
from medidiff.volume import Modality, Volume

Array = NDArray[Any]
Model = Preconditioned | GenerativeModel

# A generator learned anatomy at one voxel size; the sides of a scan's voxels may differ from it by this share.
SAME_SPACING = 0.1
# A generator was never told of the hole; see docs/editing.md for what other rules come to.
GENERATOR_RULE: dict[str, Any] = {"solver": "multistep", "guidance": "tweedie"}
MOST_SAMPLES = 100


@dataclass(frozen=True, slots=True)
class EditOptions:
    """What a user may choose.

    Args:
        mask: Where the scan changes (1) and where not (0), on the scan's grid; the whole scan if None.
        labels: What there is to be, as a label map of the whole scan on its grid; for a generator that knows labels.
        model: Name of a shipped model, or a file: one that restores, or a generator.
        strength: How much of the old content is given up, above 0; 1 is all.
        samples: How many scans to draw.
        steps: Network evaluations a sample; by default what suits the kind of model.
        guidance_scale: How much a generator stresses its conditions.
        conditions: What a generator is asked for, by name.
        seed: A fresh one is drawn and recorded if there is none.
        device: ``"cpu"`` or ``"cuda"``; by default CUDA where there is one.
    """

    mask: Path | None = None
    labels: Path | None = None
    model: str = "brain-t1"
    strength: float = 1.0
    samples: int = 1
    steps: int | None = None
    guidance_scale: float = 1.0
    conditions: dict[str, Value] = field(default_factory=dict)
    seed: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ConfigError(f"--strength must be above 0 and at most 1, got {self.strength:g}")
        if not 1 <= self.samples <= MOST_SAMPLES:
            raise ConfigError(f"--samples must be 1 to {MOST_SAMPLES}, got {self.samples}")
        if self.steps is not None and not 2 <= self.steps <= 1000:
            raise ConfigError(f"--steps must be 2 to 1000, got {self.steps}")
        if self.mask is None and self.strength == 1:
            raise ConfigError("without --mask the whole scan is varied: say how much with --strength below 1")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed must be a whole number from 0 to 2^63 - 1, got {self.seed}")


@dataclass(frozen=True, slots=True)
class EditResult:
    """What was written, and the record beside the first of it."""

    outputs: tuple[Path, ...]
    record: dict[str, Any]


def edit(scan: Path, output: Path, options: EditOptions, on_progress: OnProgress | None = None) -> EditResult:
    """Draw a region of a scan anew and write the result, marked in its header and in a JSON record beside it.

    Where the scan is a NIfTI file, everything in the result but the region and the description is the source's, byte
    for byte; of other formats the values are kept, as float32.

    Args:
        scan: NIfTI, MGZ, NRRD or a DICOM folder, one frame.
        output: A NIfTI file to write; of several samples ``<name>_sample-01`` and so on.
        options: What the user chose.
        on_progress: Called with evaluations done, evaluations in all, and what is being done.
    Raises:
        InputError: scan, mask or label map cannot be used.
        GeometryError: mask or label map lie on another grid than the scan, or the scan's voxels are not the model's.
        CheckpointError: there is no such model.
        OutputError: the result cannot be written.
        ConfigError: the model has no labels, or not the conditions that were asked for.
    """
    begun = time.perf_counter()
    outputs = _targets(scan, output, options)
    path = find_model(options.model)
    volume = read_volume(scan)
    _check_scan(volume, scan)
    conformed = volume.reoriented()
    frame = conformed.data[0]
    region = np.ones(frame.shape, bool) if options.mask is None else _region(options.mask, volume)
    model = _load(path, options)
    labels = None if options.labels is None else _labels(options.labels, volume, model)
    sheet, settings = _sheet(model, conformed, region, labels, options)

    def step(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(done, total, "drawing")

    drawn = sheet.draw(settings, frame, region, step)
    if not all(np.isfinite(each).all() for each in drawn):
        raise CheckpointError("the model gave values that are not finite: its weights are damaged; nothing was written")
    record = {
        **_about(path, options, settings, volume),
        "source_sha256": None if scan.is_dir() else file_sha256(scan),
        "regenerated_voxels": int(region.sum()),
        "regenerated_share": float(region.mean()),
        "border_before": _number(seam(frame, region)),
        "border_after": [_number(seam(each, region)) for each in drawn],
        "seconds": round(time.perf_counter() - begun, 2),
    }
    _write(scan, volume, outputs, drawn, region, record)
    return EditResult(outputs, record)


def _targets(scan: Path, output: Path, options: EditOptions) -> tuple[Path, ...]:
    if not output.name.lower().endswith((".nii", ".nii.gz")):
        raise TargetError(
            f"cannot write {output}: an edited scan is a NIfTI file, its name must end in .nii or .nii.gz"
        )
    outputs: tuple[Path, ...] = (output,)
    if options.samples > 1:
        outputs = tuple(beside(output, f"_sample-{number:02d}") for number in range(1, options.samples + 1))
    records = tuple(beside(path, "", ".json") for path in outputs)
    for source in filter(None, (scan, options.mask, options.labels)):
        check_targets(outputs, records, source)
    if scan.name.lower().endswith((".nii", ".nii.gz")) and beside(scan, "", ".json") in records:
        raise TargetError(f"cannot write {records[0]}: it is the place of the scan's own sidecar; choose another name")
    return outputs


def _check_scan(volume: Volume, path: Path) -> None:
    if len(volume.data) != 1:
        raise InputError(f"{path} has {len(volume.data)} frames; split it first: one frame is edited at a time")
    if volume.modality is Modality.LABEL:
        raise InputError(f"{path} is a label map; an image was expected (label maps go to --labels)")
    check_restorable(volume, path)


def _region(path: Path, scan: Volume) -> Array:
    mask = read_volume(path)
    check_same_grid(mask.geometry, scan.geometry)
    return check_region(mask.reoriented().data)


def _labels(path: Path, scan: Volume, model: Model) -> Array:
    if not isinstance(model, GenerativeModel) or not model.spec.labels:
        raise ConfigError("--labels: this model knows no label maps; choose a generator that does with --model")
    found = read_volume(path)
    check_same_grid(found.geometry, scan.geometry)
    values = found.reoriented().data
    if len(values) != 1 or not np.array_equal(values, np.rint(values)) or values.min() < 0 or values.max() > 255:
        raise InputError(f"{path}: a label map has one frame of whole numbers from 0 to 255")
    return np.asarray(values[0], dtype=np.uint8)


def _load(path: Path, options: EditOptions) -> Model:
    device = choose_device(options.device)
    if read_info(path).header.get("format") == GENERATOR_FORMAT:
        return load_generator(path, device)[0]
    if options.conditions or options.guidance_scale != 1:
        raise ConfigError("conditions and a guidance scale are for generators; this model restores scans")
    return load_model(path, device)[0]


def _sheet(
    model: Model, scan: Volume, region: Array, labels: Array | None, options: EditOptions
) -> tuple[Sheet, EditSettings]:
    common: dict[str, Any] = {
        "strength": options.strength,
        "samples": options.samples,
        "seed": resolve_seed(options.seed),
    }
    frame = scan.data[0]
    if isinstance(model, GenerativeModel):
        spacing = model.spec.spacing_mm
        if not np.allclose(scan.geometry.spacing, spacing, rtol=SAME_SPACING):
            found, wanted = (" x ".join(f"{mm:.3g}" for mm in each) for each in (scan.geometry.spacing, spacing))
            raise GeometryError(f"the scan has voxels of {found} mm, the generator learned {wanted} mm: resample it")
        sheet = generator_sheet(model, frame, region, labels, options.conditions, scan.modality, options.guidance_scale)
        return sheet, EditSettings(steps=options.steps or 20, **GENERATOR_RULE, **common)
    return restorer_sheet(model, frame, region, scan.modality), EditSettings(steps=options.steps or 8, **common)


def _about(path: Path, options: EditOptions, settings: EditSettings, volume: Volume) -> dict[str, Any]:
    """How it came about; the moment is not told, so that the same seed gives the same words."""
    return {
        "medidiff": __version__,
        "torch": torch.__version__,
        "modality": volume.modality.value,
        "model": {"name": path.stem, "sha256": file_sha256(path)},
        "mask_sha256": None if options.mask is None else file_sha256(options.mask),
        "labels_sha256": None if options.labels is None else file_sha256(options.labels),
        "conditions": dict(options.conditions),
        "guidance_scale": options.guidance_scale,
        "strength": settings.strength,
        "steps": settings.steps,
        "solver": settings.solver,
        "rule": settings.guidance,
        "seed": settings.seed,
    }


def _write(
    scan: Path, volume: Volume, outputs: Sequence[Path], drawn: Sequence[Array], region: Array, record: dict[str, Any]
) -> None:
    """Each scan, then its record: whoever finds the record finds the scan."""
    synthetic = _is_synthetic(scan)
    description = (nifti_description if synthetic else edited_description)(__version__)
    byte_for_byte = can_overwrite(scan)
    grid = volume.geometry.reoriented()[0]
    where = Volume(region[None], grid).like(volume.geometry).data[0]
    for number, (path, data) in enumerate(zip(outputs, drawn, strict=True)):
        own = beside(path, "", ".json")
        own.unlink(missing_ok=True)
        placed = Volume(data[None], grid, volume.modality).like(volume.geometry)
        if byte_for_byte:
            overwrite(scan, path, where, placed.data[0], description=description)
        else:
            write_nifti(placed, path, np.dtype(np.float32), None, description=description)
        marked = {
            "SyntheticData": True if synthetic else "in part",
            "Description": SENTENCE if synthetic else EDIT_SENTENCE,
            **record,
            "sample": number + 1,
            "border_after": record["border_after"][number],
            "kept": "every byte but the region and the description" if byte_for_byte else "every value, as float32",
            "sha256": file_sha256(path),
        }
        atomic_write_json(own, marked)


def _is_synthetic(scan: Path) -> bool:
    return scan.is_file() and nifti_is_marked(open_source(scan).head)


def _number(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None
