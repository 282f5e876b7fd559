"""A model as ONNX: a file that deepImageJ, ilastik, Fiji, MATLAB and many others can run without Python.

::

    image (N, C, Y, X) float32, normalised  ──▶  network  ──▶  softmax  ──▶  probabilities (N, classes, Y', X') float32

N, Y and X may be anything that the network takes: Y and X multiples of 2^depth (with padding "same"). What the file cannot hold
(normalisation, size of the cells, thresholds) stands in its metadata as JSON, as in a model file.
"""

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from napari_tally.core.files import whole_file
from napari_tally.core.model_file import Model, header_of

OPSET = 17
"""Version of the ONNX operators: from 2022, so that programs of some years ago read it."""


class _Probabilities(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).softmax(1)


def require_zoo() -> None:
    """Raise a ``ValueError`` unless the extra is installed."""
    try:
        import onnx  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        raise ValueError('This needs the extra "zoo": pip install "napari-tally[zoo]"') from error


def require_planes(model: Model) -> None:
    """Raise a ``ValueError`` for a model for volumes: other programs would not know how to cut and resample them."""
    if model.settings.dimensions == 3:
        raise ValueError("This model is one for volumes (3-D), and only models for planes can be exported. Hand on the model file.")


def export_onnx(model: Model, path: str | Path, softmax: bool = True) -> None:
    """Write a model for planes as ONNX, whole or not at all.

    Parameters
    ----------
    model : Model
    path : str or Path
        Should end in ``.onnx``.
    softmax : bool
        Give probabilities; else logits.

    Raises
    ------
    ValueError
        If the extra ``[zoo]`` is not installed, or the model is one for volumes.
    OSError
        If the file cannot be written.
    """
    require_planes(model)
    require_zoo()
    import onnx

    network = model.copy().network.eval()
    side = network.input_size(64)
    image = torch.zeros(1, model.settings.channels, side, side)
    axes = {0: "batch", 2: "y", 3: "x"}
    out = "probabilities" if softmax else "logits"
    with whole_file(path) as partial:
        with warnings.catch_warnings():
            # The exporter that traces is on its way out and says so; its successor (dynamo) fails on the cropped skips of the paper.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Probabilities(network) if softmax else network,
                (image,),
                str(partial),
                dynamo=False,
                input_names=["image"],
                output_names=[out],
                opset_version=OPSET,
                dynamic_axes={"image": axes, out: axes},
            )
        graph = onnx.load(str(partial))
        graph.metadata_props.add(key="napari_tally", value=json.dumps(header_of(model)))
        onnx.checker.check_model(graph)
        onnx.save(graph, str(partial))
