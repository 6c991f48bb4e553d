"""Evaluations of the network against the quality of posterior samples, one posterior for all solvers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.reconstruction import scoring
from benchmarks.rows import Row, Rows
from benchmarks.superresolution.cases import GROUPS
from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import SOLVERS, draw_noise, sample
from medidiff.guidance import Posterior, condition_from, projection
from medidiff.io import read_volume
from medidiff.metrics import Interval, bootstrap
from medidiff.operators import Likelihood, SliceOperator, SliceProfile
from medidiff.restoration.solve import SAMPLE_FROM, SAMPLE_TO, Settings
from medidiff.rng import generators

Array = NDArray[Any]
KEY = ("method", "evaluations", "person")
SCORES = ("psnr", "spectrum", "patches", "consistency")
TRAIN_STEPS = 1000
FACTOR, SIDE, CROP = 4, 5, 32
SEED = 7
ABOUT = (
    "Posterior samples of x4 box slices: the middle 32 x 32 x 32 voxels of T1 crops of people never trained on. Every "
    "solver asks the same function: our network, told the reference, its answer projected onto the slices; in units "
    "of the residual, as the x0 or velocity that each scheduler wants. Spectrum: root mean square difference of log "
    "radial power to the truth, dB. Patches: sliced Wasserstein distance between 5 x 5 x 5 patches of sample and "
    "truth, without their means, in percent of the truth's own deviation. A blurred sample has a higher PSNR and is no "
    "better for it. diffusers' solvers run with Karras sigmas."
)


@dataclass(frozen=True)
class Crops:
    """Pieces of people as one batch: truth, what was measured, and the posterior."""

    truth: Tensor
    posterior: Posterior
    reference: Tensor
    spread: float

    @classmethod
    def load(cls, paths: Sequence[Path], people: int, model: Preconditioned) -> Crops:
        pieces = []
        for data in _large_enough(paths)[:people]:
            box = tuple(slice((n - CROP) // 2, (n - CROP) // 2 + CROP) for n in data.shape)
            pieces.append(torch.from_numpy(IntensityCodec.fit(data).encode(data)[box]))
        x = torch.stack(pieces)[:, None].contiguous()
        operator = SliceOperator((1, CROP, CROP, CROP), 2, SliceProfile(FACTOR, FACTOR))
        y = operator.forward(x)
        condition = condition_from(operator, y)
        prior = model.given(condition)
        return cls(x, Posterior(prior, Likelihood(operator, y), projection), condition.reference, prior.spread)

    def x0(self, u: Tensor, ratio: float) -> Tensor:
        """The posterior's answer in residual units, for ``u = u0 + ratio n``."""
        x = self.reference + self.spread * u
        x0 = self.posterior(x, x.new_full((len(x),), self.spread * ratio))
        return (x0 - self.reference) / self.spread


def _large_enough(paths: Sequence[Path]) -> list[Array]:
    found = (read_volume(path).reoriented().data[0].astype(np.float32) for path in paths)
    return [data for data in found if min(data.shape) >= CROP]


Run = Callable[[Crops, int], Tensor]


def ours(name: str) -> Run:
    """Our own sampler; Heun takes two evaluations a step but for the last."""

    def run(crop: Crops, evaluations: int) -> Tensor:
        steps = (evaluations + 1) // 2 if name == "heun" else evaluations
        levels = sigma_schedule(SAMPLE_TO * crop.spread, SAMPLE_FROM * crop.spread, steps)
        noise, solver = generators(SEED, len(crop.truth)), SOLVERS[name]
        return sample(crop.posterior, crop.truth.shape, levels, generators=noise, solver=solver, start=crop.reference)

    return run


def monai(name: str) -> Run:
    """MONAI's schedulers as they come, asked for velocity or x0."""

    def run(crop: Crops, evaluations: int) -> Tensor:
        from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler

        x = draw_noise(crop.truth.shape, generators(SEED, len(crop.truth)))
        if name == "RFlow":
            flow = RFlowScheduler(num_train_timesteps=TRAIN_STEPS, use_discrete_timesteps=False)
            flow.set_timesteps(evaluations)
            for t, following in zip(flow.timesteps, [*flow.timesteps[1:], 0], strict=True):
                share = float(t) / TRAIN_STEPS
                rest = max(1 - share, 1e-4)
                u0 = crop.x0(x / rest, share / rest)
                velocity = u0 - (x - (1 - share) * u0) / share
                x, _ = flow.step(velocity, t, x, following)
            return crop.reference + crop.spread * x
        # Clipping is for images in [-1, 1]; a residual is not one.
        kind = {"DDIM": DDIMScheduler, "DDPM": DDPMScheduler}[name]
        scheduler = kind(num_train_timesteps=TRAIN_STEPS, prediction_type="sample", clip_sample=False)
        scheduler.set_timesteps(evaluations)
        torch.manual_seed(SEED)  # it draws from the global generator
        for t in scheduler.timesteps:
            kept = float(scheduler.alphas_cumprod[int(t)])
            u0 = crop.x0(x / math.sqrt(kept), math.sqrt((1 - kept) / kept))
            x, _ = scheduler.step(u0, int(t), x)
        return crop.reference + crop.spread * x

    return run


