"""Private training: what a person can contribute, who takes part, what noise is added, and what a run has spent."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest
from torch import Tensor

pytest.importorskip("opacus")

from medidiff.config import parse_config
from medidiff.data.procedural import Procedural, procedural_people
from medidiff.diffusion.checkpoint import load_state
from medidiff.diffusion.generator import load_generator
from medidiff.errors import CheckpointError, ConfigError
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.privacy.accountants import spent
from medidiff.synthetic.reports import DifferentialPrivacy
from medidiff.train import TrainOptions, train
from medidiff.training.generative import GenerativeTrainConfig, generative_plan
from medidiff.training.privacy_budget import DpConfig, with_budget
from medidiff.training.private import PrivateTrainer, choose_trainable
from medidiff.training.private_noise import KeyedOptimizer, normal, taking_part, uniform
from medidiff.volume import Volume
from tests.training.private_run import CPU, PEOPLE, PUBLIC, make_trainer, private_text

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People on disk, and public weights to begin from."""
    root = tmp_path_factory.mktemp("private")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    people = procedural_people(Procedural(kind="procedural", count=PEOPLE, seed=5), (8, 12, 8))
    assert people.labels is not None
    for place in range(PEOPLE):
        geometry = Geometry(np.eye(4), (8, 12, 8))
        write_volume(Volume(people.images[place], geometry), root / "images" / f"p{place:02d}.nii.gz")
        write_volume(Volume(people.labels[place].astype(np.int16), geometry), root / "labels" / f"p{place:02d}.nii.gz")
    train(parse_config(PUBLIC, GenerativeTrainConfig), TrainOptions(root / "public", device="cpu"))
    return root


@pytest.fixture
def trainer(folder: Path, tmp_path: Path) -> PrivateTrainer:
    return make_trainer(folder, tmp_path)


def gradients(trainer: PrivateTrainer, people: range) -> list[list[Tensor]]:
    of_person = trainer.batches[trainer.step]
    return [list(trainer.gradient(of_person(person), person)) for person in people]


def test_a_persons_gradient_is_what_opacus_hooks_find(trainer: PrivateTrainer) -> None:
    """All people in one backward pass, each draw's gradient by Opacus' hooks, the mean over a person's draws after."""
    from opacus import GradSampleModule

    trainer.model.double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # away from the zeros that blocks begin with
        for parameter in trainer.model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    people = range(3)
    of_person = trainer.batches[0]
    batches, levels, noises = [], [], []
    for person in people:
        batch = of_person(person)
        generator = torch.Generator().manual_seed(trainer_seed(trainer, person))
        levels.append(trainer.objective.draw(len(batch), generator))
        noises.append(torch.randn(batch.truth.shape, generator=generator))
        batches.append(batch)
    ours = gradients_in_double(trainer, batches, levels, noises)

    hooked = GradSampleModule(trainer.model.network, strict=False, loss_reduction="sum")
    trainer.model.network = hooked
    for batch, level, noise in zip(batches, levels, noises, strict=True):
        trainer.objective.losses(trainer.model, doubled(batch), level.double(), noise.double()).sum().backward()
    for place, parameter in enumerate(p for p in hooked.parameters() if p.requires_grad):
        per_draw = parameter.grad_sample
        found = (
            torch.cat(per_draw if isinstance(per_draw, list) else [per_draw]).reshape(3, -1, *parameter.shape).mean(1)
        )
        for person in people:
            torch.testing.assert_close(found[person], ours[person][place], rtol=1e-6, atol=1e-12)
            assert float(ours[person][place].abs().max()) > 1e-6


def trainer_seed(trainer: PrivateTrainer, person: int) -> int:
    from medidiff.rng import derive_seed
    from medidiff.training.loop import PATH_STREAM

    return derive_seed(trainer.seed, trainer.step, PATH_STREAM, person)


def doubled(batch: object) -> object:
    from medidiff.diffusion.generator import Conditions
    from medidiff.training.generative_data import GenerativeBatch

    conditions = Conditions(*(getattr(batch.conditions, n).double() for n in Conditions.__slots__))  # type: ignore[attr-defined]
    return GenerativeBatch(batch.truth.double(), conditions)  # type: ignore[attr-defined]


def gradients_in_double(trainer: PrivateTrainer, batches: list, levels: list, noises: list) -> list[list[Tensor]]:
    """A loop over single draws."""
    found = []
    for batch, level, noise in zip(batches, levels, noises, strict=True):
        total = [torch.zeros_like(p) for p in trainer.parameters]
        for draw in range(len(batch)):
            one = slice(draw, draw + 1)
            losses = trainer.objective.losses(
                trainer.model, doubled(batch[one]), level[one].double(), noise[one].double()
            )
            for part, gradient in zip(total, torch.autograd.grad(losses.sum(), trainer.parameters), strict=True):
                part += gradient / len(batch)
        found.append(total)
    return found


