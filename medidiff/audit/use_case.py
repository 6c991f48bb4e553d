"""The use case *audit*: what a synthetic set leaks of the people its generator learned from.

    result = audit("sets/hippocampus", AuditOptions(training=Cohort(...), held_out=Cohort(...), model="hippocampus"))

Copies of single people are sought in the image, in the features of an encoder, and in the label maps; the set as a
whole is held against both groups of people; and attacks try to tell who was trained on. The report goes into the
set's folder, where ``release`` looks for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff import __version__
from medidiff.audit.attacks import attack_model
from medidiff.audit.figures import copies_figure, even_figure, low_rate_figure, order_of_nearness, reasons
from medidiff.audit.options import AuditOptions, AuditResult
from medidiff.config import config_digest
from medidiff.data.cohort import People, check_sides, load_people, onto, people, split_sha256
from medidiff.data.intensity import IntensityCodec
from medidiff.errors import CheckpointError, InputError
from medidiff.privacy.leakage.decision import auc
from medidiff.privacy.leakage.examine import (
    PIECE,
    Copies,
    Space,
    image_space,
    judge_copies,
    plain_space,
    sample_attack,
    search_people,
    set_level,
)
from medidiff.privacy.leakage.likeness import embedded_likeness, label_likeness
from medidiff.privacy.leakage.membership import together
from medidiff.privacy.leakage.resemblance import Gallery, Match, Searched, flip_axes, joined
from medidiff.privacy.leakage.store import Store
from medidiff.report.contact import thumbnail_png
from medidiff.synthetic.metadata import K, combination, rare_combinations
from medidiff.synthetic.reports import DifferentialPrivacy, Family, Metric, Neighbour, PrivacyReport, write_report
from medidiff.synthetic.stored import SyntheticSet
from medidiff.volume import Volume

Array = NDArray[Any]
OnProgress = Callable[[int, int, str], None]
# In the card of a model that was trained with a guarantee.
DP_KEY = "differential_privacy"
_DISTANCE = (
    "Distance is one minus the correlation of fine structure, block by block, under the flip that suits best. An item "
    "counts as a copy where it is nearer to one training person than to the next ones by more than chance explains, so "
    "the limit is each item's own."
)


@dataclass(slots=True)
class _Work:
    """An audit under way."""

    synthetic: SyntheticSet
    options: AuditOptions
    who: People
    members: list[int]
    non_members: list[int]
    store: Store
    people_store: Store
    tell: OnProgress
    images: Array
    labels: Array | None
    model: Path | None
    notes: list[str] = field(default_factory=list)

    @property
    def volumes(self) -> Array:
        return self.who.images[:, 0]


def audit(folder: str | os.PathLike[str], options: AuditOptions, on_progress: OnProgress | None = None) -> AuditResult:
    """Examine what a synthetic set leaks and write ``privacy.json`` into it.

    Args:
        folder: A finished set.
        options: Whom it is held against.
        on_progress: Called with steps done, steps in all, and what is being done.
    Raises:
        ConfigError: the people named are not those that the generator was trained on, or somebody is on both sides.
        InputError: there is no finished set, or its files are not what its records say.
        CheckpointError: the model or the encoder cannot be read, or the model is not the set's.
        OutputError: the report cannot be written.
    """
    started = time.monotonic()
    synthetic = SyntheticSet.open(folder)
    work = _prepare(synthetic, options, on_progress or _silent)
    spaces, items = _spaces(work)
    copies = [judge_copies(space) for space in spaces]
    metrics = [copies_figure(entry) for entry in copies]
    metrics += _memorised_as_a_whole(work, spaces)
    metrics += _membership(work, spaces)
    work.tell(_STEPS, _STEPS, "writing the report")
    report = PrivacyReport.conclude(
        metrics,
        [*reasons(len(work.members), len(work.non_members), len(synthetic.items)), *_metadata_reasons(synthetic)],
        set_sha256=synthetic.sha256,
        created=datetime.now(UTC),
        code_version=__version__,
        config_sha256=config_digest(options),
        notes=tuple(work.notes + _words(synthetic)),
        training_split_sha256=synthetic.record.training_split_sha256,
        members=len(work.members),
        non_members=len(work.non_members),
        neighbours=_neighbours(work, copies, *items.matches),
        differential_privacy=_guarantee(synthetic.record.generator.card),
    )
    path = write_report(report, synthetic.folder)
    work.store.clear()
    if options.work is None:
        Store(work.store.folder.parent).clear()
    found = np.any([entry.found for entry in copies], axis=0)
    return AuditResult(
        report.verdict,
        report.reasons,
        path,
        report.metrics,
        tuple(item.id for item, is_copy in zip(synthetic.items, found, strict=True) if is_copy),
        time.monotonic() - started,
    )


_STEPS = 6


def _prepare(synthetic: SyntheticSet, options: AuditOptions, tell: OnProgress) -> _Work:
    """Read the set and the people, and refuse those that do not belong together."""
    tell(0, _STEPS, "reading the set and the people")
    faults = synthetic.faults()
    if faults:
        raise InputError(f"{synthetic.folder}: the set is not what its records say: {faults[0]}")
    trained, others = people(options.training), people(options.held_out)
    digest = synthetic.record.training_split_sha256
    check_sides(trained, others, digest)
    model = None if options.model is None else _its_model(synthetic, options.model)
    read = [_read(synthetic, number) for number in range(len(synthetic.items))]
    shape = options.shape or _common_shape([image.shape for image, _ in read])
    who = load_people([*trained, *others], shape)
    images = np.stack([onto(image, shape) for image, _ in read]).astype(np.float32)
    maps = [label for _, label in read if label is not None]
    labels = np.stack([onto(m, shape, constant=True) for m in maps]) if len(maps) == len(read) else None
    place = options.work or synthetic.folder.parent / f".{synthetic.folder.name}.medidiff-audit"
    store = Store(place / _key(synthetic.sha256, config_digest(options)))
    people_store = Store(place / f"people-{_key(digest, split_sha256(others), str(shape))}")
    members = list(range(len(trained)))
    non_members = list(range(len(trained), len(trained) + len(others)))
    return _Work(synthetic, options, who, members, non_members, store, people_store, tell, images, labels, model)


def _key(*parts: str) -> str:
    return hashlib.sha256(" ".join((*parts, __version__)).encode()).hexdigest()[:16]


def _digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(synthetic: SyntheticSet, number: int) -> tuple[Array, Array | None]:
    """Image in model units and label map of an item, along R, A, S, as people are read."""
    item = synthetic.items[number]
    image = synthetic.image(item).reoriented()
    label = synthetic.label(item)
    scaled = IntensityCodec.fit(image.data, image.modality).encode(image.data[0].astype(np.float32))
    return scaled, None if label is None else np.asarray(label.reoriented().data[0])


def _common_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    i, j, k = (max(sizes) + max(sizes) % 2 for sizes in zip(*shapes, strict=True))
    return i, j, k


def _spaces(work: _Work) -> tuple[list[Space], Searched]:
    """Every space in which items can be held against people."""
    image, items = _image_space(work)
    spaces = [image]
    embedding = _embedding_space(work)
    spaces += [embedding] if embedding else []
    if work.labels is not None and work.who.labels is not None:
        work.tell(4, _STEPS, "comparing label maps")
        maps, known = work.labels, work.who.labels[:, 0]
        drawn = hashlib.sha256(known.tobytes()).hexdigest()[:16]  # the folder is named for their images alone
        people_found = work.people_store.arrays(f"labels-{drawn}", lambda: {"real": label_likeness(known, known)})
        found = work.store.arrays("labels", lambda: {"items": label_likeness(maps, known)})
        spaces.append(
            plain_space("label maps", found["items"], people_found["real"], work.members, work.non_members, leads=False)
        )
    else:
        work.notes.append("Label maps were not compared: the set or the people have none.")
    return spaces, items


def _image_space(work: _Work) -> tuple[Space, Searched]:
    """Copies in the image: everybody among the training people first, which is what chance does; then the items."""
    gallery = Gallery(work.volumes)
    real: list[Searched] = []
    for who, search in search_people(gallery, work.volumes, work.members, work.non_members):
        done = sum(len(part.coarse) for part in real)
        work.tell(1, _STEPS, f"comparing people with one another, {done} of {len(gallery)} done")
        real.append(_unpacked(work.people_store.arrays(f"{who[0]:06d}", partial(_packed, search))))
    items = []
    groups = (work.members, work.non_members)
    for start in range(0, len(work.images), PIECE):
        work.tell(2, _STEPS, f"comparing items with people, {start} of {len(work.images)} done")
        search = partial(gallery.search, work.images[start : start + PIECE], groups)
        items.append(_unpacked(work.store.arrays(f"items-{start:06d}", partial(_packed, search))))
    found = joined(items)
    return image_space(joined(real), found, work.members, work.non_members), found


def _packed(search: Callable[[], Searched]) -> dict[str, Array]:
    result = search()
    return {"coarse": result.coarse} | {
        f"matches{number}": np.array([[m.person, m.likeness, m.lead, *m.flips, m.inverted] for m in group], dtype=float)
        for number, group in enumerate(result.matches)
    }


def _unpacked(kept: Mapping[str, Array]) -> Searched:
    def match(row: Array) -> Match:
        flips = (bool(row[3]), bool(row[4]), bool(row[5]))
        return Match(int(row[0]), float(row[1]), float(row[2]), flips, bool(row[6]))

    groups = sorted(name for name in kept if name.startswith("matches"))
    return Searched(kept["coarse"], tuple(tuple(match(row) for row in kept[name]) for name in groups))


def _embedding_space(work: _Work) -> Space | None:
    from medidiff.metrics.features import load_encoder

    if work.options.encoder is None:
        work.notes.append("Copies were sought in the image alone: no encoder was named.")
        return None
    encoder = load_encoder(work.options.encoder)
    work.tell(3, _STEPS, "comparing features")

    def look_at_people() -> Mapping[str, Array]:
        features = encoder.embed(work.who.images)
        return {"features": features, "real": embedded_likeness(work.volumes, features, encoder)}

    known = work.people_store.arrays(f"features-{encoder.sha256[:16]}", look_at_people)
    found = work.store.arrays(
        f"features-{encoder.sha256[:16]}",
        lambda: {"items": embedded_likeness(work.images, known["features"], encoder)},
    )
    work.notes.append(
        f"Embedding: the encoder {encoder.name}, {encoder.dimensions} features, SHA-256 {encoder.sha256}; "
        "likeness is the cosine of centred features under the flip that suits best."
    )
    return plain_space("embedding", found["items"], known["real"], work.members, work.non_members, leads=True)


def _memorised_as_a_whole(work: _Work, spaces: Sequence[Space]) -> list[Metric]:
    note = (
        "Share of items whose nearest training person is nearer than their nearest other person, in equal numbers of "
        "either; one half is what a generator has that knows nobody in particular. The interval is over people."
    )
    return [
        even_figure(
            f"nearer to training than to others ({space.name})",
            Family.MEMORISATION,
            set_level(space, work.members, work.non_members, seed=work.options.seed),
            note,
        )
        for space in spaces
    ]


def _membership(work: _Work, spaces: Sequence[Space]) -> list[Metric]:
    """Attacks from the samples in every space, and on the model where there is one."""
    told = []
    for space in spaces:
        own, other, estimate = sample_attack(space, work.members, work.non_members)
        name = f"membership AUC (samples, {space.name})"
        note = "How near a person's nearest items are, less how near real others are. Nothing but the set is needed."
        told += [even_figure(name, Family.MEMBERSHIP, estimate, note), low_rate_figure(name, own, other)]
    if work.model is None:
        work.notes.append("The model itself was not attacked: it was not given. Only what its samples tell was tried.")
        return told
    found = _attacked(work, work.model)
    levels = ", ".join(f"{sigma:g}" for sigma in work.options.sigmas)
    for attack, scores in found.items():
        own, other = np.split(together(scores), [len(work.members)])
        name = f"membership AUC ({attack})"
        each = [auc(row[: len(work.members)], row[len(work.members) :]).value for row in scores]
        note = f"White box, at noise levels {levels}: {', '.join(f'{value:.2f}' for value in each)} one by one."
        told += [even_figure(name, Family.MEMBERSHIP, auc(own, other), note), low_rate_figure(name, own, other)]
    return told


def _its_model(synthetic: SyntheticSet, name: str) -> Path:
    """The file of the generator, which must be the one that made the set."""
    from medidiff.models import find_model

    path = find_model(name)
    if _digest_of(path) != synthetic.record.generator.sha256:
        raise CheckpointError(f"{path}: the set was made by another model; name that one, or none")
    return path


def _attacked(work: _Work, path: Path) -> dict[str, Array]:
    work.tell(5, _STEPS, "attacking the model")

    def make() -> Mapping[str, Array]:
        return attack_model(path, work.who, work.options)

    return work.store.arrays("model", make)


def _neighbours(
    work: _Work, copies: Sequence[Copies], nearest: Sequence[Match], others: Sequence[Match]
) -> tuple[Neighbour, ...]:
    """Every item beside the training volume nearest to it, those that need looking at first."""
    limit = copies[0].limit.value
    order = order_of_nearness(copies, np.array([match.lead for match in nearest]), limit)
    told = []
    for place, number in enumerate(order):
        match, item = nearest[number], work.synthetic.items[number]
        shown = place < work.options.pictures
        told.append(
            Neighbour(
                item=item.id,
                distance=max(0.0, 1 - match.likeness),
                limit=max(0.0, 1 - (match.likeness - match.lead + limit)),
                held_out=max(0.0, 1 - others[number].likeness),
                under=match.under,
                sample_png=_picture(work, work.images[number]) if shown else None,
                nearest_png=_picture(work, _as_matched(work, match)) if shown else None,
            )
        )
    return tuple(told)


def _as_matched(work: _Work, match: Match) -> Array:
    """The person's volume, turned as the item is: people who look at the pair need not turn it in their heads."""
    return np.asarray(np.flip(work.volumes[match.person], flip_axes(match.flips)))


