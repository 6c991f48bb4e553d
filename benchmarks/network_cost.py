"""What a network costs: ``python -m benchmarks.network_cost --out DIR [--quick]``.

The shipped kind of network against MONAI's ``DiffusionModelUNet``, as it comes (on voxels, with its attention) and
behind our Haar transform, at widths that bring them to equal cost. Writes network_cost.csv and network_cost.md:
parameters, multiply-adds of a forward pass, CPU seconds and memory of a forward pass and of a training step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import machine
from benchmarks.docs import include
from benchmarks.machine import Cost, measure
from benchmarks.rows import Rows
from medidiff.diffusion.network import build_network
from medidiff.io.atomic import atomic_write_text

COLUMNS = (
    "network", "parameters_millions", "forward_gflop", "forward_cpu_s", "forward_seconds", "forward_mb",
    "training_cpu_s", "training_seconds", "training_mb", "patch", "device",
)  # fmt: skip
EMBEDDING = 9
PATCH = 64


class OnVoxels(nn.Module):
    """MONAI's network as its tutorials use it: no transform, its own timestep embedding, attention in the middle."""

    def __init__(self, channels: Sequence[int], side: int = 2) -> None:
        super().__init__()
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        self.net = DiffusionModelUNet(
            spatial_dims=3, in_channels=1 + side, out_channels=1, channels=tuple(channels),
            attention_levels=(False,) * len(channels), num_res_blocks=2, norm_num_groups=16,
        )  # fmt: skip

    def forward(self, x: Tensor, side: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([x, side], dim=1), timesteps=1000 * embedding[:, 0].abs())
        return out


def networks() -> dict[str, Callable[[], nn.Module]]:
    """By name: the shipped form first, then its rivals."""

    def ours(**options: Any) -> Callable[[], nn.Module]:
        return lambda: build_network("residual_unet", embedding=EMBEDDING, **options)

    def monai(**options: Any) -> Callable[[], nn.Module]:
        return lambda: build_network("monai_unet", embedding=EMBEDDING, **options)

    return {
        "residual U-Net 64-128-128 on Haar (as trained)": ours(channels=(64, 128, 128)),
        "residual U-Net 48-96-96 on Haar": ours(channels=(48, 96, 96)),
        "residual U-Net 32-64-96 on Haar": ours(channels=(32, 64, 96)),
        "residual U-Net 48-96-96 on packets 2x2x4": ours(channels=(48, 96, 96), split=(2, 2, 4)),
        "MONAI DiffusionModelUNet 32-64-96 on Haar": monai(channels=(32, 64, 96)),
        "MONAI DiffusionModelUNet 48-96-96 on Haar": monai(channels=(48, 96, 96)),
        "MONAI DiffusionModelUNet 32-64-96 on voxels, stock": lambda: OnVoxels((32, 64, 96)),
    }


def inputs(patch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, side = (torch.randn(1, c, patch, patch, patch, generator=generator) for c in (1, 2))
    return x, side, torch.randn(1, EMBEDDING, generator=generator)


def cost(build: Callable[[], nn.Module], patch: int, device: torch.device) -> dict[str, float | int | str | None]:
    """Cost of one network on one patch, after one call to warm up."""
    torch.manual_seed(0)
    network = build().to(device)
    arguments = tuple(t.to(device) for t in inputs(patch))

    def forward() -> None:
        with torch.no_grad():
            network(*arguments)
        _wait(device)

    def train() -> None:
        network.zero_grad(set_to_none=True)
        network(*arguments).square().mean().backward()
        _wait(device)

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*arguments)  # also warms up
    once = _measured(forward, device)
    train()
    step = _measured(train, device)
    return {
        "parameters_millions": sum(p.numel() for p in network.parameters()) / 1e6,
        "forward_gflop": counter.get_total_flops() / 1e9,
        "forward_cpu_s": once.cpu_seconds, "forward_seconds": once.seconds, "forward_mb": once.memory_mb,
        "training_cpu_s": step.cpu_seconds, "training_seconds": step.seconds, "training_mb": step.memory_mb,
        "patch": patch, "device": machine.describe()["device"] if device.type == "cuda" else "cpu",
    }  # fmt: skip


def _measured(call: Callable[[], None], device: torch.device) -> Cost:
    if device.type != "cuda":
        return measure(call).cost
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = measure(call).cost
    return Cost(found.seconds, found.cpu_seconds, (torch.cuda.max_memory_allocated() - before) / 1e6)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def table(rows: Sequence[Mapping[str, str]], about: Mapping[str, object]) -> str:
    patch = rows[0]["patch"]
    lines = [
        f"One patch of {patch}x{patch}x{patch} voxels, float32, batch of one.", "",
        "| network | parameters M | GFLOP | forward CPU-s | forward MB | training step CPU-s | training MB |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    shown = ("parameters_millions", "forward_gflop", "forward_cpu_s", "forward_mb", "training_cpu_s", "training_mb")
    for r in rows:
        cells = [r["network"], *(f"{float(r[c]):.3g}" if r[c] else "unknown" for c in shown)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Measured on: " + ", ".join(f"{name} {value}" for name, value in about.items()) + "."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patch", type=int, default=PATCH)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; one makes CPU seconds comparable")
    parser.add_argument("--docs", type=Path, help="also put the table into this page")
    parser.add_argument("--quick", action="store_true", help="a patch of 16 voxels a side: does it run at all")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    rows = Rows(args.out / "network_cost.csv", COLUMNS, ("network",), resume=False)
    for name, build in networks().items():
        print(name, flush=True)
        rows.add({"network": name} | cost(build, 16 if args.quick else args.patch, torch.device(args.device)))
    text = table(rows.all, machine.describe())
    atomic_write_text(args.out / "network_cost.md", text)
    if args.docs:
        include(args.docs, "network-cost", text)
    print(text)


if __name__ == "__main__":
    main()
