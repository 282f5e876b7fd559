"""``napari-tally export-model`` and ``import-model``: models for other programs, and back."""

import argparse
from pathlib import Path

from napari_tally.cli._parts import Commands, plain, require_another_file


def register(command: Commands) -> None:
    """Add the commands."""
    parser = command("export-model", run, "Write a model for other programs: ONNX, or a package of the BioImage Model Zoo.")
    parser.add_argument("model", metavar="FILE|NAME", help="the model")
    parser.add_argument("--format", choices=("onnx", "bioimageio"), default="bioimageio", help="what to write")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write: .onnx or .zip")
    parser.add_argument(
        "--image",
        type=Path,
        metavar="IMAGE",
        help="an image like those that the model is for: a part of it goes into the package, to test by",
    )
    parser.add_argument("--title", metavar="TEXT", help="what the package is called (5 to 64 characters)")
    parser.add_argument("--author", action="append", metavar="NAME", help="who made the model; may be given several times")
    parser.add_argument("--licence", default="CC-BY-4.0", metavar="SPDX", help="licence of the weights, as SPDX writes it")
    parser = command("import-model", run_import, "Make a model file of a package of the BioImage Model Zoo whose weights fit our network.")
    parser.add_argument("package", type=Path, metavar="ZIP")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL.safetensors", help="the model file to write")


def run(arguments: argparse.Namespace) -> None:
    """Run ``export-model``."""
    from napari_tally.core.export.bioimageio import Description, export_package
    from napari_tally.core.export.onnx import export_onnx
    from napari_tally.core.image_files import read_image
    from napari_tally.core.images import as_image
    from napari_tally.core.model_file import find_model
    from napari_tally.sample_data import simulate_nuclei

    require_another_file(arguments.model, arguments.out)
    model = find_model(arguments.model)
    if arguments.format == "onnx":
        export_onnx(model, arguments.out)
        print(f"The model is in {arguments.out}: image (N, {model.settings.channels}, Y, X), normalised, to probabilities.")
        return
    image = read_image(arguments.image) if arguments.image else as_image(simulate_nuclei(seed=0)[0], name="simulated nuclei")
    given = {"name": arguments.title, "authors": tuple(arguments.author or ())}
    about = Description(licence=arguments.licence, **{name: value for name, value in given.items() if value})
    export_package(model, arguments.out, image, about)
    tested = arguments.image or "simulated nuclei (--image takes one of yours)"
    print(f"The package is in {arguments.out}; it is tested by {tested}. Check it with: bioimageio test {arguments.out}")


def run_import(arguments: argparse.Namespace) -> None:
    """Run ``import-model``."""
    from napari_tally.core.export.bioimageio import import_package
    from napari_tally.core.model_file import save_model

    require_another_file(arguments.package, arguments.out)
    model = import_package(arguments.package)
    save_model(model, arguments.out)
    print(f"The model is in {arguments.out}: {plain(model.record.get('name') or 'U-Net')}, {model.settings.channels} channel(s).")
