"""Which job a user means: found from what was given and what lies there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medidiff.errors import ConfigError, GeometryError, InputError
from medidiff.io import probe, read_volume
from medidiff.io.kspace import is_kspace, probe_kspace
from medidiff.io.sinogram import is_sinogram
from medidiff.reconstruct.options import ReconstructOptions

if TYPE_CHECKING:
    from medidiff.operators.slices import MeasuredProfile, Profile
    from medidiff.restoration.jobs.base import Job, Scan


def find_job(sources: Sequence[Path], options: ReconstructOptions) -> Job:
    """What is to be done with what lies there, from headers alone.

    Raises:
        InputError: it cannot be reconstructed as it is.
        ConfigError: these sources and options do not go together.
    """
    if len(sources) > 1:
        return _stacks(sources, options)
    if is_sinogram(sources[0]):
        return _projections(sources[0], options)
    if is_kspace(sources[0]):
        return _kspace(sources[0], options)
    info = probe(sources[0])  # what is no scan is told before torch is loaded
    from medidiff.restoration.jobs.base import Scan, SliceJob

    if options.motion:
        return _stacks(sources, options)
    scan = Scan(sources[0], info)
    if options.repairs:
        return _repair(scan, options)
    if options.operator is not None:
        from medidiff.restoration.jobs.composed import ComposedJob

        return ComposedJob.of(scan, options.operator)
    return SliceJob.of(scan, spacing=options.spacing, thickness=options.thickness, profile=_profile(options))


def _projections(source: Path, options: ReconstructOptions) -> Job:
    """Raw projections.

    Raises:
        ConfigError: options that are for scans.
    """
    chosen = (options.spacing, options.thickness, options.operator)
    if options.repairs or options.motion or any(value is not None for value in chosen) or options.profile != "box":
        raise ConfigError(
            f"{source} holds raw projections: --spacing, --thickness, --profile, --inpaint, --denoise, --motion and "
            "--operator are for scans; leave them out"
        )
    from medidiff.restoration.jobs.projections import ProjectionJob

    return ProjectionJob.at(source)


def _kspace(source: Path, options: ReconstructOptions) -> Job:
    """Raw k-space.

    Raises:
        ConfigError: options that are for images.
        InputError: it cannot be reconstructed; the message says why.
    """
    info = probe_kspace(source)
    chosen = (options.spacing, options.thickness, options.inpaint, options.operator)
    if any(value is not None for value in chosen) or options.denoise or options.motion or options.profile != "box":
        raise ConfigError(
            f"{source} is raw k-space: it becomes an image first, without --spacing, --thickness, --profile, "
            "--inpaint, --denoise, --motion or --operator"
        )
    from medidiff.restoration.jobs.kspace import KSpaceJob

    return KSpaceJob(source, info)


def _stacks(sources: Sequence[Path], options: ReconstructOptions) -> Job:
    """Stacks of one head, to be joined, or one during which it moved.

    Raises:
        ConfigError: options that are for one scan.
        GeometryError: these are no stacks of one place.
    """
    if options.repairs or options.operator is not None:
        raise ConfigError(
            f"several scans are joined as stacks of one head: {len(sources)} of them go with neither --inpaint, "
            "--denoise nor --operator"
        )
    if len({source.resolve() for source in sources}) < len(sources):
        raise ConfigError("the same scan is given twice: a stack counts once, give each of them once")
    for source in sources:
        if len(sources) > 1 and (is_sinogram(source) or is_kspace(source)):
            raise ConfigError(f"{source} holds raw data, which is reconstructed by itself: give it alone")
    infos = [probe(source) for source in sources]
    from medidiff.restoration.jobs.base import Scan
    from medidiff.restoration.jobs.stacks import StacksJob

    scans = [Scan(source, info) for source, info in zip(sources, infos, strict=True)]
    return StacksJob.of(
        scans,
        spacing=options.spacing,
        thickness=options.thickness,
        profile=_profile(options),
        shots=options.shots if options.motion else None,
    )


def _profile(options: ReconstructOptions) -> Profile | MeasuredProfile:
    """The slice profile that was asked for, read where it is a file."""
    if options.profile == "box":
        return "box"
    if options.profile == "gaussian":
        return "gaussian"
    from medidiff.restoration.operator_config import read_profile

    return read_profile(Path(options.profile))


def _repair(scan: Scan, options: ReconstructOptions) -> Job:
    """A job on the scan's own grid.

    Raises:
        InputError: the mask is none, or not one of this scan.
    """
    from medidiff.restoration.jobs.base import RepairJob
    from medidiff.restoration.repair import Denoise, Inpaint, check_same_grid

    if options.inpaint is None:
        return RepairJob(scan, Denoise(options.noise_std))
    try:
        check_same_grid(probe(options.inpaint).geometry, scan.info.geometry)  # before it is read
        return RepairJob(scan, Inpaint.from_mask(read_volume(options.inpaint), scan.info.geometry))
    except GeometryError as error:
        raise GeometryError(f"{options.inpaint}: {error}") from error
    except InputError as error:
        raise InputError(f"{options.inpaint}: {error}") from error
