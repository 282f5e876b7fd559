"""The Python API: the engine's pieces, run to the end. Its examples are run by the doctests."""

import numpy as np
import pytest
from pictures import discs

import napari_tally as nt
from napari_tally.core.events import run_to_end
from napari_tally.core.images import as_image
from napari_tally.core.instances import label_planes
from napari_tally.core.intensity import intensity_window, normalise
from napari_tally.core.predict import predict, predict_plane
from napari_tally.core.train import Finished, Step
from napari_tally.settings import CountingSettings, PredictionSettings

LABELS = discs((64, 96), *((y, x, 7) for y in (16, 48) for x in range(12, 96, 18)))
IMAGE = (1000 * (LABELS > 0) + 100).astype(np.uint16)


@pytest.fixture(scope="module")
def model():
    return nt.train([(IMAGE, LABELS)], start=None, steps=2, patch=32, device="cpu")


def test_everything_public_is_there():
    for name in nt.__all__:
        assert getattr(nt, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'tain'"):
        nt.tain  # noqa: B018


def test_predict_is_its_pieces(model):
    image = as_image(IMAGE)
    result = nt.predict(IMAGE, model)
    picture = normalise(image.planes[0], intensity_window(image, model.normalisation))
    by_hand = run_to_end(predict_plane(model.network, picture))
    np.testing.assert_array_equal(result.probabilities, by_hand[None])
    np.testing.assert_array_equal(result.probabilities, run_to_end(predict(model, image)))
    np.testing.assert_array_equal(result.labels, label_planes(result.probabilities, model.counting)[0])


def test_labels_have_the_shape_of_the_image(model):
    for array in (IMAGE, np.stack([IMAGE, IMAGE]), np.stack([IMAGE] * 4).reshape(2, 2, *IMAGE.shape)):
        result = nt.predict(array, model)
        assert result.labels.shape == array.shape
        assert result.labels.dtype == np.int32
        assert len(nt.count(result.labels, array, bodies=False)) == len(np.unique(result.labels)) - (0 in result.labels)


def test_settings_reach_the_engine(model):
    none = nt.predict(IMAGE, model, counting=CountingSettings(min_area=1e6))
    assert not none.labels.any()
    tiled = nt.predict(IMAGE, model, settings=PredictionSettings(tile=32))
    np.testing.assert_allclose(tiled.probabilities, none.probabilities, atol=1e-5)


def test_training_leaves_the_model_it_starts_from_as_it_is(model):
    before = model.network.head.weight.clone()
    events = []
    further = nt.train([(IMAGE, LABELS)], start=model, on_event=events.append, steps=3, patch=32, device="cpu", learning_rate=0.1)
    assert (model.network.head.weight == before).all()
    assert (further.network.head.weight != before).any()
    assert isinstance(events[0], Step)
    assert isinstance(events[-1], Finished)
    assert further.record["start"] == model.record["trained"]


def test_arrays_are_told_apart_by_their_number():
    model = nt.train([(IMAGE, LABELS), (IMAGE + 1, LABELS)], start=None, steps=1, patch=32, device="cpu")
    assert model.record["images"] == ["image 1", "image 2"]


def test_saved_and_loaded_it_predicts_the_same(model, tmp_path):
    nt.save_model(model, tmp_path / "a.safetensors")
    again = nt.load_model(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(nt.predict(IMAGE, again).probabilities, nt.predict(IMAGE, model).probabilities)


def test_count_says_what_the_cells_of_a_stack_are_taken_as():
    stack = np.stack([LABELS] * 4)
    image = nt.as_image(np.zeros(stack.shape, np.uint8), axes="ZYX")
    bodies = len(np.unique(LABELS)) - 1
    with pytest.warns(UserWarning, match="Cells are counted as bodies, each once.* State it: bodies=True or bodies=False"):
        assert len(nt.count(stack, image)) == bodies
    assert len(nt.count(stack, image, bodies=True)) == bodies  # stated: no warning
    assert len(nt.count(stack, image, bodies=False)) == 4 * bodies


def test_count_knows_the_pixel_size():
    cells = nt.count(LABELS, nt.as_image(IMAGE, pixel_size=(0.5, 0.5)))
    assert len(cells) == LABELS.max() == 10
    np.testing.assert_allclose(cells["area_um2"], cells["area_px"] / 4)
    assert set(cells["mean_intensity"]) == {1100}


def test_bad_input_is_answered_in_words(model):
    with pytest.raises(ValueError, match="TrainingSettings has no setting 'epochs'"):
        nt.train([(IMAGE, LABELS)], epochs=3)
    with pytest.raises(ValueError, match=r"the labels have the shape \(63, 96\) and the image has \(64, 96\)"):
        nt.train([(IMAGE, LABELS[1:])], steps=1)
    with pytest.raises(ValueError, match="No cell is drawn"):
        nt.train([(IMAGE, 0 * LABELS)], steps=1)
    with pytest.raises(ValueError, match="is of type|values are of type"):
        nt.predict(np.array([["a"]]), model)
    with pytest.raises(ValueError, match="labels of shape"):
        nt.count(LABELS[1:], IMAGE)
