"""Which processor computes, and what it is called."""

import platform

import torch

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
    return f"CPU ({torch.get_num_threads()} threads)"