def test_the_batch_of_a_person_gives_the_mean_over_single_draws(trainer: PrivateTrainer) -> None:
    trainer.model.double()
    batch = trainer.batches[0](1)
    generator = torch.Generator().manual_seed(trainer_seed(trainer, 1))
    level = trainer.objective.draw(len(batch), generator)
    noise = torch.randn(batch.truth.shape, generator=generator)
    (expected,) = gradients_in_double(trainer, [batch], [level], [noise])
    trainer.model.float()
    for ours, wanted in zip(trainer.gradient(batch, 1), expected, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_a_person_changes_the_sum_by_no_more_than_the_clip(trainer: PrivateTrainer, clip: float) -> None:
    """With the noise off: the sum with everybody, and with everybody but one."""
    everybody = gradients(trainer, range(5))

    def total(people: list[int]) -> Tensor:
        optimizer = KeyedOptimizer(trainer.adam, KEY, noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=1)
        optimizer.zero_grad()
        for person in people:
            optimizer.contribute([g.clone() for g in everybody[person]])
        return torch.cat([p.summed_grad.flatten() for p in optimizer.params])

    whole = total([0, 1, 2, 3, 4])
    for left_out in range(5):
        changed = float((whole - total([p for p in range(5) if p != left_out])).norm())
        length = float(torch.cat([g.flatten() for g in everybody[left_out]]).norm())
        assert changed <= clip * (1 + 1e-4)
        assert changed == pytest.approx(min(clip, length), rel=2e-3)


def test_everybody_takes_part_at_the_rate_and_by_themselves() -> None:
    steps, people, rate = 400, 60, 0.25
    drawn = np.zeros((steps, people), dtype=bool)
    for step in range(steps):
        drawn[step, taking_part(KEY, step, people, rate)] = True
    low, high = binom.ppf([1e-4, 1 - 1e-4], steps * people, rate)
    assert low <= drawn.sum() <= high
    sizes = drawn.sum(1)
    # A batch of fixed size would have no spread: Poisson sampling has that of a binomial.
    assert 0.75 < sizes.var() / (people * rate * (1 - rate)) < 1.3
    each = np.corrcoef(drawn.T) - np.eye(people)
    assert np.abs(each).max() < 0.25
    assert taking_part(KEY, 3, people, rate) == list(np.flatnonzero(drawn[3]))
    assert taking_part(bytes(32), 3, people, rate) != taking_part(KEY, 3, people, rate)


def test_the_noise_is_normal_and_nobody_but_the_key_repeats_it() -> None:
    noise = normal(KEY, (0, 0), (400, 200))
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(noise, normal(KEY, (0, 0), (400, 200)))
    for key, path in ((KEY, (0, 1)), (KEY, (1, 0)), (bytes(32), (0, 0))):
        assert abs(float((noise * normal(key, path, (400, 200))).mean())) < 0.02
    assert not np.array_equal(uniform(KEY, "noise", (0,), 8), uniform(KEY, "people", (0,), 8))


def test_the_noise_has_the_length_that_was_planned(trainer: PrivateTrainer) -> None:
    """A step in which nobody takes part moves along noise alone, of clip times multiplier over the expected people."""
    optimizer, steps = trainer._optimizer(), []
    for step in range(30):
        optimizer.zero_grad()
        optimizer.finish(step)
        steps += [p.grad.flatten().clone() for p in trainer.parameters if p.grad is not None]
    got = torch.cat(steps)
    config = trainer.budget.config
    wanted = trainer.budget.noise_multiplier * config.clip / (config.sampling * PEOPLE)
    assert float(got.std()) == pytest.approx(wanted, rel=0.05)


def test_only_what_is_named_is_trained(trainer: PrivateTrainer) -> None:
    frozen = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(name.endswith(("bias", "gain")) for name, p in trainer.model.named_parameters() if p.requires_grad)
    before = [p.detach().clone() for p in trainer.parameters]
    trainer.run()
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(frozen[name], after[name]) for name in frozen)
    assert not any(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True) if a.numel() > 1)
    with pytest.raises(ConfigError, match="fits"):
        choose_trainable(trainer.model, ["*.nothing"])


