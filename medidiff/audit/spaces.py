"""Where items are held against people: the image, the features of an encoder, the label maps.

What was compared is kept on disk piece by piece, so that an audit that was killed goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.audit.sides import STEPS, Work
from medidiff.metrics.features import load_encoder
from medidiff.privacy.leakage.examine import PIECE, Space, image_space, plain_space, search_people
from medidiff.privacy.leakage.likeness import embedded_likeness, label_likeness
from medidiff.privacy.leakage.resemblance import Gallery, Match, Searched, joined

Array = NDArray[Any]


def find_spaces(work: Work) -> tuple[list[Space], Searched]:
    """Every space in which items can be held against people."""
    image, items = _image_space(work)
    spaces = [image]
    embedding = _embedding_space(work)
    spaces += [embedding] if embedding else []
    if work.items.labels is not None and work.who.labels is not None:
        work.tell(4, STEPS, "comparing label maps")
        maps, known = work.items.labels[:, 0], work.who.labels[:, 0]
        drawn = hashlib.sha256(known.tobytes()).hexdigest()[:16]  # the folder is named for their images alone
        people_found = work.people_store.arrays(f"labels-{drawn}", lambda: {"real": label_likeness(known, known)})
        found = work.store.arrays("labels", lambda: {"items": label_likeness(maps, known)})
        spaces.append(
            plain_space("label maps", found["items"], people_found["real"], work.members, work.non_members, leads=False)
        )
    else:
        work.notes.append("Label maps were not compared: the set or the people have none.")
    return spaces, items


def _image_space(work: Work) -> tuple[Space, Searched]:
    """Copies in the image: everybody among the training people first, which is what chance does; then the items."""
    gallery = Gallery(work.volumes)
    real: list[Searched] = []
    for who, search in search_people(gallery, work.volumes, work.members, work.non_members):
        done = sum(len(part.coarse) for part in real)
        work.tell(1, STEPS, f"comparing people with one another, {done} of {len(gallery)} done")
        real.append(_unpacked(work.people_store.arrays(f"{who[0]:06d}", partial(_packed, search))))
    items = []
    groups = (work.members, work.non_members)
    for start in range(0, len(work.images), PIECE):
        work.tell(2, STEPS, f"comparing items with people, {start} of {len(work.images)} done")
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


def _embedding_space(work: Work) -> Space | None:
    if work.options.encoder is None:
        work.notes.append("Copies were sought in the image alone: no encoder was named.")
        return None
    encoder = load_encoder(work.options.encoder)
    work.tell(3, STEPS, "comparing features")

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
