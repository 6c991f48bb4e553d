"""Generators that were trained on eight people until they repeat them: each must be refused.

Eight people of the first 160, others for each seed; a small network at 2 mm; 10 samples; then what the audit does with
arrays: copies in the image, nearness of the whole, membership from samples and with the model in hand. The last 40
people are the others. What eight people alone do is kept apart: the audit refuses so few whatever it finds, so the rows
say which tests failed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.rows import Rows
from medidiff.data.cohort import Cohort, People, centred_grid, load_people, people
from medidiff.diffusion.generator import GenerativeModel, GivenGenerator
from medidiff.diffusion.network import build_network
from medidiff.generation.draw import Request, Sampling, draw
from medidiff.privacy.leakage.decision import Estimate, auc, share
from medidiff.privacy.leakage.examine import image_space, judge_copies, sample_attack, search_people, set_level
from medidiff.privacy.leakage.membership import together, white_box
from medidiff.privacy.leakage.resemblance import Gallery, joined
from medidiff.privacy.leakage.store import Store
from medidiff.training.generative import NoiseConfig, generative_loss
from medidiff.training.generative_data import encode_people
from medidiff.training.generative_spec import measure_spec

Array = NDArray[Any]
SHAPE = (40, 56, 40)
TRAINED_ON, SAMPLES, STEPS = 8, 10, 200
SIGMAS = (0.1, 0.2, 0.4, 0.8)
NETWORK = {"kind": "residual_unet", "channels": [32, 48], "blocks": 1, "split": [2, 2, 2]}
KEY = ("seed",)
COLUMNS = (
    *KEY, "copies", "items", "least_lead", "limit", "false_alarms", "nearer", "nearer_low", "samples_auc",
    "samples_low", "loss_auc", "loss_low", "pia_auc", "sima_auc", "failed_tests", "refused", "seconds",
)  # fmt: skip


def run(folder: Path, seeds: int, rows: Rows, store: Store) -> None:
    """A row a seed."""
    trained, others = (
        _halved(load_people(people(Cohort(images=folder / "images", **which)), SHAPE))
        for which in ({"first": 160}, {"last": 40})
    )
    for seed in range(seeds):
        if {"seed": seed} in rows:
            continue
        started = time.process_time()
        chosen = sorted(np.random.default_rng(seed).choice(len(trained), TRAINED_ON, replace=False).tolist())
        own = trained[chosen]
        kept = store.arrays(f"overfitted-{seed:02d}", lambda own=own, seed=seed: _made(own, others, seed))  # type: ignore[misc]
        values = _examined(kept, own, others)
        rows.add({"seed": seed, "seconds": time.process_time() - started} | values)
        print(
            f"seed {seed}: {values['copies']} of {values['items']} copies, failed: {values['failed_tests']}", flush=True
        )


def _halved(who: People) -> People:
    """The same people at 2 mm."""
    i, j, k = (n // 2 for n in SHAPE)
    images = who.images.reshape(-1, 1, i, 2, j, 2, k, 2).mean((3, 5, 7))
    inside = who.inside.reshape(-1, 1, i, 2, j, 2, k, 2).all((3, 5, 7))
    return replace(who, images=images, inside=inside, labels=None, geometry=centred_grid((i, j, k), (2.0, 2.0, 2.0)))


def _made(own: People, others: People, seed: int) -> dict[str, Array]:
    """Train, draw, attack."""
    model = train(own, seed)
    drawn = draw(
        model, [Request(seed=1000 + n, inside=own.inside[n % len(own), 0]) for n in range(SAMPLES)], Sampling()
    )
    whole = np.zeros((SAMPLES, *model.spec.shape), dtype=np.float32)
    for number, each in enumerate(drawn):
        image, shape = each.image.data[0], model.spec.shape
        widths = [((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(shape, image.shape, strict=True)]
        whole[number] = np.pad(image, widths, mode="edge")
    return {"samples": whole, **attack(model, own, others)}


def train(own: People, seed: int, steps: int = STEPS) -> GenerativeModel:
    """A small generator that sees the same few people again and again."""
    spec = measure_spec(own, (), (), suffix="T1w")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # PyTorch's initialisation knows no generator; the fork keeps it from others
        sizes = {"image": spec.channels, "side": spec.side, "embedding": spec.embedding}
        model = GenerativeModel(build_network(**NETWORK, **sizes), spec)
    encoded = encode_people(own, spec)
    x0, inside = torch.stack([each.channels for each in encoded]), torch.stack([each.inside for each in encoded])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.05)
    noise = NoiseConfig()
    conditions = model.conditions([{}] * len(own), inside=inside)
    for _ in range(steps):
        sigma = noise.draw(len(own), generator)
        loss = generative_loss(model, x0, conditions, sigma, torch.randn(x0.shape, generator=generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def attack(model: GenerativeModel, own: People, others: People) -> dict[str, Array]:
    """White-box scores of everybody, those trained on first."""
    encoded = [*encode_people(own, model.spec), *encode_people(others, model.spec)]
    inside = torch.stack([each.inside for each in encoded])
    x: Tensor = torch.stack([each.channels for each in encoded]) * inside

    def bind(some: slice) -> GivenGenerator:
        return model.given(model.conditions([{}] * len(x[some]), inside=inside[some]))

    return white_box(bind, x, SIGMAS, draws=2, seed=0, inside=inside)


def _examined(kept: dict[str, Array], own: People, others: People) -> dict[str, object]:
    """The audit's tests."""
    volumes = np.concatenate([own.images[:, 0], others.images[:, 0]])
    members, rest = list(range(len(own))), list(range(len(own), len(volumes)))
    gallery = Gallery(volumes)
    real = joined([search() for _, search in search_people(gallery, volumes, members, rest)])
    space = image_space(real, gallery.search(kept["samples"], [members]), members, rest)
    copies = judge_copies(space)
    nearer = set_level(space, members, rest, seed=0)
    attacks: dict[str, Estimate] = {"samples": sample_attack(space, members, rest)[2]}
    for name in ("loss", "PIA", "SimA"):
        scores = together(kept[name])
        attacks[name] = auc(scores[: len(own)], scores[len(own) :])
    failed = ["copies"] if copies.found.any() else []
    failed += ["nearer"] if nearer.word == "failed" else []
    failed += [name for name, estimate in attacks.items() if estimate.word == "failed"]
    words = {nearer.word, *(estimate.word for estimate in attacks.values())}
    return {
        "copies": int(copies.found.sum()), "items": len(copies.found), "least_lead": float(space.statistic.min()),
        "limit": copies.limit.value, "false_alarms": copies.false_alarms, "nearer": nearer.value,
        "nearer_low": nearer.low, "samples_auc": attacks["samples"].value, "samples_low": attacks["samples"].low,
        "loss_auc": attacks["loss"].value, "loss_low": attacks["loss"].low, "pia_auc": attacks["PIA"].value,
        "sima_auc": attacks["SimA"].value, "failed_tests": " ".join(failed),
        "refused": int(bool(failed) or words != {"passed"} or not copies.limit.settled),
    }  # fmt: skip


_TESTS = {
    "copies": "copies were found",
    "nearer": "samples are nearer to those trained on",
    "samples": "membership, from samples alone",
    "loss": "membership, loss",
    "PIA": "membership, PIA",
    "SimA": "membership, SimA",
}


def table(rows: Sequence[dict[str, str]]) -> str:
    """How many were refused, and by what, as Markdown."""
    n = len(rows)
    lines = ["| overfitted on 8 people | models | of | 95% interval |", "|---|--:|--:|---|"]
    tests = [("refused", lambda row: row["refused"] == "1")]
    for name, words in _TESTS.items():
        tests.append((f"failed because {words}", lambda row, name=name: name in row["failed_tests"].split()))  # type: ignore[misc]
    for words, holds in tests:
        count = sum(map(holds, rows))
        low, high = share(count, n)
        lines.append(f"| {words} | {count} | {n} | {low:.0%} to {high:.0%} |")
    found, items = (sum(int(row[key]) for row in rows) for key in ("copies", "items"))
    lines += ["", f"Of {items} samples {found} count as copies."]
    return "\n".join(lines)
