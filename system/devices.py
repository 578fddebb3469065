"""Processors and GPUs: which to compute on, in which precision, with how much memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

from system.errors import UserError

if TYPE_CHECKING:
    import torch

NATIVE_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # as Linux calls it; the last one on Arm


def free_memory() -> int:
    """Bytes that processes may still take, as the system says; half of all where it names all, 2 GiB on Windows."""
    try:
        with open("/proc/meminfo") as table:  # noqa: PTH123 (not a file of the user's)
            return next(1024 * int(line.split()[1]) for line in table if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError):
        return 2 << 30


def pick_device(gpu: str | None) -> torch.device:
    """-g: "cpu", "mps" (Apple's), an index, or None for the first GPU where there is one.

    UserError where there is no such GPU.
    """
    import torch

    count, apple = torch.cuda.device_count(), torch.backends.mps.is_available()
    if gpu is None:
        gpu = "0" if count else "mps" if apple else "cpu"
    if gpu == "mps" and not apple:
        raise UserError("-g mps: torch finds no GPU of Apple's here; use -g cpu for the processor")
    if gpu in ("cpu", "mps"):
        return torch.device(gpu)
    if not gpu.isdecimal() or int(gpu) >= count:
        have = f"this machine has {count} (0 to {count - 1})" if count else "this machine has none that torch can use"
        raise UserError(f"-g {gpu}: no such GPU, {have}; use -g cpu for the processor")
    return torch.device("cuda", int(gpu))


def pick_precision(precision: str, device: torch.device) -> str:
    """Lightning's name for --precision; "auto" is bf16 where the chip has it natively, fp16 before, 32 without CUDA.

    UserError for half precision on Apple's GPUs.
    """
    import torch

    if device.type == "mps" and precision not in ("auto", "32"):
        raise UserError(f"--precision {precision}: Apple's GPUs compute in float32 here; leave it out, or use 32")
    if precision == "auto":
        if device.type != "cuda":
            precision = "32"  # bf16 is slower on most processors
        else:  # torch's own check of bf16 counts emulation
            precision = "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "16"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[precision]


def native_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16 itself; where torch emulates it, it is slower than float32.

    Linux names what a chip can do; elsewhere it is not known, and taken for no.
    """
    return not NATIVE_BFLOAT16.isdisjoint(chip_features())


def chip_features() -> frozenset[str]:
    """What Linux says that the processor can do, in its words; empty where it says nothing."""
    try:
        with open("/proc/cpuinfo") as table:  # noqa: PTH123 (not a file of the user's)
            rows = (line.partition(":") for line in table)  # "flags" on x86, "Features" on Arm
            return next(frozenset(words.split()) for name, _, words in rows if name.strip() in ("flags", "Features"))
    except (OSError, StopIteration):
        return frozenset()


def gpu_random_state(device: torch.device) -> torch.Tensor | None:
    """The state of the GPU's own generator, from which dropout draws; None for a processor."""
    import torch

    if device.type == "mps":
        return torch.mps.get_rng_state()
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_gpu_random_state(device: torch.device, state: torch.Tensor) -> None:
    """Nothing happens on a processor, or where `state` is of another kind of GPU."""
    import torch

    if device.type == "mps" and state.shape == torch.mps.get_rng_state().shape:
        torch.mps.set_rng_state(state)
    elif device.type == "cuda":
        torch.cuda.set_rng_state(state, device)


def keep_memory() -> None:
    """Have glibc keep what a batch has freed for the next one, instead of returning it to the system.

    By default each large tensor on a CPU is new memory, which the kernel clears page by page: on two cores that was a
    sixth of a training step. Nothing happens with other C libraries.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # glibc's malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 64 << 20)
