"""Prediction: stitched tiles are the whole image, whatever its size, the tiles and the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import bright_is_cell, nine_discs

from napari_tally.core.events import run_to_end
from napari_tally.core.find import find_cells
from napari_tally.core.images import as_image
from napari_tally.core.instances import climb_tile
from napari_tally.core.intensity import intensity_window, normalise
from napari_tally.core.model_file import Model, build_network
from napari_tally.core.predict import Predictor, TileDone, looking_at, predict, predict_plane
from napari_tally.settings import NetworkSettings, NormalisationSettings, PredictionSettings


def a_network(**kwargs):
    """A small network with weights and running statistics that are no special case."""
    torch.manual_seed(0)
    network = build_network(NetworkSettings(**{"base_width": 2, "depth": 2, **kwargs})).eval()
    for name, value in network.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return network


def a_model(scale=1.0, colour=False, **kwargs):
    network = a_network(**kwargs)
    return Model(network, NetworkSettings(**{"base_width": 2, "depth": 2, **kwargs}), colour, scale)


def whole_image(network, picture):
    """The definition: mirror the image on all sides, run the network once, cut out the middle."""
    pad = -(-network.margin // network.step) * network.step  # a multiple of the step keeps the grid of the poolings
    if network.padding == "same":
        pad = min(pad, 32)
        sides = [pad + -(-n // network.step) * network.step + pad for n in picture.shape[1:]]
    else:
        sides = [network.input_size(pad + n + network.margin, of_output=False) for n in picture.shape[1:]]
    borders = [(pad, side - pad - n) for side, n in zip(sides, picture.shape[1:], strict=True)]
    mirrored = np.pad(picture, [(0, 0), *borders], mode="reflect")
    with torch.inference_mode():
        probabilities = network(torch.from_numpy(mirrored[None])).softmax(dim=1)[0].numpy()
    return probabilities[:, pad - network.lost :, pad - network.lost :][:, : picture.shape[1], : picture.shape[2]]


networks = {
    (padding, upsampling, depth): a_network(padding=padding, upsampling=upsampling, depth=depth)
    for padding in ("same", "valid")
    for upsampling in ("transposed", "linear")
    for depth in (1, 2, 3)
}


@given(st.sampled_from(sorted(networks)), st.integers(1, 80), st.integers(1, 80), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_stitched_tiles_are_the_whole_image(kind, height, width, tiles, seed):
    network = networks[kind]
    picture = np.random.default_rng(seed).normal(size=(1, height, width)).astype(np.float32)
    stitched = run_to_end(predict_plane(network, picture, -(-max(height, width) // tiles)))
    np.testing.assert_allclose(stitched, whole_image(network, picture), atol=1e-5)


def test_the_default_network_too(rng):
    """Depth 4, 16 wide, as trained: the tiles are smaller than the halo around them."""
    network = a_network(depth=4, base_width=16)
    picture = rng.normal(size=(1, 20, 70)).astype(np.float32)
    stitched = run_to_end(predict_plane(network, picture, 48))
    np.testing.assert_allclose(stitched, whole_image(network, picture), atol=1e-5)


def test_news_of_every_tile():
    news = []
    probabilities = run_to_end(predict(a_model(), as_image(np.ones((2, 20, 40), np.uint8)), PredictionSettings(tile=16)), news.append)
    assert [event for event in news if event.done == int(event.done)] == [TileDone(done, 2 * 2 * 3) for done in range(1, 13)]
    assert news == sorted(news, key=lambda event: event.done)
    assert probabilities.shape == (2, 3, 20, 40)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_predict_is_normalise_then_network(rng):
    model, image = a_model(), as_image(rng.integers(0, 4000, (60, 40)).astype(np.uint16))
    picture = normalise(image.planes[0], intensity_window(image, model.normalisation))
    np.testing.assert_allclose(run_to_end(predict(model, image))[0], whole_image(model.network, picture), atol=1e-5)


def test_planes_do_not_see_each_other(rng):
    """Only through the intensity window, which is of the whole image."""
    model, plane = a_model(), rng.integers(0, 255, (30, 30)).astype(np.uint8)
    both = run_to_end(predict(model, as_image(np.stack([plane, plane]))))
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_allclose(both[:1], run_to_end(predict(model, as_image(plane))), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (17, 3), (3, 500)])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_odd_images(rng, shape, scale):
    probabilities = run_to_end(predict(a_model(scale=scale), as_image(rng.integers(0, 255, shape).astype(np.uint8))))
    assert probabilities.shape == (1, 3, *shape)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_colour_model_takes_grey_images(rng):
    model = a_model(colour=True, channels=3)
    grey = rng.integers(0, 255, (40, 40)).astype(np.uint8)
    as_colour = as_image(np.stack([grey] * 3, axis=-1), rgb=True)
    np.testing.assert_array_equal(run_to_end(predict(model, as_image(grey))), run_to_end(predict(model, as_colour)))


def test_a_model_for_other_channels():
    colour = as_image(np.arange(300, dtype=np.uint8).reshape(10, 10, 3), name="slide")
    with pytest.raises(ValueError, match=r"slide has 3 channels \(RGB colour\), but this model was trained on images with 1 channel\."):
        run_to_end(predict(a_model(), colour))
    two = as_image(np.zeros((2, 8, 8)), axes="CYX", name="two")
    with pytest.raises(ValueError, match=r"two has 2 channels, but .* with 3 channels \(RGB colour\)"):
        run_to_end(predict(a_model(colour=True, channels=3), two))


def test_three_stains_are_no_colours_unless_somebody_says_so(rng):
    model, stains = (
        a_model(colour=True, channels=3),
        as_image(rng.integers(0, 255, (3, 40, 40)).astype(np.uint8), axes="CYX", name="stains"),
    )
    with pytest.raises(
        ValueError,
        match="stains has 3 channels of which nobody says that they are red, green and blue.* Say which channel shows the cells, or 1 2 3",
    ):
        run_to_end(predict(model, stains))
    told = looking_at(model, stains, PredictionSettings(channels="1 2 3"))
    colours = as_image(np.moveaxis(stains.planes[0], 0, -1), rgb=True)
    np.testing.assert_array_equal(run_to_end(predict(told, stains)), run_to_end(predict(model, colours)))


def test_walking_away_leaves_the_model_as_it_was(rng):
    model = a_model()
    tiles = predict(model, as_image(rng.random((64, 64))), PredictionSettings(tile=16))
    next(tiles)
    assert not torch.is_inference_mode_enabled()
    tiles.close()
    assert next(model.network.parameters()).device.type == "cpu"
    assert all(p.requires_grad for p in model.network.parameters())


def test_statistics_of_the_experiment_leave_a_dim_image_dim():
    y, x = np.mgrid[:40, :40]
    bright = as_image(500 + 500 * np.sin(y / 6) * np.sin(x / 6))
    dim = as_image(bright.planes[0, 0] / 100)
    model = a_model(batch_norm=False)
    assert np.abs(run_to_end(predict(model, bright)) - run_to_end(predict(model, dim))).max() < 1e-4
    model.normalisation, model.window = NormalisationSettings(statistics="experiment"), intensity_window(bright, model.normalisation)
    black = run_to_end(predict(model, as_image(np.full((40, 40), model.window[0, 0]))))
    assert np.abs(run_to_end(predict(model, dim)) - black).max() < 0.02 < np.abs(run_to_end(predict(model, bright)) - black).max()


def test_tiles_are_halved_where_the_hills_take_too_much(rng, monkeypatch):
    """What follows the network needs memory too; the cells stay the same."""
    stack = as_image(np.stack([nine_discs(), nine_discs(radius=5)]))
    whole, sides = run_to_end(find_cells(bright_is_cell(), stack)), []

    def short(probabilities, known, write, *others):
        sides.append(max(part.stop - part.start for part in write))
        if sides[-1] > 32:
            raise MemoryError
        return climb_tile(probabilities, known, write, *others)

    monkeypatch.setattr("napari_tally.core.find.climb_tile", short)
    monkeypatch.setattr("napari_tally.core.find._SMALLEST", 20)
    news = []
    found = run_to_end(find_cells(bright_is_cell(), stack), news.append)
    np.testing.assert_array_equal(found.labels, whole.labels)
    np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=1e-5)
    assert sides.count(64) == 3  # whole, and two halves; the second plane begins with the quarters
    assert news[-1].done == news[-1].total == 8
    monkeypatch.setattr("napari_tally.core.find._SMALLEST", 65)
    with pytest.raises(MemoryError):
        run_to_end(find_cells(bright_is_cell(), stack))


def test_halves_are_what_the_tile_would_have_been(rng, monkeypatch):
    model, image = a_model(), as_image(rng.integers(0, 255, (90, 70)).astype(np.uint8))
    whole, sides = run_to_end(predict(model, image)), []

    def short(self, plane, region, whole=Predictor._whole):
        sides.append(max(part.stop - part.start for part in region))
        if sides[-1] > 40:
            raise [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("could not create a primitive")][
                len(sides) % 3
            ]
        return (yield from whole(self, plane, region))

    monkeypatch.setattr(Predictor, "_whole", short)
    monkeypatch.setattr("napari_tally.core.predict._LEAST", 16)
    np.testing.assert_allclose(run_to_end(predict(model, image)), whole, atol=1e-5)
    assert max(sides) == 90


@pytest.mark.parametrize(("model", "settings"), [(a_model(scale=100.0), {}), (replace(a_model(), diameter=16.0), {"diameter": 0.01})])
def test_no_image_is_enlarged_without_bound(model, settings):
    """It would be at it for hours: cells of a hundredth of a pixel are none."""
    with pytest.raises(ValueError, match=r"image: it would be enlarged 1.*00 times a side, and 16 times is the most. State the diameter"):
        run_to_end(predict(model, as_image(np.zeros((20, 20))), PredictionSettings(device="cpu", **settings)))
