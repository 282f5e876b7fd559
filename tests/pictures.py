"""Label images as drawings.

::

    picture('''
        11.22      digits and letters: cells (a = 10, b = 11, ...)
        11.22      dot: background
        ??...      question mark: not annotated
    ''')
"""

import numpy as np
from numpy.typing import NDArray


def picture(drawing: str) -> NDArray[np.int32]:
    """Turn a drawing into a label image: (Y, X) int32, 0 = background, -1 = not annotated."""
    meaning = {".": 0, "?": -1}
    return np.array([[meaning[c] if c in meaning else int(c, 36) for c in line] for line in drawing.split()], np.int32)


def discs(shape: tuple[int, int], *places: tuple[float, float, float]) -> NDArray[np.int32]:
    """Draw discs (y, x, radius), numbered from 1; later ones lie on top."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for cell, (y, x, radius) in enumerate(places, start=1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = cell
    return labels
