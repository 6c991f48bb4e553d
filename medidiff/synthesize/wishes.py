"""What every item is to be."""

from __future__ import annotations

from dataclasses import dataclass

from medidiff.diffusion.generator import GeneratorSpec, NumericCondition, Value
from medidiff.generation.draw import Request
from medidiff.generation.metadata import conditions_of
from medidiff.rng import derive_seed
from medidiff.synthesize.inputs import digest, label_maps, read_maps, read_scan
from medidiff.synthesize.options import SynthesizeOptions
from medidiff.synthetic import Metadata

SPREAD_STREAM = 19


@dataclass(frozen=True, slots=True)
class Wish:
    """One item, before it is drawn.

    Args:
        condition: What its record says it was given.
    """

    id: str
    request: Request
    metadata: Metadata
    condition: dict[str, str | int | float | bool | None]


class Wishes:
    """What every item is to be, by its number: nothing here depends on which items there are already."""

    def __init__(self, spec: GeneratorSpec, options: SynthesizeOptions) -> None:
        self.spec, self.options = spec, options
        self.maps = [] if options.labels is None else list(read_maps(options.labels, spec))
        self.like = None if options.vary is None else read_scan(options.vary, spec)
        self.metadata = options.metadata.draw(options.count, options.seed)
        given = {
            "labels_sha256": [] if options.labels is None else label_maps(options.labels),
            "vary_sha256": [] if options.vary is None else [options.vary],
        }
        self.digests = {name: digest(files) for name, files in given.items() if files}

    def __getitem__(self, number: int) -> Wish:
        seed = derive_seed(self.options.seed, number)
        metadata = self.metadata[number]
        values = self._drawn(seed) | conditions_of(metadata, self.spec, seed) | self.options.conditions
        told: dict[str, str | int | float | bool | None] = dict(values)
        labels = like = inside = None
        if self.maps:
            labels, inside = self.maps[number % len(self.maps)]
            told["label_map"] = "given"
        if self.like is not None:
            like, inside = self.like
            told |= {"variation": True, "strength": self.options.strength}
        return Wish(f"s{number + 1:06d}", Request(seed, values, labels, like, inside), metadata, told)

    def _drawn(self, seed: int) -> dict[str, Value]:
        """Numbers as common as in training, where they are wanted."""
        if not self.options.draws_numbers:
            return {}
        numbers = [entry for entry in self.spec.conditions if isinstance(entry, NumericCondition)]
        return {entry.name: entry.draw(derive_seed(seed, SPREAD_STREAM, place)) for place, entry in enumerate(numbers)}

    def __len__(self) -> int:
        return self.options.count
