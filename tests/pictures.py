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

from napari_tally.core.samples import Plane


def picture(drawing: str) -> NDArray[np.int32]:
    """Turn a drawing into a label image: (Y, X) int32, 0 = background, -1 = not annotated."""
    meaning = {".": 0, "?": -1}
    return np.array([[meaning[c] if c in meaning else int(c, 36) for c in line] for line in drawing.split()], np.int32)


TRUTH = picture("""
    1111......
    1111..33..
    ......33..
    22222.....
    """)
FOUND = picture("""
    .777......
    .777......
    ........99
    888444....
    """)
"""Cell 1 is found to 6 of 8 pixels, cell 2 to 3 of 5 and in two pieces, cell 3 not at all, and one is false."""
TYPED_TRUTH = picture("""
    11..22
    11..22
    ......
    44..55
    """)
"""With 4 numbers a type, 1 and 2 are of type 1 and 4 and 5 of type 2."""
TYPED_FOUND = picture("""
    11..66
    11..66
    ......
    44....
    """)
"""The second cell is found as one of type 2, the fourth is missed."""


def discs(shape: tuple[int, int], *places: tuple[float, float, float]) -> NDArray[np.int32]:
    """Draw discs (y, x, radius), numbered from 1; later ones lie on top."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for cell, (y, x, radius) in enumerate(places, start=1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = cell
    return labels


def plane(labels: NDArray[np.int32], name: str = "a", image: int = 0) -> Plane:
    """Give a plane whose picture shows its cells."""
    return Plane(image, name, np.maximum(labels, 0)[None].astype(np.float32), labels, np.zeros(labels.shape, np.float32))


def many(n: int, height: int = 40, width: int = 200) -> Plane:
    """A row of n cells."""
    return plane(discs((height, width), *((height / 2, x, 4) for x in np.linspace(8, width - 8, n))), f"{n} cells", image=n)


def balls(shape: tuple[int, int, int], *places: tuple[float, float, float, float], aspect: float = 1.0) -> NDArray[np.int32]:
    """Draw balls (z, y, x, radius), numbered from 1, in voxels `aspect` times as thick as wide; z in slices."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    labels = np.zeros(shape, np.int32)
    for cell, (cz, cy, cx, radius) in enumerate(places, start=1):
        labels[(aspect * (z - cz)) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = cell
    return labels
