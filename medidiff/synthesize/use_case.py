"""The whole line: plan the set, draw what is not there yet, write it, show it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medidiff.data.cohort import centred_grid
from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.device import choose_device
from medidiff.diffusion.generator import GenerativeModel, GeneratorSpec, load_generator
from medidiff.generation.draw import Drawn, draw
from medidiff.io.source import file_sha256
from medidiff.models import find_model
from medidiff.progress import OnProgress
from medidiff.synthesize.options import SynthesizeOptions, SynthesizeResult
from medidiff.synthesize.plan import make_plan
from medidiff.synthesize.preview import write_preview
from medidiff.synthesize.wishes import Wishes
from medidiff.synthetic import SyntheticSetWriter

if TYPE_CHECKING:
    from medidiff.generation.cascade import Upsampler


def synthesize(output: Path, options: SynthesizeOptions, on_progress: OnProgress | None = None) -> SynthesizeResult:
    """Make a set, or the rest of one that a killed run began; the same options give the same bytes.

    Args:
        output: Folder of the set.
        on_progress: Called with items done, items in all, and what is being done.
    Raises:
        CheckpointError: there is no such generator.
        ConfigError: it has no such condition, its card lacks what a set must tell, or the folder has another set.
        InputError: a label map or scan cannot be read, or has classes that the generator does not know.
        GeometryError: it has another spacing than the generator's.
        OutputError: the folder cannot be written.
    """
    begun = time.perf_counter()
    path = find_model(options.model)
    device = choose_device(options.device)
    model, card = load_generator(path, device)
    model.spec.vector(dict(options.conditions))  # a wish that cannot be granted is told before anything is written
    wishes = Wishes(model.spec, options)
    second = _second_stage(options, device, model.spec)
    plan = make_plan(options, path.stem, file_sha256(path), card, model.spec, wishes)
    writer = SyntheticSetWriter(output, plan)
    made = 0 if writer.finished else _make(writer, model, second, wishes, options, on_progress)
    finished = writer.finish()
    preview = output.parent / f"{output.name}-preview.png"
    write_preview(finished, preview)
    return SynthesizeResult(
        folder=output,
        items=len(finished.items),
        made=made,
        set_sha256=finished.sha256,
        seconds=time.perf_counter() - begun,
        evaluations=options.evaluations,
        preview=preview,
    )


def _make(
    writer: SyntheticSetWriter,
    model: GenerativeModel,
    second: Upsampler | None,
    wishes: Wishes,
    options: SynthesizeOptions,
    on_progress: OnProgress | None,
) -> int:
    """Draw and write what is not there; returns how many items that were."""
    size = options.batch if next(model.parameters()).device.type == "cuda" else 1
    made, total = 0, len(wishes)
    begun = time.perf_counter()
    for start in range(0, total, size):
        batch = [wishes[number] for number in range(start, min(start + size, total))]
        missing = [wish for wish in batch if not writer.done(wish.id, wish.request.seed)]
        drawn = draw(model, [wish.request for wish in missing], options.sampling) if missing else []
        for wish, coarse in zip(missing, drawn, strict=True):
            item = coarse if second is None else _finer(second, coarse)
            writer.add(
                wish.id,
                wish.request.seed,
                item.image,
                item.label,
                suffix=model.spec.suffix,
                condition=wish.condition,
                metadata=wish.metadata,
            )
            made += 1
        if on_progress is not None:
            rate = made / (time.perf_counter() - begun) * 60
            on_progress(start + len(batch), total, f"drawing, {rate:.1f} volumes a minute" if made else "looking")
    return made


def _second_stage(options: SynthesizeOptions, device: torch.device, spec: GeneratorSpec) -> Upsampler | None:
    """The prior that makes items finer, if it is wanted; what it cannot do is told before anything is drawn."""
    if options.upsample is None:
        return None
    from medidiff.generation.cascade import Upsampler

    second = Upsampler(load_model(find_model(options.upsample), device)[0], options.spacing)
    second.grid(centred_grid(spec.shape, spec.spacing_mm))
    return second


def _finer(second: Upsampler, coarse: Drawn) -> Drawn:
    """An item on the finer grid; a label map is redrawn there, not looked for in the finer image."""
    return Drawn(second.image(coarse.image), None if coarse.label is None else second.label(coarse.label))
