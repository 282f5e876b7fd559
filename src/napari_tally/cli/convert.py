"""``napari-tally convert``: weights of another program as a model of this one."""

import argparse
from pathlib import Path

from napari_tally.cli._parts import Commands, require_another_file


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("convert", run, "Turn weights of the PyTorch U-Net port (milesial/Pytorch-UNet) into a model file.")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="the state dict; nothing in the file is executed")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL.safetensors", help="the model file to write")
    parser.add_argument("--range", type=float, nargs=2, default=(0.0, 255.0), metavar=("LOW", "HIGH"), help="intensities taken for 0 and 1")
    parser.add_argument("--scale", type=float, default=1.0, help="size at which images were shown to it, such as 0.5")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from napari_tally.core.architectures import ARCHITECTURES
    from napari_tally.core.convert import from_milesial, read_state_dict
    from napari_tally.core.model_file import save_model

    low, high = arguments.range
    if not (high > low and 0.01 <= arguments.scale <= 100):
        given = f"--range {low:g} {high:g} and --scale {arguments.scale:g}"
        raise ValueError(f"{given}: the range must rise, and the scale lie between 0.01 and 100.")
    require_another_file(arguments.weights, arguments.out)
    model = from_milesial(read_state_dict(arguments.weights), low, high, arguments.scale)
    save_model(model, arguments.out)
    n = model.settings
    title = ARCHITECTURES[n.architecture].title
    print(f"{title} of depth {n.depth} and width {n.base_width}, {n.channels} channel(s), {n.classes} classes.")
    print(f"The model is in {arguments.out}. Class 1 counts as cell, class 2 as the rim of cells.")
