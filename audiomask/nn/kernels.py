"""Compiles kernels.c for training; where there is no C compiler, torch does the work.

Layers and losses `take` them where they are wanted. They are compiled once a machine, into the user's cache,
by the first training.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-fopenmp")
_wanted = False


def want(yes: bool = True) -> bool:
    """Let layers in training use the compiled kernels; return whether they can be had."""
    global _wanted
    _wanted = yes
    return yes and _load() is not None


def take(*sizes: int) -> bool:
    """Return whether kernels are wanted, can be had, and take columns of these `sizes`."""
    return _wanted and all(size % 8 == 0 for size in sizes) and _load() is not None


def call(name: str, *values: Tensor | float | int | None) -> None:
    """Call a kernel on torch's number of threads; tensors are float32 or bool.

    Those that it fills are contiguous; of others it may get a copy.
    """
    words: list[object] = [ctypes.c_int(torch.get_num_threads())]
    kinds: dict[type, Any] = {float: ctypes.c_float, int: ctypes.c_int}
    held = [value.contiguous() if isinstance(value, Tensor) else value for value in values]
    for value in held:
        if isinstance(value, Tensor):
            assert value.dtype in (torch.float32, torch.bool)
            words.append(ctypes.c_void_p(value.data_ptr()))
        else:
            words.append(kinds.get(type(value), ctypes.c_void_p)(value))
    getattr(_load(), name)(*words)


def parts(*shapes: Sequence[int]) -> list[Tensor]:
    """Return zeros `[threads, *shape]` each, to which each thread of a kernel adds its part."""
    return [torch.zeros(torch.get_num_threads(), *shape) for shape in shapes]


@cache
def _load() -> ctypes.CDLL | None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if sys.platform != "linux" or compiler is None:
        return None
    cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    machine = [
        line for line in cpu.splitlines() if line.startswith(("model name", "flags", "Features", "CPU"))
    ]
    told = (SOURCE.read_text(), *FLAGS, compiler, *machine)
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "audiomask"
    built = folder / f"kernels-{key}.so"
    part = folder / f"{built.stem}.{secrets.token_hex(4)}"
    try:
        if not built.exists():
            folder.mkdir(parents=True, exist_ok=True)
            # Linked without -fopenmp: its functions are then those of the library that torch has loaded, and
            # there is one pool of threads.
            subprocess.run(
                [compiler, *FLAGS, "-c", SOURCE, "-o", f"{part}.o"], check=True, capture_output=True
            )
            subprocess.run(
                [compiler, "-shared", f"{part}.o", "-o", f"{part}.so"], check=True, capture_output=True
            )
            Path(f"{part}.so").replace(built)
        return ctypes.CDLL(str(built), mode=os.RTLD_NOW)
    except (OSError, subprocess.CalledProcessError):
        return None
    finally:
        for suffix in (".o", ".so"):
            Path(f"{part}{suffix}").unlink(missing_ok=True)
