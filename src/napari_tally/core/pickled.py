"""Weights in ``.pt`` and ``.pth`` files: such files are pickles, and a pickle is a program. Nothing of it is run here.

::

    is it a zip that holds what it says? ──▶ names, shapes, types ──▶ does the caller want them? ──▶ numbers
    the directory alone                      weights_only, "meta":     `fits`                        weights_only,
                                             no memory is taken                                      mapped, not copied

Only ``torch.load(weights_only=True)`` opens the file, and nothing else is tried when it refuses. That unpickler builds tensors,
numbers, strings and collections, nothing more; it had holes before PyTorch 2.10 (CVE-2025-32434, CVE-2026-24747), which is why
that is the lowest version that we work with. A file of 1.5 kB may still claim 10^12 elements, and a small zip may unfold into
gigabytes: both are refused before memory is taken.
"""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".bin")
"""Endings of files that PyTorch pickles."""
_LAYERS = ("model", "net", "model_state_dict", "state_dict")
"""Names under which checkpoints keep the weights among other things."""
_TYPES = {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32}
_ERRORS = (RuntimeError, pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError, MemoryError)
_MOST_RECORDS = 100_000


def looks_pickled(path: Path) -> bool:
    """Whether a file is one that PyTorch (or Python) has pickled, by its ending and its first bytes."""
    if path.suffix.lower() in PICKLED:
        return True
    with path.open("rb") as file:
        head = file.read(4)
    return head == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def read_state_dict(path: str | Path, fits: Callable[[Mapping[str, Tensor]], None] = lambda weights: None) -> dict[str, Tensor]:
    """Read the weights in a ``.pt`` or ``.pth`` file without running anything in it.

    Parameters
    ----------
    path : str or Path
        A state dict, or a checkpoint that holds one under a usual name.
    fits : callable, optional
        Gets the tensors without numbers (on the device "meta": names, shapes and types) and raises a ``ValueError`` where they
        are not those wanted; called before the numbers are read.

    Returns
    -------
    dict of str to Tensor
        On the CPU, mapped to the file: copy what is to be kept.

    Raises
    ------
    ValueError
        If the file holds anything but weights, not as many numbers as it claims, or what is no number; one sentence.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file.")
    held = _bytes_held(path)
    outline = _load(path, "meta")
    for name, tensor in outline.items():
        stored = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > stored or stored > held:
            raise ValueError(f"{path}: {name!r} claims the shape {tuple(tensor.shape)}, but the file does not hold so many numbers.")
    fits(outline)
    return require_finite(path, _load(path, "cpu"))


def require_finite(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give weights as they are, or raise a ``ValueError`` if one is NaN or infinite: such a network finds nothing, and says nothing."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"{path}: {name} holds values that are not finite (NaN or infinite), so the network would find nothing. "
                "Take another copy of the file, or train the model again."
            )
    return weights


def _load(path: Path, device: str) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location=device, weights_only=True, mmap=device == "cpu")
    except _ERRORS as error:
        raise ValueError(
            f"{path}: the file cannot be read as weights alone and is not opened: a pickled file can run any program. "
            "Ask its author for the state dict alone, or for a safetensors file."
        ) from error
    for name in _LAYERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    named = found.items() if isinstance(found, Mapping) else ()
    weights = {name: _checked(path, name, tensor) for name, tensor in named if isinstance(name, str) and isinstance(tensor, Tensor)}
    if not weights:
        raise ValueError(f"{path}: the file holds no weights by name; a state dict is wanted.")
    return weights


def _checked(path: Path, name: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in _TYPES:
        raise ValueError(f"{path}: {name!r} is a {tensor.dtype} tensor ({tensor.layout}); plain numbers are wanted.")
    return tensor


def _bytes_held(path: Path) -> int:
    """Add up what lies in the zip, uncompressed as PyTorch writes it: then it is never more than the file."""
    try:
        with zipfile.ZipFile(path) as packed:
            records = packed.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: the file cannot be read as weights alone ({error}). Files from before PyTorch 1.6 must be saved anew by a newer one."
        ) from error
    size = path.stat().st_size
    if len(records) > _MOST_RECORDS or any(r.compress_type != zipfile.ZIP_STORED or r.flag_bits & 1 for r in records):
        raise ValueError(f"{path}: the file is packed in a way in which PyTorch does not write; it is not opened.")
    held = sum(record.file_size for record in records)
    if held > size:
        raise ValueError(f"{path}: the file claims to hold {held} bytes and has {size}; it is not opened.")
    return held
