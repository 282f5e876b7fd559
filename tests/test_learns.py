"""The whole path on drawn images: after a few steps the count is right."""

import numpy as np
from pictures import discs
from scipy import ndimage as ndi

import napari_tally as nt
from napari_tally.core.train import Step


def wells(seed, side=96, cells=14):
    """Discs, some of them touching, under blur and noise: an image and its labels."""
    rng = np.random.default_rng(seed)
    places = []
    while len(places) < cells:
        y, x, radius = *rng.uniform(6, side - 6, 2), rng.uniform(5, 8)
        if all(np.hypot(y - b, x - a) > radius + r for b, a, r in places):
            places.append((y, x, radius))
    labels = discs((side, side), *places)
    light = ndi.gaussian_filter((labels > 0) * 800.0, 1)
    return rng.poisson(100 + light).astype(np.uint16), labels


def test_the_loss_falls_and_the_count_is_right():
    losses = []
    model = nt.train(
        [wells(1), wells(2)], start=None, steps=120, patch=64, on_event=lambda e: losses.append(e.loss) if isinstance(e, Step) else None
    )
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    for seed in (10, 11, 12):
        image, truth = wells(seed)
        found = nt.predict(image, model).labels.max()
        assert abs(found - truth.max()) <= 1


def test_only_what_is_annotated_is_learned():
    """Half of the image is annotated; the cells in the other half are not drawn, and yet they are no background."""
    image, truth = wells(3, side=128, cells=26)
    known = np.where(np.arange(128) < 64, truth, -1)
    model = nt.train([(image, known)], start=None, steps=100, patch=64)
    assert abs(nt.predict(image, model).labels.max() - truth.max()) <= 2
