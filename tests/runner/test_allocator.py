"""Blocks that a step frees are there for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from mlbench.runner.allocator import keep_freed_memory

if {keep}:
    assert keep_freed_memory() and keep_freed_memory()
def step():
    blocks = [torch.ones(size * 1024 * 256) for size in (40, 8, 100, 3)]
    return sum(float(block[-1]) for block in blocks)
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    assert step() == 4.0
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages that the kernel had to hand out again during 20 steps of 151 MiB (38,656 pages of 4 KiB each)."""
    done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_kept_blocks_are_not_asked_of_the_kernel_again():
    kept = min(faults(keep=True) for _ in range(3))  # one heap in twelve has no room to grow, see `keep_freed_memory`
    assert kept < 5_000  # an eighth of one step
    assert kept < faults(keep=False)


def test_another_c_library_is_left_alone(monkeypatch):
    from mlbench.runner import allocator

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed_memory.__wrapped__() is False