def diffusers(name: str, **options: Any) -> Run:
    """diffusers' multistep solvers of order 2, asked for x0."""

    def run(crop: Crops, evaluations: int) -> Tensor:
        from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

        kind = {"DPM-Solver++": DPMSolverMultistepScheduler, "UniPC": UniPCMultistepScheduler}[name]
        scheduler = kind(num_train_timesteps=TRAIN_STEPS, prediction_type="sample", solver_order=2, **options)
        scheduler.set_timesteps(evaluations)
        x = draw_noise(crop.truth.shape, generators(SEED, len(crop.truth))) * scheduler.init_noise_sigma
        for number, t in enumerate(scheduler.timesteps):
            ratio = float(scheduler.sigmas[number])
            u0 = crop.x0(x * math.sqrt(1 + ratio**2), ratio)
            x = scheduler.step(u0, t, x).prev_sample
        return crop.reference + crop.spread * x

    return run


OURS = {"medidiff, multistep": ours("multistep"), "medidiff, Heun": ours("heun")}
THEIRS = {
    "MONAI DDPM": monai("DDPM"),
    "MONAI DDIM": monai("DDIM"),
    "MONAI RFlow": monai("RFlow"),
    "diffusers DPM-Solver++": diffusers("DPM-Solver++", use_karras_sigmas=True),
    "diffusers UniPC": diffusers("UniPC", use_karras_sigmas=True),
}


def main(arguments: list[str] | None = None) -> None:
    parser = scoring.parser("solvers", ABOUT)
    parser.add_argument(
        "--people", type=int, default=8, help="how many of the last 40 by name whose crop is large enough"
    )
    parser.add_argument("--tune", action="store_true", help="score people of the training set instead")
    parser.add_argument("--ours", nargs="+", type=int, default=[1, 3, 5, 8, 9], help="evaluations (Heun: the odd ones)")
    parser.add_argument("--theirs", nargs="+", type=int, default=[10, 50], help="evaluations")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.out / "solvers.csv", (*KEY, *SCORES), KEY, resume=args.resume)
    paths = sorted(args.data.glob(GROUPS["hippocampus"].files))
    crops = Crops.load(paths[:40] if args.tune else paths[-40:], args.people, scoring.prior(args.model))
    with torch.no_grad():
        for solvers, counts in ((OURS, args.ours), (THEIRS, args.theirs)):
            for method, run in solvers.items():
                for evaluations in counts:
                    if method == "medidiff, Heun" and evaluations % 2 == 0:
                        continue
                    if {"method": method, "evaluations": evaluations, "person": 1} not in rows:
                        print(method, evaluations, flush=True)
                        _score(rows, crops, run(crops, evaluations), {"method": method, "evaluations": evaluations})
    write_figure(rows.all, args.out / "solvers.png")
    scoring.report("solvers", f"{ABOUT}\n\n{table(rows.all)}\n\n{verdict(rows.all)}", args)


def _score(rows: Rows, crops: Crops, drawn: Tensor, key: dict[str, Any]) -> None:
    misfit = crops.posterior.likelihood.misfit(drawn)
    for number in reversed(range(len(drawn))):  # the first one comes last: where it is, all are
        x, truth = drawn[number : number + 1], crops.truth[number : number + 1]
        rows.add(
            key | {
                "person": number + 1, "psnr": -10 * float((x - truth).square().mean().log10()),
                "spectrum": spectrum_distance(x, truth), "patches": patch_distance(x, truth),
                "consistency": float(misfit[number]),
            }
        )  # fmt: skip


def spectrum_distance(x: Tensor, truth: Tensor) -> float:
    """Root mean square difference of log radial power, dB."""
    one, other = radial_power(x), radial_power(truth)
    return float(np.sqrt(np.mean((10 * np.log10(one / other)) ** 2)))


