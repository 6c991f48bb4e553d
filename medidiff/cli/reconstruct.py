"""``medidiff reconstruct``: a thick or noisy scan in, a better one out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medidiff.cli import console
from medidiff.cli.memory import reuse_freed_memory

if TYPE_CHECKING:
    from medidiff.geometry import Geometry
    from medidiff.reconstruct import ReconstructOptions, ReconstructResult
    from medidiff.restoration import Plan

Mode = Literal["mean", "sample"]


def reconstruct(
    scans: Annotated[
        list[Path], typer.Argument(metavar="SCAN", help="A NIfTI, MGZ, NRRD or raw-data file, or a DICOM folder.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write (default: beside the scan, NAME_medidiff.nii.gz)."),
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(help="Wanted voxel distance, mm (default: the in-plane one).")
    ] = None,
    thickness: Annotated[
        float | None, typer.Option(help="Slice thickness, mm (default: as the header says, else slices touch).")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Form of the slice profile: box, gaussian, or a CSV file (offset in mm, weight).")
    ] = "box",
    operator: Annotated[
        Path | None, typer.Option(help="Undo what this file says was done to the scan (YAML, see configs/).")
    ] = None,
    motion: Annotated[
        bool, typer.Option("--motion", help="Find out how the head moved between slices, and undo it.")
    ] = False,
    shots: Annotated[
        int, typer.Option(min=0, help="With --motion: slices were taken in so many interleaved shots (0: one by one).")
    ] = 0,
    inpaint: Annotated[
        Path | None, typer.Option(help="Fill the voxels that are 1 in this mask, on the scan's own grid, instead.")
    ] = None,
    denoise: Annotated[
        bool, typer.Option("--denoise", help="Take noise out, on the scan's own grid, instead.")
    ] = False,
    noise_std: Annotated[
        float | None, typer.Option(help="Standard deviation of the noise, in the scan's units (default: estimated).")
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Posterior samples to draw beside the mean.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Network evaluations for a sample, or for raw k-space.")] = 8,
    mode: Annotated[
        Mode, typer.Option(help="The result: the posterior mean, or one sample, less faithful and as sharp as a scan.")
    ] = "mean",
    interval: Annotated[
        bool,
        typer.Option("--interval", help="Also write how wide an interval around the mean must be (NAME_interval)."),
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration of that interval (default: the one beside the model).")
    ] = None,
    provenance: Annotated[
        bool, typer.Option("--provenance", help="Also write what no measurement fixes (NAME_from-prior).")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the samples (default: drawn, and recorded).")] = None,
    model: Annotated[str | None, typer.Option(help="A model that ships (`medidiff models`), or a file.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="No network: the classical answer alone.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda if there is one).")] = None,
    preview: Annotated[Path | None, typer.Option(help="Also draw a picture here (PNG).")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write a page here (HTML).")] = None,
) -> None:
    """Restore SCAN to voxels of equal sides, in the same place, with a JSON record beside it.

    The default is the posterior mean, one network evaluation, which is closest to the truth on average. --samples draws
    scans that are each as sharp as a real one, and their spread.
    """
    from medidiff.reconstruct import ReconstructOptions
    from medidiff.reconstruct import reconstruct as use_case

    reuse_freed_memory()

    options = ReconstructOptions(
        model=model,
        spacing=spacing,
        thickness=thickness,
        profile=profile,
        operator=operator,
        motion=motion,
        shots=shots,
        samples=samples,
        steps=steps,
        seed=seed,
        device=device,
        fast=fast,
        preview=preview,
        report=report,
        inpaint=inpaint,
        denoise=denoise,
        noise_std=noise_std,
        mode=mode,
        interval=interval,
        calibration=calibration,
        provenance=provenance,
    )
    with console.progress("reconstructing") as on_progress:
        result = use_case(scans, output, options, on_progress, print_plan)
    console.facts("", facts(result, options))


def print_plan(plan: Plan) -> None:
    """What was lost and what is done about it, in words, before the work begins."""
    for sentence in plan.words:
        console.say(sentence)
    for doubt in plan.doubts:
        console.log(f"medidiff: warning: {doubt}")


def facts(result: ReconstructResult, options: ReconstructOptions) -> dict[str, object]:
    """Where everything is, on which grid, and how well it agrees with the data."""
    record, volumes = result.record, result.volumes
    before, after = volumes["input"].geometry, volumes["restored"].geometry
    found: dict[str, object] = {
        "written": result.output,
        "samples": ", ".join(str(path) for path in result.samples),
        "spread": f"{result.spread} (not calibrated)" if result.spread else None,
        "interval": certainty(record, result.output) if options.wants_interval else None,
        "from the prior": from_prior(record) if options.provenance else None,
        "preview": options.preview,
        "report": options.report,
        "grid": grid(before) if before == after else f"{grid(before)} -> {grid(after)}",
        "model": record["model"] and record["model"]["name"],
        "noise": noise(record.get("by_frame", [])),
        "data consistency": None if options.denoise else f"{record['data_consistency_nrmse']:.2%} NRMSE",
        "took": f"{record['seconds']:.1f} s, {record['peak_memory_mb']} MB",
    }
    return {name: value for name, value in found.items() if value}


def certainty(record: Mapping[str, Any], output: Path) -> str:
    """Where the interval is and what it promises, or why there is none."""
    from medidiff.io.places import beside

    says = str(record["interval"]["says"])
    return f"{beside(output, '_interval')} ({says})" if record["interval"]["calibrated"] else says


def from_prior(record: Mapping[str, Any]) -> str:
    """How much of the result no measurement fixes."""
    shares = record["provenance"]
    return f"{shares['share']:.1%} of the contrast is fixed by no measurement, {shares['learned_share']:.1%} is learned"


def noise(frames: list[dict[str, float]]) -> str | None:
    """How strong the noise was, and how much was taken out, by frame."""
    told = [f for f in frames if "residual_over_noise" in f]
    return ", ".join(f"{f['noise_std']:.3g}, {f['residual_over_noise']:.0%} of it taken out" for f in told) or None


def grid(geometry: Geometry) -> str:
    """Voxels and spacing, e.g. ``256 x 256 x 23 (0.898 x 0.898 x 6.5 mm)``."""
    voxels = " x ".join(str(count) for count in geometry.shape)
    return f"{voxels} ({' x '.join(f'{step:.3g}' for step in geometry.spacing)} mm)"
