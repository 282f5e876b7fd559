"""Which image next: unsure and unlike first, and not ten times the same."""

import numpy as np
import pytest

import napari_tally as nt
from napari_tally.core.events import run_to_end
from napari_tally.core.images import as_image
from napari_tally.core.range import KEY, NAMES, UNITS
from napari_tally.core.suggest import look_at, suggest

PLAIN = np.array([0.8, -1.0, 0.05, 0.5, -2.0, 3.0, 0.4, 0.95])


def point(**changes):
    """Numbers that differ from the plain ones by so many units."""
    return PLAIN + [changes.get(name, 0) * unit for name, unit in zip(NAMES, UNITS, strict=True)]


@pytest.fixture
def model():
    model = nt.find_model("nuclei").copy()
    model.record[KEY] = {"numbers": list(NAMES), "points": [PLAIN.tolist()], "limit": 4.0}
    return model


def test_unsure_and_unlike_come_before_what_is_known(model):
    points = [point(), point(certainty=-5), point(brightness=8), point(size=0.5)]
    found = suggest(model, list("abcd"), points, 4)
    assert [suggestion.name for suggestion in found[:2]] == ["b", "c"]
    assert found[0].reason.startswith("it is unlike") or found[0].reason.startswith("the model is unsure of its cells (0.65")
    assert "the image is mostly brighter" in found[1].reason
    assert found[-1].reason == "much like what is known already: little is to be gained"
    assert [suggestion.place for suggestion in found[:2]] == [1, 2]


def test_not_twice_the_same(model):
    points = [point(brightness=8), point(brightness=8.1), point(contrast=-5)]
    assert [suggestion.name for suggestion in suggest(model, list("abc"), points, 2)] == ["b", "c"]


def test_without_a_fingerprint_the_least_sure_is_first(model):
    del model.record[KEY]
    found = suggest(model, ["sure", "unsure"], [point(), point(certainty=-3)])
    assert [suggestion.name for suggestion in found] == ["unsure", "sure"]
    assert suggest(model, [], []) == []


def test_pixels_of_another_kind_come_first(model):
    plain, other, known = (nt.simulate_nuclei(seed, shape=(160, 160), n=14)[0] for seed in range(3))
    images = [as_image(pixels) for pixels in (plain, other.max() - other, known)]
    *points, annotated = (run_to_end(look_at(model, image)) for image in images)
    model.record[KEY]["points"] = [annotated.tolist()]
    found = suggest(model, ["plain", "inverted"], points)
    assert found[0].name == "inverted"
    assert "it is unlike what is annotated or suggested so far" in found[0].reason