def radial_power(x: Tensor, bins: int = 16) -> Array:
    """Mean power in shells of spatial frequency, without the lowest, shape (bins,)."""
    image = (x - x.mean())[0, 0].numpy()
    window = np.ones(())
    for n in image.shape:
        window = np.multiply.outer(window, np.hanning(n))
    power = np.abs(np.fft.fftn(image * window)) ** 2
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij")))
    shell = np.digitize(radius, np.linspace(0.03, 0.5, bins + 1)) - 1
    return np.array([power[shell == b].mean() for b in range(bins)])


def patch_distance(x: Tensor, truth: Tensor, directions: int = 64) -> float:
    """Sliced Wasserstein distance of patches without their means, percent of the truth's deviation."""
    one, other = _patches(x), _patches(truth)
    axes = np.random.default_rng(0).normal(size=(one.shape[1], directions))
    axes /= np.linalg.norm(axes, axis=0)
    a, b = np.sort(one @ axes, axis=0), np.sort(other @ axes, axis=0)
    return float(100 * np.sqrt(np.mean((a - b) ** 2)) / np.sqrt(np.mean(b**2)))


def _patches(x: Tensor) -> Array:
    blocks = x[0, 0].unfold(0, SIDE, 2).unfold(1, SIDE, 2).unfold(2, SIDE, 2).reshape(-1, SIDE**3).double()
    return np.asarray((blocks - blocks.mean(1, keepdim=True)).numpy())


def _means(rows: Sequence[Row], score: str) -> Iterator[tuple[str, int, Array]]:
    for method in dict.fromkeys(r["method"] for r in rows):
        for count in sorted({int(r["evaluations"]) for r in rows if r["method"] == method}):
            part = [r for r in rows if r["method"] == method and int(r["evaluations"]) == count]
            yield method, count, np.array([float(r[score]) for r in sorted(part, key=lambda r: int(r["person"]))])


def _interval(values: Array) -> Interval:
    """Mean over people."""
    sums = np.stack([values, np.ones_like(values)], axis=1)
    return bootstrap(sums, lambda s: s[..., 0] / s[..., 1], seed=0, unit="person")


def table(rows: Sequence[Row]) -> str:
    names = ("method", "evaluations", "spectrum dB", "patches %", "PSNR of a sample dB", "data error")
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    scores = {score: {(m, n): v for m, n, v in _means(rows, score)} for score in SCORES}
    for method, count in scores["psnr"]:
        cells = [method, str(count)]
        for score, form in (("spectrum", ".2f"), ("patches", ".1f")):
            values = scores[score][method, count]
            found = _interval(values)
            cells.append(f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]")
        mean = {score: float(scores[score][method, count].mean()) for score in SCORES}
        cells += [f"{mean['psnr']:.2f}", f"{mean['consistency']:.0e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict(rows: Sequence[Row]) -> str:
    """Ours by default against each of theirs with 50, person by person."""
    lines, name, count = [], "medidiff, multistep", Settings().steps
    for score, unit in (("spectrum", "dB"), ("patches", "%")):
        found = {(m, n): v for m, n, v in _means(rows, score)}
        for rival in THEIRS:
            if (rival, 50) in found and (name, count) in found:
                lead = found[rival, 50] - found[name, count]
                i = _interval(lead)
                lines.append(
                    f"- {score}: {name} with {count} against {rival} with 50: nearer by {i.value:+.2f} "
                    f"[{i.low:+.2f}, {i.high:+.2f}] {unit}"
                )
    about = (
        "Ours as it comes against 50 evaluations of theirs: by how much it is nearer to the truth, mean over people."
    )
    return "\n".join([about, "", *lines])


def write_figure(rows: Sequence[Row], out: Any) -> None:
    figure = Figure(figsize=(10, 3.6), dpi=120, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axes, score, label in zip(panels, ("spectrum", "patches"), ("spectrum (dB)", "patches (%)"), strict=True):
        for number, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
            points = [(n, float(v.mean())) for m, n, v in _means(rows, score) if m == method]
            name = method if score == "spectrum" else None
            colour, width = f"C{number}", 2.0 if method in OURS else 1.1
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, linewidth=width, color=colour)
        axes.set_xscale("log")
        axes.set_xticks([1, 3, 5, 10, 20, 50], ["1", "3", "5", "10", "20", "50"])
        axes.set_xlabel("evaluations of the network")
        axes.set_ylabel(label)
        axes.set_ylim(0, {"spectrum": 8, "patches": 25}[score])  # Heun's first steps are far beyond
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    scoring.save(canvas, out)