def _picture(work: _Work, data: Array) -> bytes:
    item = work.synthetic.items[0]
    return thumbnail_png(Volume(np.ascontiguousarray(data)[None], work.who.geometry, item.modality))


def _guarantee(card: Mapping[str, Any]) -> DifferentialPrivacy | None:
    """What the model's card says of differential privacy.

    Raises:
        InputError: it says something that is no guarantee.
    """
    told = card.get(DP_KEY)
    if told is None:
        return None
    known = {name: told.get(name) for name in DifferentialPrivacy.model_fields} if isinstance(told, dict) else {}
    try:
        return DifferentialPrivacy.model_validate_json(json.dumps(known))
    except ValueError as error:
        raise InputError(
            f"the model's card has a {DP_KEY} that is none: expected epsilon, delta, people and accountant"
        ) from error


def _metadata_reasons(synthetic: SyntheticSet) -> list[str]:
    rare = rare_combinations(synthetic.items)
    return [f"metadata: {len(rare)} combinations are shared by fewer than {K} items"] if rare else []


def _words(synthetic: SyntheticSet) -> list[str]:
    """What a reader must know, whatever came out."""
    counts: dict[tuple[str, ...], int] = {}
    for item in synthetic.items:
        counts[combination(item)] = counts.get(combination(item), 0) + 1
    rarest = min(counts.values())
    return [
        f"Metadata: quasi-identifiers combine in {len(counts)} ways; {rarest} items share the rarest ({K} are needed).",
        _DISTANCE,
        "A scan stands for a person. If somebody is in the data twice, figures are a little too sure.",
        "Evidence, not proof: attacks that were not tried may find more.",
    ]


def _silent(_done: int, _total: int, _what: str) -> None:
    return
