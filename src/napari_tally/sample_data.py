"""Images to try things with: simulated nuclei with their true labels, and real images that scikit-image carries.

:func:`simulate_nuclei` follows the light: nuclei are placed (alone or pressed against others), filled
with chromatin, some out of focus, lit unevenly, blurred by the optics and counted by a noisy camera.
Nothing here imports torch or Qt.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

LayerData = tuple[NDArray[Any], dict[str, Any], str]

_OFFSET, _GAIN, _READ_NOISE = 100, 2.0, 2.5
"""Camera: counts in the dark, counts an electron, electrons (standard deviation)."""


def simulate_nuclei(
    seed: int = 0,
    shape: tuple[int, int] = (256, 256),
    n: int = 40,
    diameter: float = 22.0,
    touching: float = 0.5,
    electrons: float = 250.0,
) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Simulate a fluorescence image of cell nuclei with its true labels.

    Parameters
    ----------
    seed : int
        The same seed gives the same image.
    shape : (Y, X)
        Size in pixels.
    n : int
        Nuclei to place; there are fewer where the image has no room for them.
    diameter : float
        Typical diameter of a nucleus in pixels.
    touching : float, 0 to 1
        Share of the nuclei that are put against another one.
    electrons : float
        Signal of a typical nucleus in electrons; less is noisier.

    Returns
    -------
    image : (Y, X) uint16
        A camera image: an offset of about 100 counts, Poisson and read noise.
    labels : (Y, X) int32
        0 = background, nuclei 1..count without gaps, each one connected piece; none covers another.

    Examples
    --------
    >>> image, labels = simulate_nuclei(seed=3, n=12)
    >>> image.shape, int(labels.max())
    ((256, 256), 12)
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    focused, unfocused = np.zeros(shape), np.zeros(shape)
    chromatin = _texture(rng, shape, 0.05 * diameter, 0.15 * diameter)
    placed: list[tuple[float, float, float]] = []  # y, x, radius
    misses = 0
    while len(placed) < n and misses < 500:  # so many misses in a row: there is no room left
        misses += 1
        radius = diameter / 2 * np.exp(rng.normal(0, 0.2))
        y, x = rng.uniform((0, 0), shape)
        against = bool(placed) and rng.random() < touching
        if against:
            y, x, other = placed[rng.integers(len(placed))]
            angle, distance = rng.uniform(0, 2 * np.pi), (radius + other) * rng.uniform(0.85, 1.05)
            y, x = y + distance * np.sin(angle), x + distance * np.cos(angle)
        window, depth = _nucleus(rng, shape, y, x, radius)
        mask, taken = depth > 0, labels[window] > 0
        free = mask & ~taken
        near = ndi.binary_dilation(mask, iterations=2) & taken  # within two pixels of another nucleus
        seen = free.sum() / (np.pi * radius**2)
        if seen < 0.4 or (mask & taken).sum() > 0.12 * mask.sum() or near.any() != against or ndi.label(free)[1] != 1:
            continue  # mostly outside, mostly behind others, not as lonely as wished, or cut in two
        placed.append((y, x, radius))
        misses = 0
        labels[window][free] = len(placed)
        brightness = np.exp(rng.normal(0, 0.3)) * (0.3 if rng.random() < 0.08 else 1.0)  # a few are dim
        light = brightness * depth**0.35 * chromatin[window]
        (unfocused if rng.random() < 0.07 else focused)[window] += np.where(free, light, 0)
    light = ndi.gaussian_filter(focused, 1.0) + ndi.gaussian_filter(unfocused, 0.12 * diameter)
    light += 0.08 * ndi.gaussian_filter(light, diameter)  # haze from above and below the focus
    light = (light + 0.04) * _illumination(rng, shape)  # 0.04: medium and cell bodies
    counted = rng.poisson(electrons * light) + rng.normal(0, _READ_NOISE, shape)
    return np.clip(_OFFSET + _GAIN * counted, 0, 65535).round().astype(np.uint16), labels


def _nucleus(
    rng: np.random.Generator, shape: tuple[int, int], y: float, x: float, radius: float
) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """Draw a deformed ellipse: its window in the image, and there its depth, 1 in the middle to 0 at the edge."""
    reach = int(np.ceil(1.7 * radius))
    window = tuple(slice(max(0, int(c) - reach), max(0, min(int(c) + reach + 1, m))) for c, m in zip((y, x), shape, strict=True))
    rows, columns = np.ogrid[window]
    turn, stretch = rng.uniform(0, np.pi), np.exp(abs(rng.normal(0, 0.3)) / 2)
    along = ((columns - x) * np.cos(turn) + (rows - y) * np.sin(turn)) / stretch
    across = ((rows - y) * np.cos(turn) - (columns - x) * np.sin(turn)) * stretch
    angle = np.arctan2(across, along)
    edge = radius * np.ones_like(angle)
    for wave in (2, 3, 4):  # dents and bulges
        edge += radius * rng.normal(0, 0.07 / (wave - 1)) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return window, np.clip(1 - (along**2 + across**2) / edge**2, 0, 1)


def _texture(rng: np.random.Generator, shape: tuple[int, int], fine: float, coarse: float) -> NDArray[np.float64]:
    """Draw chromatin: grains and, darker, a few nucleoli; about 1 on average, never negative."""
    grains, patches = (ndi.gaussian_filter(rng.normal(size=shape), sigma) for sigma in (max(fine, 0.7), coarse))
    grains, patches = (noise / max(float(noise.std()), 1e-9) for noise in (grains, patches))
    return np.clip(1 + 0.12 * grains + 0.12 * patches - 0.35 * (patches > 1.6), 0.2, None)


def _illumination(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Light that falls off to the corners from somewhere near the middle."""
    rows, columns = (np.linspace(-1, 1, m) - c for m, c in zip(shape, rng.uniform(-0.4, 0.4, 2), strict=True))
    return np.exp(-rng.uniform(0.1, 0.3) * (rows[:, None] ** 2 + columns[None, :] ** 2))


def nuclei_sample() -> list[LayerData]:
    """Give simulated nuclei and their true labels as napari layers."""
    image, labels = simulate_nuclei()
    placed = {"scale": (0.5, 0.5), "units": ("um", "um")}  # 22 px are then 11 um, as nuclei are
    return [
        (image, {"name": "simulated nuclei", **placed}, "image"),
        (labels, {"name": "simulated nuclei (truth)", "visible": False, **placed}, "labels"),
    ]


def tissue_sample() -> list[LayerData]:
    """Give a colour image of stained tissue (scikit-image's ``immunohistochemistry``) as a napari layer."""
    from skimage.data import immunohistochemistry

    return [(immunohistochemistry(), {"name": "tissue (immunohistochemistry)", "rgb": True}, "image")]


def mitosis_sample() -> list[LayerData]:
    """Give an image of dividing cells (scikit-image's ``human_mitosis``) as a napari layer.

    Raises
    ------
    ConnectionError
        If the image is not on this computer yet and cannot be downloaded.
    """
    from skimage.data import human_mitosis

    try:
        image = human_mitosis()
    except (OSError, ImportError, ValueError) as error:  # no network, no pooch, or a login page in place of the image
        raise ConnectionError(
            "The mitosis image is not on this computer yet and cannot be downloaded. Connect to the internet and try again, "
            "or choose another sample."
        ) from error
    return [(image, {"name": "mitosis"}, "image")]
