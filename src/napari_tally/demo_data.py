"""What `napari-tally demo` trains and tests on: simulated nuclei, or a folder of real images."""

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, whiten

from napari_tally.core.annotations import require_labels
from napari_tally.core.image_files import match_by_stem, read_image
from napari_tally.core.images import Image
from napari_tally.core.label_files import read_labels
from napari_tally.core.samples import TrainingPair, cell_diameter

Split = tuple[list[TrainingPair], list[tuple[Path, NDArray[np.int32]]]]
"""Training pairs, and (file, true labels) of images that the model has not seen."""

HANDFUL = 5


def simulated_split(folder: Path) -> Split:
    """Simulate three images to train on and six to test on; the test images are written below `folder`.

    Returns
    -------
    Split
    """
    from napari_tally.sample_data import simulate_nuclei

    folder.mkdir(parents=True, exist_ok=True)
    training = [
        TrainingPair(Image(image[None, None], f"training_{seed}"), labels) for seed in range(3) for image, labels in [simulate_nuclei(seed)]
    ]
    test = []
    for seed in range(100, 106):
        image, labels = simulate_nuclei(seed, n=20 + 10 * (seed - 100))
        path = folder / f"nuclei_{seed}.tif"
        tifffile.imwrite(path, image)
        test.append((path, labels))
    return training, test


def real_split(folder: Path) -> Split:
    """Choose five images of `folder` to train on, spread over its kinds; the others are the test.

    The choice groups the images by brightness, colour and cell size (k-means, seeded) and takes from
    each group the image nearest to its middle, as a careful biologist would.

    Parameters
    ----------
    folder : Path
        Holds ``images`` and ``labels``, matched by stem.

    Raises
    ------
    ValueError
        If there are fewer than two images with cells.
    """
    pairs = []
    for image_path, labels_path in match_by_stem(folder / "images", folder / "labels"):
        image = read_image(image_path)
        pairs.append((image_path, TrainingPair(image, require_labels(read_labels(labels_path), image))))
    with_cells = [i for i, (_, pair) in enumerate(pairs) if (pair.labels > 0).any()]
    if len(with_cells) < 2:
        raise ValueError(
            f"{folder}: at least two images with cells are wanted, one to train on and one to test; there are {len(with_cells)}."
        )
    chosen = spread([pairs[i][1] for i in with_cells], min(HANDFUL, len(with_cells) - 1))
    training = {with_cells[i] for i in chosen}
    return [pairs[i][1] for i in sorted(training)], [(path, pair.labels) for i, (path, pair) in enumerate(pairs) if i not in training]


def spread(pairs: list[TrainingPair], n: int, seed: int = 0) -> list[int]:
    """Give the indices of `n` pairs that stand for all."""
    features = []
    for pair in pairs:
        channels = np.median(pair.image.planes.astype(float), axis=(0, 2, 3))
        features.append((channels.mean(), np.ptp(channels), np.log(cell_diameter([pair]))))
    points = whiten(np.array(features) + 1e-9 * np.arange(len(pairs))[:, None])
    centres, group = kmeans2(points, n, seed=seed, minit="++")
    distance = np.linalg.norm(points - centres[group], axis=1)
    nearest = [min(np.flatnonzero(group == g), key=lambda i: distance[i]) for g in np.unique(group)]
    rest = [i for i in range(len(pairs)) if i not in nearest]  # a group may have come out empty
    return [int(i) for i in (nearest + rest)[:n]]
