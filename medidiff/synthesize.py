"""The use case *synthesize*: a generator and a wish in, a labelled set of synthetic volumes out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from medidiff import __version__
from medidiff.config import Config, config_digest
from medidiff.data.cohort import nameless, onto
from medidiff.data.intensity import IntensityCodec
from medidiff.errors import CheckpointError, GeometryError, InputError, MedidiffError
from medidiff.generation.draw import Drawn, Request, Sampling, SolverName, draw, level_of
from medidiff.generation.metadata import MetadataModel, conditions_of
from medidiff.io import read_volume
from medidiff.io.atomic import atomic_file
from medidiff.io.formats import strip_extension
from medidiff.models import find_model
from medidiff.rng import derive_seed
from medidiff.synthetic import Code, Generator, LabelClass, Metadata, SetPlan, Source, SyntheticSetWriter
from medidiff.volume import Volume

if TYPE_CHECKING:
    from medidiff.diffusion.generator import GenerativeModel, GeneratorSpec
    from medidiff.generation.cascade import Upsampler
    from medidiff.report.contact import Thumbnail

OnProgress = Callable[[int, int, str], None]

# Of these the card of a generator must tell, or no set can be made with it: a set without licences cannot go out.
NEEDED_ON_CARD = ("sources", "samples_licence", "training_split_sha256")
SPACING_TOLERANCE = 0.02
PREVIEW_CELLS = 36
MOST_ITEMS = 10_000_000


class SynthesizeOptions(Config):
    """What a set is to be.

    Args:
        model: Name of a generator that ships, or a model file.
        count: Items in all.
        steps, solver: How the noise is walked down; more steps are slower and, up to about 30, truer.
        guidance_scale: How much conditions are stressed.
        conditions: What every item is asked to be.
        labels: A folder of label maps, or one map: images are drawn for them, map after map, until there are ``count``.
        vary: A scan; the items are variations of it. The generator saw nothing of it, but the set then shows it.
        strength: Of variations, 0 to 1.
        upsample, spacing: A prior that restores (``brain-t1``) makes every item this fine, mm: the second stage of a
            cascade. What it adds is the posterior mean.
        batch: Items at once on a GPU; on a processor items are drawn one by one, and it changes nothing.
        name, description: Of the set.
    """

    kind: Literal["synthesize"] = "synthesize"
    model: str = "hippocampus"
    count: int = Field(64, ge=1, le=MOST_ITEMS)
    seed: int = Field(0, ge=0, lt=1 << 63)
    steps: int = Field(18, ge=2, le=200)
    solver: SolverName = "stochastic"
    guidance_scale: float = Field(1.0, ge=0, le=20)
    conditions: dict[str, float | str] = Field(default_factory=dict)
    labels: Path | None = None
    vary: Path | None = None
    strength: float = Field(0.4, ge=0, le=1)
    upsample: str | None = None
    spacing: float = Field(1.0, gt=0, le=10)
    metadata: MetadataModel = MetadataModel()
    batch: int = Field(8, ge=1)
    device: str | None = None
    name: str = Field("synthetic", pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,63}$")
    description: str = Field("", max_length=2000)

    @model_validator(mode="after")
    def _one_wish(self) -> SynthesizeOptions:
        if self.labels is not None and self.vary is not None:
            raise ValueError("give labels or vary, not both")
        return self

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.steps, self.solver, self.guidance_scale, self.strength)


@dataclass(frozen=True, slots=True)
class SynthesizeResult:
    """What was made.

    Args:
        folder: The set.
        items: In the set.
        made: By this run; an earlier one that was killed may have made the others.
        set_sha256: The hash of the whole set, which reports on it must name.
        seconds: Of this run.
        evaluations: Of the network, an item.
        preview: A picture of the first items, beside the set.
    """

    folder: Path
    items: int
    made: int
    set_sha256: str
    seconds: float
    evaluations: int
    preview: Path


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
    from medidiff.diffusion.checkpoint import file_hash
    from medidiff.diffusion.generator import load_generator

    begun = time.perf_counter()
    path = find_model(options.model)
    model, card = load_generator(path, _device(options.device))
    model.spec.vector(dict(options.conditions))  # a wish that cannot be granted is told before anything is written
    wishes = _Wishes(model.spec, options)
    second = _second_stage(options, next(model.parameters()).device, model.spec)
    plan = _plan(options, path.stem, file_hash(path), card, model.spec, wishes)
    writer = SyntheticSetWriter(output, plan)
    made = 0
    if not writer.finished:
        made = _make(writer, model, options, wishes, on_progress, second)
    finished = writer.finish()
    preview = output.parent / f"{output.name}-preview.png"
    write_preview(finished.folder, [item.id for item in finished.items[:PREVIEW_CELLS]], preview)
    return SynthesizeResult(
        folder=output,
        items=len(finished.items),
        made=made,
        set_sha256=finished.sha256,
        seconds=time.perf_counter() - begun,
        evaluations=options.sampling.evaluations(bool(options.conditions)),
        preview=preview,
    )


@dataclass(frozen=True, slots=True)
class _Wish:
    """One item, before it is drawn."""

    id: str
    request: Request
    metadata: Metadata


class _Wishes:
    """What every item is to be, by its number: nothing here depends on which items there are already."""

    def __init__(self, spec: GeneratorSpec, options: SynthesizeOptions) -> None:
        self.spec, self.options = spec, options
        self.maps = [] if options.labels is None else list(_read_maps(options.labels, spec))
        self.like = None if options.vary is None else _read_scan(options.vary, spec)
        self.metadata = options.metadata.draw(options.count, options.seed)
        self.digests = {
            name: _digest(files)
            for name, files in (
                ("labels_sha256", [] if options.labels is None else _files(options.labels)),
                ("vary_sha256", [] if options.vary is None else [options.vary]),
            )
            if files
        }

    def __getitem__(self, number: int) -> _Wish:
        seed = derive_seed(self.options.seed, number)
        metadata = self.metadata[number]
        values = conditions_of(metadata, self.spec, seed) | self.options.conditions
        labels, inside = self.maps[number % len(self.maps)] if self.maps else (None, None)
        like = None
        if self.like is not None:
            like, inside = self.like
        return _Wish(f"s{number + 1:06d}", Request(seed, values, labels, like, inside), metadata)

    def __len__(self) -> int:
        return self.options.count


def _make(
    writer: SyntheticSetWriter,
    model: GenerativeModel,
    options: SynthesizeOptions,
    wishes: _Wishes,
    on_progress: OnProgress | None,
    second: Upsampler | None = None,
) -> int:
    """Draw and write what is not there; returns how many items that were."""
    device = next(model.parameters()).device
    size = options.batch if device.type == "cuda" else 1
    made, total = 0, len(wishes)
    begun = time.perf_counter()
    for start in range(0, total, size):
        batch = [wishes[number] for number in range(start, min(start + size, total))]
        missing = [wish for wish in batch if not writer.done(wish.id, wish.request.seed)]
        for wish, coarse in zip(missing, _drawn(model, missing, options.sampling), strict=True):
            drawn = coarse if second is None else upsampled(second, coarse)
            writer.add(
                wish.id,
                wish.request.seed,
                drawn.image,
                drawn.label,
                suffix=model.spec.suffix,
                condition=_condition(wish.request, options),
                metadata=wish.metadata,
            )
            made += 1
        if on_progress is not None:
            rate = made / (time.perf_counter() - begun) * 60
            on_progress(start + len(batch), total, f"drawing, {rate:.1f} volumes a minute" if made else "looking")
    return made


def _drawn(model: GenerativeModel, wishes: Sequence[_Wish], sampling: Sampling) -> list[Drawn]:
    return draw(model, [wish.request for wish in wishes], sampling) if wishes else []


def _second_stage(options: SynthesizeOptions, device: Any, spec: GeneratorSpec) -> Upsampler | None:
    """The prior that makes items finer, if it is wanted; what it cannot do is told before anything is drawn."""
    if options.upsample is None:
        return None
    from medidiff.data.cohort import centred_grid
    from medidiff.diffusion.checkpoint import load_model
    from medidiff.generation.cascade import Upsampler

    second = Upsampler(load_model(find_model(options.upsample), device)[0], options.spacing)
    second.grid(centred_grid(spec.shape, spec.spacing_mm))
    return second


def upsampled(second: Upsampler, coarse: Drawn) -> Drawn:
    """An item on the finer grid; a label map is redrawn there, not looked for in the finer image."""
    return Drawn(second.image(coarse.image), None if coarse.label is None else second.label(coarse.label))


def _condition(request: Request, options: SynthesizeOptions) -> dict[str, str | int | float | bool | None]:
    """What the record of an item says it was given."""
    told: dict[str, str | int | float | bool | None] = dict(request.values)
    if request.labels is not None:
        told["label_map"] = "given"
    if request.like is not None:
        told |= {"variation": True, "strength": options.strength}
    return told


def _plan(
    options: SynthesizeOptions, name: str, sha256: str, card: dict[str, Any], spec: GeneratorSpec, wishes: _Wishes
) -> SetPlan:
    from medidiff.diffusion.checkpoint import file_hash

    missing = [key for key in NEEDED_ON_CARD if not card.get(key)]
    if missing:
        raise CheckpointError(
            f"the card of the generator {name} does not tell {', '.join(missing)}: no set made with it could go out"
        )
    # What the files are called, and how many items are drawn at once, does not change what is drawn.
    same = options.model_copy(update={"batch": 1, "device": None, "model": name, "labels": None, "vary": None})
    sampler: dict[str, Any] = {
        "steps": options.steps,
        "solver": options.solver,
        "guidance_scale": options.guidance_scale,
        "evaluations": options.sampling.evaluations(bool(options.conditions)),
        "sigma_min": spec.sigma_min,
        "sigma_max": spec.sigma_max,
        **wishes.digests,
    }
    if options.upsample is not None:
        found = find_model(options.upsample)
        sampler |= {"upsample": found.stem, "upsample_sha256": file_hash(found), "spacing_mm": options.spacing}
    if options.vary is not None:
        sampler |= {"strength": options.strength, "begins_at_sigma": round(level_of(spec, options.strength), 6)}
    try:
        return SetPlan(
            name=options.name,
            description=options.description or _description(options, name, card),
            note=_note(options),
            created=datetime.now(UTC),
            code_version=__version__,
            config_sha256=config_digest(same),
            seed=options.seed,
            generator=Generator(name=name, sha256=sha256, card=card, sampler=sampler),
            sources=tuple(Source.model_validate(source) for source in card["sources"]),
            training_split_sha256=card["training_split_sha256"],
            licence=card["samples_licence"],
            labels=tuple(_label_class(entry.value, entry.name, card) for entry in spec.labels),
            metadata_model=options.metadata.line(),
            public_conditions=tuple(sorted(card.get("public_conditions", ()))),
            body_part=card.get("body_part"),
            skull_stripped=bool(card.get("skull_stripped", False)),
        )
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise CheckpointError(f"the card of the generator {name}: {place}: {problem['msg']}") from None


def _label_class(value: int, name: str, card: dict[str, Any]) -> LabelClass:
    code = card.get("label_codes", {}).get(str(value))
    return LabelClass(value=value, name=name, code=None if code is None else Code.model_validate(code))


def _description(options: SynthesizeOptions, name: str, card: dict[str, Any]) -> str:
    what = str(card.get("summary", f"volumes drawn from the generator {name}"))
    if options.labels is not None:
        return f"{what}. Images drawn for given label maps."
    if options.vary is not None:
        return f"{what}. Variations of one given scan."
    return f"{what}. Images and label maps drawn together."


def _note(options: SynthesizeOptions) -> str:
    if options.labels is not None:
        return "The label maps were given, not drawn: where they come from people, they show those people's anatomy."
    if options.vary is not None:
        return "Every item is a variation of one given scan and shows what that scan shows."
    return ""


def _files(place: Path) -> list[Path]:
    """Label maps of a folder, in the order of their names, or the one that is named.

    Raises:
        InputError: there is none.
    """
    if not place.is_dir():
        return [place]
    found = sorted(
        path
        for path in place.iterdir()
        if path.is_file() and not path.name.startswith(".") and strip_extension(path.name) != path.name
    )
    if not found:
        raise InputError(f"{place}: no label map (NIfTI, MGZ or NRRD) in this folder")
    return found


def _read_maps(place: Path, spec: GeneratorSpec) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """The label maps of a folder, or the one that is named; what is wrong in a folder is told by number, not by name.

    Raises:
        InputError: a map cannot be read, or has values that the generator does not know.
        GeometryError: it has other voxels than the generator's.
    """
    for number, path in enumerate(_files(place), 1):
        try:
            yield _read_map(path, spec)
        except (MedidiffError, OSError) as error:
            if path == place:
                raise
            kind = GeometryError if isinstance(error, GeometryError) else InputError
            raise kind(f"{place}: label map {number} in the order of names: {nameless(error, path)}") from None


def _read_map(path: Path, spec: GeneratorSpec) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A label map on the generator's grid, and which voxels it has."""
    volume = _on_spacing(path, spec)
    values = volume.data[0]
    known = {0, *(entry.value for entry in spec.labels)}
    strange = sorted({float(value) for value in np.unique(values)} - known)
    if strange:
        text = ", ".join(f"{value:g}" for value in strange[:5])
        raise InputError(f"{path}: values {text}; this generator knows {', '.join(map(str, sorted(known)))}")
    inside = onto(np.ones(values.shape, dtype=bool), spec.shape, constant=True)
    return onto(values.astype(np.uint8), spec.shape, constant=True), inside


