"""How the process's memory allocator treats large blocks while a network trains on the CPU."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

#: Parameters of glibc's mallopt (malloc.h).
TRIM_THRESHOLD, MMAP_MAX = -1, -4


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed blocks for the next step; whether it could be told so (glibc can).

    By default glibc asks the kernel for every large block and gives it back when it is freed, so that the activations
    of each step are mapped, zeroed and unmapped page by page: up to half of a step of MobileNetV2. Kept, they are
    reused. The process holds what it held at its peak until it ends, and computes the same. Where the random layout of
    its addresses leaves the heap no room to grow (one process in twelve here), a part still goes back at each step.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))
