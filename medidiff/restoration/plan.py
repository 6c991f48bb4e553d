"""What a header says was lost, in numbers and in words, and what would be done about it. No voxel is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from medidiff.errors import ConfigError, GeometryError
from medidiff.geometry import Geometry
from medidiff.operators.slices import MeasuredProfile, Profile, SliceOperator, SliceProfile

# Below this ratio of spacings an axis counts as fine enough: interpolation loses next to nothing there.
SMALLEST_FACTOR = 1.2
# The shipped prior has seen slice distances up to ten fine voxels.
LARGEST_TRAINED_FACTOR = 10.0
# ... and slices from this thin to this thick, over their distance.
TRAINED_THICKNESS = (0.6, 1.25)
FEWEST_SLICES = 4
# A grid of more voxels than this is a mistake in the header or in the wish, not a scan.
MAX_FINE_VOXELS = 1 << 30
# Headers hold spacings such as 0.999995 mm: a share of the extent as small as this is rounding, and no further voxel.
ROUNDING = 1e-5

_AXIS_WORDS = ("left to right", "back to front", "foot to head")


@dataclass(frozen=True, slots=True)
class Stage:
    """One axis to be restored.

    Args:
        axis: In the conformed volume (i->R, j->A, k->S).
        profile: Distance, thickness and form of the slices in fine voxels.
        coarse: The grid before, conformed.
        fine: The grid after: same place, more voxels along ``axis``.
    """

    axis: int
    profile: SliceProfile
    coarse: Geometry
    fine: Geometry

    def operator(self) -> SliceOperator:
        """What the scanner did, as an operator from the fine to the coarse grid of one channel."""
        return SliceOperator((1, *self.fine.shape), self.axis, self.profile, count=self.coarse.shape[self.axis])


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done to a scan.

    Args:
        stages: Axes to restore, the coarsest first; empty if nothing was lost.
        spacing: Wanted distance of voxels, mm.
        words: The same for a person, one sentence each.
        warnings: What a careful user should know of the data beforehand.
        prior_warnings: The same of the shipped prior: void where no network runs.
    """

    stages: tuple[Stage, ...]
    spacing: float
    words: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    prior_warnings: tuple[str, ...] = ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """All warnings."""
        return (*self.warnings, *self.prior_warnings)

    def without_prior(self) -> Plan:
        """The same plan, carried out without a network."""
        return replace(self, prior_warnings=())

    def fine_geometry(self, original: Geometry) -> Geometry:
        """The restored grid with the axes in the order and direction of the original file."""
        _, order, _ = original.reoriented()
        for stage in self.stages:
            count, step = stage.fine.shape[stage.axis], stage.fine.spacing[stage.axis]
            original = original.resampled(order[stage.axis], count, step)
        return original


def make_plan(
    geometry: Geometry,
    *,
    spacing: float | None = None,
    thickness: float | None = None,
    profile: Profile | MeasuredProfile = "box",
) -> Plan:
    """Decide what was lost from the grid alone.

    Args:
        geometry: As the file has it.
        spacing: Wanted distance of voxels, mm; by default the finest of the scan.
        thickness: Thickness of the slices, mm; by default slices touch.
        profile: Form of the slice profile; a measured one, offsets in mm, says how thick slices are.
    Raises:
        GeometryError: the grid is sheared, or the result would be absurdly large.
        ConfigError: a spacing or thickness that is not positive.
    """
    _check(geometry, spacing, thickness)
    measured = isinstance(profile, MeasuredProfile)
    if isinstance(profile, MeasuredProfile):
        thickness = profile.fwhm
    conformed, _, _ = geometry.reoriented()
    target = min(conformed.spacing) if spacing is None else spacing
    stages: list[Stage] = []
    words: list[str] = []
    warnings: list[str] = []
    prior_warnings: list[str] = []
    grid = conformed
    for axis in sorted(range(3), key=lambda a: -conformed.spacing[a]):
        distance = conformed.spacing[axis]
        if distance / target < SMALLEST_FACTOR:
            continue
        own_thickness = thickness if thickness is not None and not stages else distance
        # What was measured was the profile of the slices, not of the voxels in their plane.
        form = "box" if stages and measured else profile
        stage = _stage(grid, axis, target, own_thickness, form)
        stages.append(stage)
        words.append(_describe(stage, own_thickness, assumed=thickness is None or len(stages) > 1))
        prior_warnings += _prior_warnings(stage)
        if stage.coarse.shape[axis] < FEWEST_SLICES:
            warnings.append(f"Only {stage.coarse.shape[axis]} slices: too few to know what lies between them.")
        grid = stage.fine
    if not stages:
        words.append(
            f"Every axis is already within {SMALLEST_FACTOR:g} of {target:.3g} mm: nothing to restore. "
            "Ask for a finer grid with --spacing."
        )
    return Plan(tuple(stages), target, tuple(words), tuple(warnings), tuple(prior_warnings))


