"""Which processor computes, what it is called, and what it has."""

import platform
import time
from functools import lru_cache

import psutil
import torch

from napari_tally.core.unet import UNet
from napari_tally.core.words import number
from napari_tally.settings import Device


def choose_device(wish: Device = "auto") -> torch.device:
    """Turn the user's wish into a device that exists here.

    Raises
    ------
    ValueError
        If the wished device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wish == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available.get(wish, False):
        there = ", ".join(name for name, yes in available.items() if yes)
        raise ValueError(f"The device {wish!r} is not available on this computer; there is: {there}. Choose 'auto' to take the best.")
    return torch.device(wish)


def describe_device(device: torch.device) -> str:
    """Name a device for people, for example ``CPU (2 threads)`` or ``GPU NVIDIA RTX 4070``."""
    if device.type == "cuda":
        return f"GPU {torch.cuda.get_device_name(device)}"
    if device.type == "mps":
        return f"GPU {platform.processor() or 'Apple'} (MPS)"
    threads = torch.get_num_threads()
    return f"CPU ({number(threads, 'thread')})"


def free_memory(device: torch.device) -> float:
    """Give the bytes that are free where a device computes: its own memory where it is a CUDA GPU, else that of the computer."""
    return float(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)


@lru_cache
def bf16_pays(device: torch.device) -> bool:
    """Whether 16-bit arithmetic (bfloat16) trains faster here, by a measurement of a quarter of a second: a small U-Net forth and back.

    Not by a single convolution: what it takes to begin one hides what its arithmetic takes.
    """
    if device.type == "mps" or (device.type == "cuda" and not torch.cuda.is_bf16_supported()):
        return False
    with torch.random.fork_rng(devices=[]):  # which dropout follows must not depend on whether this was measured before
        network = UNet(depth=3, base_width=16).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types
    picture = torch.zeros(1, 1, 128, 128, device=device).contiguous(memory_format=torch.channels_last)

    def seconds(enabled: bool) -> float:
        began = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            network(picture).float().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    times = [(seconds(False), seconds(True)) for _ in range(4)]
    plain, half = (min(column) for column in zip(*times, strict=True))  # the first ones warm up
    return half < 0.8 * plain
