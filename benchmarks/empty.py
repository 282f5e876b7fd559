"""Does a model count cells where there are none, and what happens to dim and blurred images? Prints a Markdown table.

    python benchmarks/empty.py --data DIR --model nuclei

Empty images, each normalised by itself as a user's would be:
    real        the largest squares without a drawn cell in the fluorescence images of nuclei_dev, from 96 px on
    simulated   camera noise: Gaussian and Poisson, 8 and 16 bit, with uneven light, hot pixels, or blurred haze
Images with cells (fluorescence images of nuclei_dev): as they are; with a tenth of the signal, then camera noise; out of focus.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_tally import predict
from napari_tally.core.annotations import require_labels
from napari_tally.core.image_files import match_by_stem, read_image
from napari_tally.core.images import Image
from napari_tally.core.label_files import read_labels
from napari_tally.core.model_file import Model, find_model
from napari_tally.core.samples import TrainingPair


def main() -> None:
    """Count everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--model", default="nuclei")
    arguments = parser.parse_args()
    model = find_model(arguments.model)
    pairs = [pair for pair in _read(arguments.data / "nuclei_dev") if pair.image.channels == 1 and np.median(pair.image.planes) < 76]
    rng = np.random.default_rng(0)
    print("| images | number | cells drawn | counted | images with a wrong cell |")
    print("|---|---|---|---|---|")
    _row("real, without cells", model, [TrainingPair(image, _nothing(image)) for pair in pairs for image in _empty_square(pair)])
    _row("simulated, without cells", model, [TrainingPair(image, _nothing(image)) for image in _simulated(rng)])
    _row("with cells, as they are", model, pairs)
    _row("a tenth of the signal, with camera noise", model, [_dim(pair, rng) for pair in pairs])
    for sigma in (2, 4, 8):
        _row(f"out of focus (Gaussian, {sigma} px)", model, [_blurred(pair, sigma) for pair in pairs])


def _row(title: str, model: Model, pairs: list[TrainingPair]) -> None:
    counts = [int(predict(pair.image, model).labels.max()) for pair in pairs]
    drawn = sum(len(np.unique(pair.labels[pair.labels > 0])) for pair in pairs)
    wrong = f"{sum(count > 0 for count in counts)}" if not drawn else "–"
    print(f"| {title} | {len(pairs)} | {drawn} | {sum(counts)} | {wrong} |", flush=True)


def _read(folder: Path) -> Iterator[TrainingPair]:
    for image_path, labels_path in match_by_stem(folder / "images", folder / "labels"):
        image = read_image(image_path)
        yield TrainingPair(image, require_labels(read_labels(labels_path), image))


def _empty_square(pair: TrainingPair, smallest: int = 96) -> Iterator[Image]:
    """Cut out the largest square that stays 5 px away from every drawn cell."""
    free = np.pad(pair.labels <= 0, 1)
    radius = ndi.distance_transform_cdt(free, "chessboard")[1:-1, 1:-1] - 5
    y, x = np.unravel_index(np.argmax(radius), radius.shape)
    r = int(radius[y, x])
    if 2 * r >= smallest:
        yield Image(pair.image.planes[..., y - r : y + r, x - r : x + r], pair.image.name)


def _simulated(rng: np.random.Generator, side: int = 400) -> Iterator[Image]:
    y, x = np.mgrid[:side, :side] / side
    grounds: dict[str, NDArray[np.float64]] = {
        "even": np.full((side, side), 100.0),
        "uneven": 100 + 60 * y + 30 * x,
        "haze": 100 + 40 * ndi.gaussian_filter(rng.normal(0, 40, (side, side)), 40),
        "hot pixels": 100 + 3000 * (rng.random((side, side)) < 2e-4),
    }
    for ground in grounds.values():
        for noise in (1.0, 10.0):
            picture = rng.poisson(np.maximum(ground, 0)) + rng.normal(0, noise, ground.shape)
            yield Image(picture.clip(0, 65535).astype(np.uint16)[None, None], "empty")
            yield Image((picture / 40).clip(0, 255).astype(np.uint8)[None, None], "empty")


def _nothing(image: Image) -> NDArray[np.int32]:
    return np.zeros(image.shape, np.int32)


def _dim(pair: TrainingPair, rng: np.random.Generator) -> TrainingPair:
    planes = 100 + 0.1 * pair.image.planes + rng.normal(0, 1, pair.image.planes.shape)
    return TrainingPair(Image(planes.round().clip(0).astype(np.uint16), pair.image.name), pair.labels)


def _blurred(pair: TrainingPair, sigma: float) -> TrainingPair:
    planes = ndi.gaussian_filter(pair.image.planes.astype(np.float32), (0, 0, sigma, sigma))
    return TrainingPair(Image(planes, pair.image.name), pair.labels)


if __name__ == "__main__":
    main()