def finer(grid: Geometry, axis: int, target: float) -> Geometry:
    """A grid with voxels of ``target`` mm along an axis that cover the slices edge to edge, so that none is cut off.

    Where only rounding would add a voxel, the voxels are wider by that much instead.
    """
    extent = grid.shape[axis] * grid.spacing[axis]
    count = max(1, math.ceil(extent / target * (1 - ROUNDING)))
    return grid.resampled(axis, count, max(target, extent / count))


def _stage(grid: Geometry, axis: int, target: float, thickness: float, profile: Profile | MeasuredProfile) -> Stage:
    fine = finer(grid, axis, target)
    if math.prod(fine.shape) > MAX_FINE_VOXELS:
        raise GeometryError(f"the result would have {math.prod(fine.shape):.2g} voxels: choose a coarser --spacing")
    return Stage(axis, SliceProfile.of(grid.spacing[axis], thickness, profile, fine.spacing[axis]), grid, fine)


def _describe(stage: Stage, thickness: float, *, assumed: bool) -> str:
    distance = stage.coarse.spacing[stage.axis]
    if abs(thickness - distance) < 0.02 * distance:
        form = "touching (assumed: the header does not say)" if assumed else "touching"
    else:
        form = f"{thickness:.3g} mm thick, {'with gaps' if thickness < distance else 'overlapping'}"
    count = stage.coarse.shape[stage.axis]
    return (
        f"{count} slices from {_AXIS_WORDS[stage.axis]}, {distance:.3g} mm apart, {form}; restored to "
        f"{stage.fine.shape[stage.axis]} at {stage.fine.spacing[stage.axis]:.3g} mm "
        f"(factor {stage.profile.factor:.3g}, {stage.profile.kind} profile)."
    )


def _prior_warnings(stage: Stage) -> list[str]:
    doubts = []
    if stage.profile.factor > LARGEST_TRAINED_FACTOR:
        doubts.append(
            f"A factor of {stage.profile.factor:.3g} is beyond what the shipped prior was trained on "
            f"({LARGEST_TRAINED_FACTOR:g}): fine detail between slices is guesswork. Consider a larger --spacing."
        )
    ratio = stage.profile.thickness / stage.profile.factor
    thin, thick = TRAINED_THICKNESS
    if not 0.95 * thin <= ratio <= 1.05 * thick:
        doubts.append(
            f"Slices {ratio:.2g} times as thick as they are apart are outside what the shipped prior was trained on "
            f"({thin:g} to {thick:g}). If the header is wrong, say --thickness."
        )
    return doubts


def _check(geometry: Geometry, spacing: float | None, thickness: float | None) -> None:
    for name, value in (("--spacing", spacing), ("--thickness", thickness)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be a positive number of mm, got {value:g}")
    if not geometry.is_orthogonal:
        raise GeometryError(
            f"the voxel axes are not at right angles (largest cosine {geometry.shear:.3g}), as after a gantry tilt; "
            "resample the scan to an orthogonal grid first"
        )
    if sorted(geometry.shape)[1] < 8:
        raise GeometryError(f"a volume needs at least 8 voxels along two axes, got {geometry.shape}: this is no volume")