def test_killed_and_resumed_it_ends_with_the_same_bits_and_the_same_epsilon(folder: Path, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    expected = make_trainer(folder, straight, KEY)
    assert expected.run()
    command = [sys.executable, "-m", "tests.training.private_run", str(folder), str(killed), KEY.hex()]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 2:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    finished = make_trainer(folder, killed)
    finished.resume()
    assert finished.key == KEY
    assert 1 <= finished.step < expected.step
    half = finished.budget.spent(finished.step).epsilon
    assert finished.run()
    (found, _), (wanted, _) = load_state(finished.state_path), load_state(expected.state_path)
    for group, tensors in wanted.items():
        for name, tensor in tensors.items():
            assert torch.equal(found[group][name], tensor), (group, name)
    assert 0 < half < finished.budget.spent(finished.step).epsilon == expected.budget.spent(expected.step).epsilon


def test_a_state_without_its_key_is_refused(trainer: PrivateTrainer, tmp_path: Path) -> None:
    from medidiff.diffusion.checkpoint import save_state

    trainer.run()
    groups, record = load_state(trainer.state_path)
    for damaged in ({k: v for k, v in record.items() if k != "key"}, record | {"key": "ab"}):
        save_state(trainer.state_path, groups, damaged)
        with pytest.raises(CheckpointError, match=r"incomplete|damaged"):
            trainer.resume()


def test_the_card_says_what_the_steps_that_were_taken_have_spent(folder: Path, tmp_path: Path) -> None:
    config = parse_config(private_text(folder), GenerativeTrainConfig)
    part = train(config, TrainOptions(tmp_path, device="cpu", max_minutes=0))
    assert not part.finished
    assert part.steps == 1
    _, card = load_generator(part.model)
    early = DifferentialPrivacy.model_validate(card["differential_privacy"])
    mechanism = card["dp_sgd"]
    again = spent(mechanism["noise_multiplier"], mechanism["sampling"], 1, early.delta)
    assert 0 <= early.epsilon - again.epsilon < 1e-3
    assert early.people == PEOPLE
    assert early.delta == pytest.approx(1 / (10 * PEOPLE))

    whole = train(config, TrainOptions(tmp_path, device="cpu", resume=True))
    assert whole.finished
    assert whole.privacy is not None
    assert early.epsilon < whole.privacy["epsilon"] <= 8
    assert whole.privacy["epsilon"] > 7.8
    text = Path(whole.model).read_bytes()
    key = load_state(tmp_path / "state.safetensors")[1]["key"]
    assert key.encode() not in text
    assert bytes.fromhex(key) not in text


def test_nothing_is_told_of_the_people_without_noise(folder: Path, tmp_path: Path) -> None:
    """How intensities are standardised comes with the public weights; losses are told nowhere."""
    done = train(parse_config(private_text(folder), GenerativeTrainConfig), TrainOptions(tmp_path, device="cpu"))
    model, card = load_generator(done.model)
    public, _ = load_generator(folder / "public" / "public.safetensors")
    assert model.spec == public.spec
    rows = list(csv.reader((tmp_path / "curve.csv").open()))
    assert rows[0][:2] == ["step", "noisy gradient"]
    assert "loss" not in str({k: v for k, v in card.items() if v}).lower().replace("privacy loss distribution", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epsilon: 8", "epsilon: 8, delta: 0.1"), "at most"),
        (("begin_from: ", "begin_from: /nowhere"), "begins from weights"),
        (("seed: 0", "seed: 0\nheld_out: {people: {images: IMAGES, last: 2}}"), "without noise"),
        (("shape: [8, 12, 8]", "shape: [8, 8, 8]"), "expected grid"),
    ],
)
def test_what_would_break_the_promise_is_refused(folder: Path, change: tuple[str, str], message: str) -> None:
    text = private_text(folder).replace(change[0], change[1].replace("IMAGES", str(folder / "images")))
    with pytest.raises(ConfigError, match=message):
        generative_plan(parse_config(text, GenerativeTrainConfig), CPU)


def test_the_budget_on_the_command_line() -> None:
    assert with_budget("epsilon=8", None) == DpConfig(epsilon=8)
    block = DpConfig(epsilon=3, clip=0.2)
    assert with_budget("epsilon=8, draws=2", block) == DpConfig(epsilon=8, clip=0.2, draws=2)
    for wrong in ("8", "epsilon=much", "sigma=2", "clip=1", "epsilon=0"):
        with pytest.raises(ConfigError, match="--dp"):
            with_budget(wrong, None)


def test_a_run_without_privacy_keeps_its_identity(folder: Path) -> None:
    config = parse_config(PUBLIC, GenerativeTrainConfig)
    assert "dp" not in config.model_dump(mode="json")
    assert "dp" in config.model_copy(update={"dp": DpConfig(epsilon=1)}).model_dump(mode="json")
