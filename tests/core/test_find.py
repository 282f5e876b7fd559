"""A model that is not bound to one magnification looks how large the cells are."""

from dataclasses import replace
from math import nan

import numpy as np
import pytest
from pictures import discs

from napari_tally.core import find
from napari_tally.core.events import run_to_end
from napari_tally.core.find import believed, estimate_diameter, find_cells
from napari_tally.core.images import as_image
from napari_tally.core.model_file import find_model
from napari_tally.core.predict import window_for
from napari_tally.sample_data import simulate_nuclei
from napari_tally.settings import CountingSettings, PredictionSettings


@pytest.fixture(scope="module")
def nuclei():
    return find_model("nuclei")


def wells(radius):
    """Bright discs with soft edges in a little noise."""
    step = 4 * radius
    places = [(y, x, radius) for y in range(step // 2, 400, step) for x in range(step // 2, 400, step)]
    labels = discs((400, 400), *places)
    picture = 100 + 400 * (labels > 0) + np.random.default_rng(0).normal(0, 10, labels.shape)
    return as_image(picture.astype(np.uint16), name=f"{radius}"), labels


def test_usual_cells_are_taken_as_they_are(nuclei):
    image, _ = wells(10)
    assert run_to_end(estimate_diameter(nuclei, image, PredictionSettings(), window_for(nuclei, image))) == nuclei.diameter


@pytest.mark.parametrize("radius", [28, 34])
def test_large_cells_are_seen_to_be_large(nuclei, radius):
    image, labels = wells(radius)
    assert run_to_end(estimate_diameter(nuclei, image, PredictionSettings(), window_for(nuclei, image))) == pytest.approx(
        2 * radius, rel=0.2
    )
    found = run_to_end(find_cells(nuclei, image))
    assert found.labels.max() == labels.max()
    assert found.zoom == pytest.approx(2 * radius / nuclei.diameter, rel=0.2)


def test_cells_are_measured_where_they_are(nuclei, monkeypatch):
    labels = discs((520, 520), *((y, x, 28) for y in (40, 160, 480) for x in (400, 480)), (40, 40, 28), (160, 480, 28))
    picture = 100 + 400 * (labels > 0) + np.random.default_rng(0).normal(0, 10, labels.shape)
    image = as_image(picture.astype(np.uint16))
    monkeypatch.setattr(find, "_SIDE", 200)  # the middle of this image is empty, as that of a large one may be
    seen = run_to_end(estimate_diameter(nuclei, image, PredictionSettings(), window_for(nuclei, image)))
    assert seen == pytest.approx(56, rel=0.2)


@pytest.mark.parametrize(
    ("measured", "believes"),
    [
        ([20, 22, 23, nan], 22),  # the last one that comes out as large as the model knows: 22 * 0.71 = 16, 23 * 0.5 = 12
        ([10, 11, nan, nan], 10),  # small cells: none agrees, and this is nearest
        ([80, 78, 79, 70], 70),  # large ones
        ([18, 40, 45, 50], 50),  # pieces of large cells at full size, by chance as large as cells
        ([18, 60, 80, 50], 50),  # once against once: the coarser
        ([18, 26, 80, 50], 26),  # twice against once
        ([nan, nan, nan, nan], 20),
    ],
)
def test_which_diameter_is_believed(measured, believes):
    assert believed(measured, 20) == believes


def test_nothing_to_see_changes_nothing(nuclei):
    image = as_image(np.random.default_rng(0).normal(500, 10, (300, 300)).astype(np.uint16))
    assert run_to_end(estimate_diameter(nuclei, image, PredictionSettings(), window_for(nuclei, image))) == nuclei.diameter
    assert run_to_end(find_cells(nuclei, image)).labels.max() == 0


def test_what_the_user_says_is_not_asked_again(nuclei, monkeypatch):
    monkeypatch.setattr("napari_tally.core.find.estimate_diameter", None)
    image, _ = wells(10)
    assert run_to_end(find_cells(nuclei, image, PredictionSettings(diameter=40))).zoom == pytest.approx(40 / nuclei.diameter)
    bound = replace(nuclei, any_size=False)
    assert run_to_end(find_cells(bound, image)).zoom == 1


def test_thresholds_of_the_caller_come_first(nuclei):
    image, _ = wells(10)
    assert run_to_end(find_cells(nuclei, image, counting=CountingSettings(min_area=1e6))).labels.max() == 0


@pytest.mark.parametrize("kind", ["noise", "uneven", "hot pixels", "haze", "dark", "constant"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_image_without_cells_counts_zero(nuclei, kind, dtype):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:256, :256] / 256
    ground = {
        "noise": 100 + 0 * y,
        "uneven": 60 + 80 * y + 40 * x**2,
        "hot pixels": 60 + 190 * (rng.random(y.shape) < 3e-4),
        "haze": 100 + 30 * np.sin(3 * y) * np.cos(4 * x),
        "dark": 3 + 0 * y,
        "constant": 100 + 0 * y,
    }[kind]
    picture = ground if kind == "constant" else rng.poisson(ground)
    assert run_to_end(find_cells(nuclei, as_image(picture.clip(0, 255).astype(dtype)))).labels.max() == 0


def test_nuclei_without_any_training(nuclei):
    true, found = 0, 0
    for seed in range(3):
        picture, labels = simulate_nuclei(seed=seed, n=25)
        true += labels.max()
        found += run_to_end(find_cells(nuclei, as_image(picture))).labels.max()
    assert abs(found - true) <= 0.1 * true