def _read_scan(path: Path, spec: GeneratorSpec) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A scan on the generator's grid in model units, and which voxels it has."""
    volume = _on_spacing(path, spec)
    codec = IntensityCodec.fit(volume.data, volume.modality)
    inside = onto(np.ones(volume.geometry.shape, dtype=bool), spec.shape, constant=True)
    return onto(codec.encode(volume.data[0].astype(np.float32)), spec.shape), inside


def _on_spacing(path: Path, spec: GeneratorSpec) -> Volume:
    volume = read_volume(path).reoriented()
    if volume.data.shape[0] != 1:
        raise InputError(f"{path}: has {volume.data.shape[0]} frames; one is expected")
    if not np.allclose(volume.geometry.spacing, spec.spacing_mm, rtol=SPACING_TOLERANCE):
        have, want = (" x ".join(f"{mm:.2f}" for mm in each) for each in (volume.geometry.spacing, spec.spacing_mm))
        raise GeometryError(f"{path}: voxels of {have} mm; the generator draws voxels of {want} mm: resample it first")
    return volume


def _digest(files: Sequence[Path]) -> str:
    """Of what files hold, in their order; their names are not in it."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def _device(name: str | None) -> Any:
    from medidiff.reconstruct.use_case import choose_device

    return choose_device(name)


def write_preview(folder: Path, items: Sequence[str], target: Path) -> None:
    """A contact sheet of items of a set: three planes of each, and once more with the borders of its label map."""
    from medidiff.report.contact import contact_sheets

    sheet = next(contact_sheets(list(_thumbnails(folder, items))[:PREVIEW_CELLS]))
    with atomic_file(target) as temporary:
        temporary.write_bytes(sheet)


def _thumbnails(folder: Path, items: Sequence[str]) -> Iterator[Thumbnail]:
    from medidiff.report.contact import Thumbnail, thumbnail_png
    from medidiff.synthetic.records import image_path, label_path

    for item in items:
        image = read_volume(folder / image_path(item))
        yield Thumbnail(thumbnail_png(image), item, "synthetic")
        if (folder / label_path(item)).exists():
            borders = _borders(read_volume(folder / label_path(item)).data)
            drawn = np.where(borders, image.data.max(), image.data)
            yield Thumbnail(thumbnail_png(replace(image, data=drawn)), item, "with the borders of its label map")


def _borders(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels of a structure that touch another class or the background."""
    from scipy.ndimage import maximum_filter, minimum_filter

    whole = labels[0]
    edge: NDArray[np.bool_] = (whole > 0) & (maximum_filter(whole, 3) != minimum_filter(whole, 3))
    return edge[None]
