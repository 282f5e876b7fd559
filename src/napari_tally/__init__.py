"""napari-tally: a cell count that can be trusted, from a handful of annotated images.

>>> import napari_tally as nt
>>> image, truth = nt.simulate_nuclei(seed=0)                     # an image and its true labels
>>> model = nt.train([(image, truth)], steps=2)                   # a U-Net; or minutes=2
>>> result = nt.predict(image, model)                             # probabilities and labels
>>> cells = nt.count(result.labels, image)                        # one row a cell
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Model": "core.model_file",
    "find_model": "core.model_file",
    "load_model": "core.model_file",
    "save_model": "core.model_file",
    "read_image": "core.image_files",
    "as_image": "core.images",
    "simulate_nuclei": "sample_data",
    "train": "api",
    "predict": "api",
    "count": "api",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    """Load public names when they are used (PEP 562), so that importing the package does not import torch."""
    if name in _HOME:
        return getattr(import_module(f"napari_tally.{_HOME[name]}"), name)
    raise AttributeError(f"module 'napari_tally' has no attribute {name!r}")
