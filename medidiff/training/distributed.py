"""Several processes that train one model: each takes its share of every batch, and all keep the same weights.

torchrun starts them, Lightning Fabric joins them. What a step draws is a function of (seed, step), so every process
draws the same batch and keeps the items that are its own; gradients are averaged, and the loss curve is that of one
process with the same batch, up to rounding.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from medidiff.config import Config
from medidiff.diffusion.device import choose_device
from medidiff.errors import ConfigError, MedidiffError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

START = "torchrun --nproc-per-node {count} -m medidiff train CONFIG"
# What gloo, NCCL and torch say when a process on the other end has gone.
PEER_WORDS = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "process group", "timed out")


class ProcessesConfig(Config):
    """How several processes train together; how many there are is torchrun's to say."""

    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="ddp: each process holds the model; fsdp: each holds a part of it"
    )
    count: int | None = Field(
        None, ge=1, description="refuse to run in any other number of processes, over all machines"
    )


class Team(Protocol):
    """The processes of one run, seen from one of them. Only ``rank`` 0 writes files and talks."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def prepare(self, model: nn.Module, method: str) -> Any:
        """The model to compute the loss with; ``method`` is what the loss calls. Its parameters may be split by it."""
        ...

    def share(self, count: int) -> slice:
        """The items of a batch of ``count`` that this process sees."""
        ...

    def backward(self, loss: Tensor) -> None: ...

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes."""
        ...

    def decide(self, answer: bool) -> bool:
        """Rank 0's answer, for every process: clocks differ."""
        ...

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor that may be split over the processes, put together; every process must ask."""
        ...

    def fill(self, place: Tensor, whole: Tensor) -> None:
        """Write a whole tensor into one that may be split."""
        ...

    def like(self, whole: Tensor, place: Tensor) -> Tensor:
        """A whole tensor, split as ``place`` is."""
        ...


class Alone:
    """One process: a team of itself."""

    rank, size = 0, 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def prepare(self, model: nn.Module, method: str) -> Any:  # noqa: ARG002 - the contract of teams
        return model

    def share(self, count: int) -> slice:
        return slice(0, count)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def mean(self, value: Tensor) -> Tensor:
        return value

    def decide(self, answer: bool) -> bool:
        return answer

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.detach()

    def fill(self, place: Tensor, whole: Tensor) -> None:
        with torch.no_grad():
            place.copy_(whole)

    def like(self, whole: Tensor, place: Tensor) -> Tensor:
        return whole.to(place)


class FabricTeam:
    """Processes that torchrun started, joined by Lightning Fabric."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.size, self.device = fabric.global_rank, fabric.world_size, fabric.device

    def prepare(self, model: nn.Module, method: str) -> Any:
        joined = self.fabric.setup_module(model, move_to_device=False)
        if joined._forward_module is not model:  # DDP wraps; FSDP changes the module itself and has its own way
            joined.mark_forward_method(method)
        else:
            from torch.distributed.fsdp import register_fsdp_forward_method

            register_fsdp_forward_method(model, method)
        return joined

    def share(self, count: int) -> slice:
        if count < self.size:
            raise ConfigError(
                f"a batch of {count} items cannot be shared by {self.size} processes: "
                "give batches.size at least one item for each process, or start fewer"
            )
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def mean(self, value: Tensor) -> Tensor:
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.size

    def decide(self, answer: bool) -> bool:
        # On the CPU: asking the accelerator would make it wait for every step.
        flag = torch.tensor([int(answer)])
        torch.distributed.broadcast(flag, 0)
        return bool(flag)

    def whole(self, tensor: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        detached = tensor.detach()
        return detached.full_tensor() if isinstance(detached, DTensor) else detached

    def fill(self, place: Tensor, whole: Tensor) -> None:
        with torch.no_grad():
            place.copy_(self.like(whole, place))

    def like(self, whole: Tensor, place: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(place, DTensor):
            return whole.to(place)
        return distribute_tensor(whole.to(place.device, place.dtype), place.device_mesh, place.placements)


@contextmanager
def join_team(config: ProcessesConfig, device: str | None = None) -> Iterator[Team]:
    """All the processes that torchrun started, or this one alone, until the end of the block.

    Args:
        config: How they work together.
        device: ``"cpu"`` or ``"cuda"``; by default CUDA where there is one. Of several, each process has its own.
    Raises:
        ConfigError: there is no such device, there are more or fewer processes than the config says, they were
            started by something that is not torchrun, or Lightning Fabric is not installed.
        MedidiffError: another process has ended before the block.
    """
    size, started = int(os.environ.get("WORLD_SIZE", "1")), "TORCHELASTIC_RUN_ID" in os.environ
    if config.count is not None and config.count != size:
        raise ConfigError(
            f"processes.count: the config is for {config.count} processes, and this run has {size}; "
            f"start it with `{START.format(count=config.count)}`, or leave the count out"
        )
    if size == 1:
        yield Alone(choose_device(device))
        return
    if not started:
        raise ConfigError(
            f"WORLD_SIZE is {size}, but torchrun did not start this process, so that each would train by itself; "
            f"start with `{START.format(count=size)}`"
        )
    if device is not None and ":" in device:
        raise ConfigError(f"each of {size} processes has a device of its own: say --device {device.split(':')[0]}")
    team = FabricTeam(_launch(config.strategy, choose_device(device).type, size))
    # A launcher that quietly runs one process is a known trap: count for ourselves, over the network.
    ones = torch.ones(1)
    torch.distributed.all_reduce(ones)
    if int(ones) != size:
        raise ConfigError(f"torchrun promised {size} processes, and {int(ones)} answer")
    try:
        yield team
    except RuntimeError as error:
        about = str(error).lower()
        if isinstance(error, torch.distributed.DistError) or any(word in about for word in PEER_WORDS):
            raise MedidiffError(
                f"process {team.rank} of {size}: another process of this run has ended, and the run with it; "
                "the state on disk is whole: start again with --resume"
            ) from error
        raise
    finally:
        # Left to the interpreter's end, gloo's threads are now and then torn down while they run, which aborts.
        torch.distributed.destroy_process_group()


def _launch(strategy: str, device: str, size: int) -> Fabric:
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
        from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    except ImportError as error:
        raise ConfigError(
            "training in several processes needs Lightning Fabric: pip install medidiff[distributed]"
        ) from error
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    # gloo as well where there is NCCL: small decisions are taken on the CPU.
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    chosen: Any
    if strategy == "ddp":
        chosen = DDPStrategy(process_group_backend=backend)
    else:
        chosen = ModelParallelStrategy(
            _split, data_parallel_size=size, tensor_parallel_size=1, process_group_backend=backend
        )
    fabric = Fabric(accelerator=device, devices=local, num_nodes=size // local, strategy=chosen)
    fabric.launch()
    return fabric


def _split(model: nn.Module, mesh: Any) -> nn.Module:
    """Shard the weights over all processes: the blocks of a list one by one, so that only one is whole at a time."""
    from torch.distributed.fsdp import fully_shard

    processes = mesh["data_parallel"]
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    for block in (block for one in lists for block in one):
        if not isinstance(block, nn.ModuleList) and any(True for _ in block.parameters()):
            fully_shard(block, mesh=processes)
    fully_shard(model, mesh=processes)
    return model
