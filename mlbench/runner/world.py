"""The processes of one run: who computes which rows, and how their results come together in row order."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor, nn

from mlbench.errors import UsageError
from mlbench.runner.allocator import keep_freed_memory

Item = TypeVar("Item")


class World:
    """A thin layer over Accelerate: one process, or several started by ``accelerate launch`` or ``torchrun``.

    Rows are shared out in contiguous pieces, so that joining the pieces in rank order gives the original order
    whatever the number of processes. Nothing is padded with repeated samples that could be counted twice.
    """

    def __init__(self, device: str = "auto", precision: str = "fp32") -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--device {device}: expected auto, cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError("--device cuda: no CUDA device is available here")
        if precision not in ("fp32", "bf16"):
            raise UsageError(f"--precision {precision}: expected fp32 or bf16")
        # Accelerate keeps one precision a process; several runs in one process may differ.
        AcceleratorState._reset_state(reset_partial_state=False)
        self.accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            kwargs_handlers=[DistributedDataParallelKwargs(), *_patience()],
        )
        self.device = self.accelerator.device
        self.rank = self.accelerator.process_index
        self.size = self.accelerator.num_processes
        if self.device.type == "cpu":
            keep_freed_memory()

    @property
    def main(self) -> bool:
        return self.rank == 0

    def prepare(self, module: nn.Module, unused_parameters: bool) -> nn.Module:
        """`module`, wrapped for data-parallel training where there are several processes."""
        self.accelerator.ddp_handler.find_unused_parameters = unused_parameters
        return self.accelerator.prepare_model(module)

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, added to those of the parameters."""
        self.accelerator.backward(loss)

    def share(self, rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """This process's piece of `rows`, and the sizes of all pieces."""
        pieces = np.array_split(rows, self.size)
        return pieces[self.rank], [len(piece) for piece in pieces]

    def gather(self, local: Tensor, sizes: list[int]) -> Tensor:
        """Join the first ``sizes[rank]`` rows of every process's `local` in rank order.

        The gradient flows through this process's own rows only. A process without rows (its tensor is a dummy)
        stays connected to its parameters with gradient zero.
        """
        if self.size == 1:
            return local[: sizes[0]]
        longest = max(sizes)
        padded = local.detach().new_zeros((longest, *local.shape[1:]))
        padded[: sizes[self.rank]] = local.detach()[: sizes[self.rank]]
        flat: Tensor = self.accelerator.gather(padded)  # type: ignore[assignment]
        parts = [part[:n] for part, n in zip(flat.split(longest), sizes, strict=True)]
        parts[self.rank] = local[: sizes[self.rank]]
        joined = torch.cat(parts)
        if not sizes[self.rank] and local.requires_grad:
            joined = joined + 0.0 * local.sum()
        return joined

    def share_buffers(self, network: nn.Module) -> None:
        """Give every process the main one's buffers of `network` (running statistics of BatchNorm).

        Each process updates them from its own rows. Data-parallel training puts the main process's in place of the
        others' before each step, so that these are the ones the network was trained with, and the ones that are saved;
        between steps the others have to be told, or each would score by statistics of its own.
        """
        if self.size > 1:
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def release(self) -> None:
        """Forget the modules that were prepared: Accelerate would hold each, with its network, as long as it lives."""
        self.accelerator._models.clear()

    def gather_items(self, items: list[Item], replicated: bool) -> list[Item]:
        """All processes' items, in rank order; `replicated` says that each already has the same ones."""
        if self.size == 1 or replicated:
            return items
        return [item for part in gather_object([items]) for item in part]

    def agree(self, value: object) -> object:
        """The main process's `value`, on all processes."""
        if self.size == 1:
            return value
        return broadcast_object_list([value])[0]

    def rng_states(self) -> list[dict[str, Tensor]]:
        """The torch generators' states of all processes, in rank order."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return gather_object([state]) if self.size > 1 else [state]

    def set_rng_state(self, states: list[dict[str, Tensor]]) -> bool:
        """Take this process's state back; False if there were fewer processes then."""
        if self.rank >= len(states):
            return False
        torch.set_rng_state(states[self.rank]["cpu"])
        if self.device.type == "cuda" and "cuda" in states[self.rank]:
            torch.cuda.set_rng_state(states[self.rank]["cuda"], self.device)
        return True


def _patience() -> list[Any]:
    """What tells how long a process waits for the others; nothing where ``$MLBENCH_PEER_SECONDS`` does not say."""
    text = os.environ.get("MLBENCH_PEER_SECONDS")
    if not text:
        return []
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise UsageError(f"MLBENCH_PEER_SECONDS={text}: expected a whole number of seconds")
    return [InitProcessGroupKwargs(timeout=timedelta(seconds=int(text)))]


def peer_lost(error: BaseException) -> bool:
    """Whether `error`, or what it came from, says that another process is gone or does not answer."""
    cause = error.__cause__
    told = isinstance(error, RuntimeError) and (
        isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()
    )
    return told or (cause is not None and peer_lost(cause))


def leave() -> None:
    """End a process's part in a group of processes; all of them must call it.

    They leave together: one that tears its connections down while another still works can leave that one waiting.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
