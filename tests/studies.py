"""Studies to audit."""

import numpy as np

from napari_tally.core.audit import StudyImage


def study(n: int = 6, shape: tuple[int, int] = (128, 160), cells: int = 25, **more) -> list[StudyImage]:
    """Images with cells of 9 pixels at random places; the first one has none."""
    rng = np.random.default_rng(0)
    images = []
    for i in range(n):
        labels = np.zeros(shape, np.int32)
        for cell in range(1, 1 + cells * (i > 0)):
            y, x = rng.integers(1, np.subtract(shape, 1))
            labels[y - 1 : y + 2, x - 1 : x + 2] = cell
        images.append(StudyImage(f"im{i}", labels, group="ab"[i % 2], **more))
    return images
