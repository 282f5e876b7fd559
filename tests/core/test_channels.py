"""Which channels a network looks at: chosen once, stored with the model, and picked alike wherever a model meets an image."""

import json
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import bright_is_cell, nine_discs
from pictures import discs
from safetensors.torch import load_file, save_file

import napari_tally as nt
from napari_tally.core.channels import ChannelChoice, choose_channels, parse_choice, parse_order, pick_channels
from napari_tally.core.checkpoint import load_checkpoint, save_checkpoint
from napari_tally.core.events import run_to_end
from napari_tally.core.explain import explain
from napari_tally.core.find import estimate_diameter, find_cells
from napari_tally.core.images import Image, as_image
from napari_tally.core.inflate import inflated
from napari_tally.core.intensity import intensity_window
from napari_tally.core.model_file import load_model, save_model
from napari_tally.core.plan import new_model, plan_training, prepare
from napari_tally.core.predict import predict, seen_by, window_for
from napari_tally.core.range import fingerprint_images, judging, measure
from napari_tally.core.samples import TrainingPair
from napari_tally.core.start import choose_start
from napari_tally.core.train import Checkpoint, train
from napari_tally.settings import NormalisationSettings, PredictionSettings, TrainingSettings

CELLS = discs((64, 96), *((y, x, 8) for y in (14, 44) for x in (12, 36, 60, 84)))
WISH = TrainingSettings(steps=3, patch=32, device="cpu", depth=1, base_width=2)
THIRD_FIRST = ChannelChoice((3, 1), 3)


def stack(channels=3, colour=False, name="a"):
    """An image whose channels have nothing in common; cells are in the last."""
    rng = np.random.default_rng(5)
    pixels = [rng.integers(0, 50 * (c + 1), CELLS.shape) for c in range(channels)]
    pixels[-1] += 200 * (CELLS > 0)
    pixels = np.stack(pixels).clip(0, 255).astype(np.uint8)
    return as_image(np.moveaxis(pixels, 0, -1), axes="YXS", name=name) if colour else as_image(pixels, axes="CYX", name=name)


def picked(image, order):
    """What somebody does who takes the channels out himself, from 0."""
    return as_image(image.planes[0][list(order)], axes="CYX", name=image.name)


@given(data=st.data(), lazy=st.booleans())
def test_channels_are_those_of_numpy_in_any_order(data, lazy):
    planes = np.arange(2 * 5 * 3 * 4).reshape(2, 5, 3, 4)
    order = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
    image = Image(da.from_array(planes, chunks=(1, 2, 2, 2)) if lazy else planes, leading=(2,), colour=True).with_channels(order)
    assert (image.is_lazy, image.colour, image.shape, image.channels) == (lazy, False, (2, 3, 4), len(order))
    np.testing.assert_array_equal(image.read(1, (slice(1, 3), slice(0, 4))), planes[1][order][:, 1:])
    np.testing.assert_array_equal(image.sample(0, slice(0, 2), slice(0, 2)), planes[:, order[0], :2])


def test_pixels_of_a_file_are_read_when_they_are_asked_for():
    read = []

    def block(block_info=None):
        read.append(block_info[None]["chunk-location"][1])
        return np.zeros((1, 1, 4, 4), np.uint8)

    image = Image(da.map_blocks(block, chunks=((1,), (1, 1, 1), (4,), (4,)), dtype=np.uint8, meta=np.empty((0,) * 4, np.uint8)))
    read.clear()
    some = pick_channels(THIRD_FIRST, image)
    assert not read
    some.read(0, (slice(0, 4), slice(0, 4)))
    assert set(read) == {0, 2}


def test_two_channels_are_a_view():
    image = stack()
    assert np.shares_memory(pick_channels(THIRD_FIRST, image).planes, image.planes)


@pytest.mark.parametrize(("text", "order"), [("", ()), (" ", ()), ("3 1", (3, 1)), ("3,1", (3, 1)), (" 2, 10 ,1", (2, 10, 1))])
def test_the_wish_is_read(text, order):
    assert parse_order(text) == order


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("red", "The channels are 'red'; numbers counted from 1 are wanted, such as 3 1, or nothing"),
        ("1-3", "numbers counted from 1 are wanted"),
        ("3 1 3", "Channel 3 is named twice in '3 1 3'; name each channel once"),
        ("4", r"Channel 4 is asked for and a has 3 channels, counted from 1\. Name some that are there, or leave"),
        ("0 1", "Channel 0 is asked for and a has 3 channels, counted from 1"),
        ("9" * 300, "Channel 999999999 is asked for"),
    ],
)
def test_a_wish_that_cannot_be_is_one_sentence(text, says):
    with pytest.raises(ValueError, match=says):
        plan_training([TrainingPair(stack(), CELLS)], replace(WISH, channels=text))


def test_what_is_chosen_and_how_it_is_said():
    images = [stack(), stack(name="b")]
    assert choose_channels("", images) is None
    assert choose_channels("1 2 3", images) is None  # all, as they are
    assert choose_channels("3 2 1", images) == ChannelChoice((3, 2, 1), 3)
    assert choose_channels("3 1", images) == THIRD_FIRST
    assert choose_channels("3 1", [stack(), stack(2)]) == THIRD_FIRST  # of the second somebody has taken them out
    assert [str(ChannelChoice(order, 3)) for order in ((2,), (1, 3), (3, 1), (3, 1, 2))] == [
        "channel 2 of 3",
        "channels 1 and 3 of 3",
        "channels 3 and 1 of 3, in this order",
        "channels 3, 1 and 2 of 3, in this order",
    ]
    with pytest.raises(
        ValueError, match=r"a has 3 channels and b 4 channels, so channels 4 and 1 of 4, in this order cannot be picked from both"
    ):
        choose_channels("4 1", [stack(), stack(4, name="b")])


def test_the_choice_of_the_start_holds_where_there_are_such_channels():
    assert choose_channels("", [stack()], THIRD_FIRST) == THIRD_FIRST
    assert choose_channels("", [stack(2)], THIRD_FIRST) == THIRD_FIRST
    assert choose_channels("3 1", [stack(2)], THIRD_FIRST) == THIRD_FIRST
    assert choose_channels("2 1", [stack()], THIRD_FIRST) == ChannelChoice((2, 1), 3)
    assert choose_channels("", [stack(4)], THIRD_FIRST) is None


def test_training_on_chosen_channels_is_training_on_images_that_have_only_these():
    models = []
    for image, wish in ((stack(), "3 1"), (picked(stack(), (2, 0)), "")):
        pair = TrainingPair(image, CELLS)
        plan = plan_training([pair], replace(WISH, channels=wish, statistics="experiment"))
        model = new_model(plan)
        run_to_end(train(model, [pair], plan))
        models.append(model)
    one, other = models
    assert (one.channels, other.channels) == (THIRD_FIRST, None)
    assert one.settings == other.settings
    assert one.settings.channels == 2
    np.testing.assert_array_equal(one.window, other.window)
    for name, tensor in one.network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[name]), name
    assert one.record["range"] == other.record["range"]
    assert one.record["training"]["channels"] == "3 1"
    assert "Channels: Channels 3 and 1 of 3, in this order. Images with just 2 channels are taken as they are." in one.record["plan"]
    assert "3 and 1 of 3" not in str(other.record["plan"])


@pytest.mark.parametrize(
    "choice", [ChannelChoice((3,), 3), ChannelChoice((3, 1), 3), ChannelChoice((3, 2, 1), 3), ChannelChoice((2, 1), 2)]
)
@pytest.mark.parametrize("colour", [False, True])
def test_a_model_sees_of_an_image_what_it_has_learned(choice, colour):
    """Each question to a model about an image, against a model without a choice and an image made by hand; permuting twice would show."""
    colour = colour and choice.of == 3
    pixels = np.stack([np.full((64, 64), 7, np.uint8)] * (choice.of - 1) + [nine_discs()])
    image = as_image(np.moveaxis(pixels, 0, -1), axes="YXS", name="a") if colour else as_image(pixels, axes="CYX", name="a")
    taken = picked(image, [n - 1 for n in choice.order])
    plain = replace(bright_is_cell(len(choice.order), diameter=12.0), any_size=True)
    model = replace(plain, channels=choice)
    here = PredictionSettings(device="cpu")
    found, wanted = (run_to_end(find_cells(m, i, here)) for m, i in ((model, image), (plain, taken)))
    assert wanted.cells == 9
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.probabilities, wanted.probabilities)
    np.testing.assert_array_equal(run_to_end(predict(model, image, here)), run_to_end(predict(plain, taken, here)))
    window = window_for(plain, taken)
    np.testing.assert_array_equal(window_for(model, image), window)
    assert run_to_end(estimate_diameter(model, image, here, window)) == run_to_end(estimate_diameter(plain, taken, here, window))
    np.testing.assert_array_equal(measure(model, image, found), measure(plain, taken, wanted))
    known = fingerprint_images(model, [image], device="cpu")
    assert known.as_dict() == fingerprint_images(plain, [taken], device="cpu").as_dict()
    model.record["range"] = known.as_dict()
    assert not run_to_end(judging(model, image, found))
    assert not run_to_end(judging(model, image, replace(found, probabilities=None)))
    if len(choice.order) < choice.of:  # somebody has taken the channels out already
        np.testing.assert_array_equal(run_to_end(find_cells(model, taken, here)).labels, wanted.labels)


def test_of_an_image_with_other_channels_one_is_chosen_at_prediction(tmp_path):
    alone, labels = nt.simulate_nuclei(seed=3, shape=(160, 160), n=14)
    both = as_image(np.stack([np.full_like(alone, 99), alone]), axes="CYX", name="both")
    model = nt.find_model("nuclei")
    wish = PredictionSettings(device="cpu", channels="2")
    found = nt.predict(both, model, settings=wish)
    np.testing.assert_array_equal(found.labels, nt.predict(alone, model).labels)
    assert found.cells == pytest.approx(labels.max(), abs=3)
    far = replace(found, probabilities=None)  # as of a slide: the middle is looked at once more
    assert run_to_end(judging(model, both, found, wish)) == run_to_end(judging(model, both, far, wish))
    with pytest.raises(ValueError, match=r"both has 2 channels, .* Say which channel shows the cells \(Expert options › Channels"):
        nt.predict(both, model)
    with pytest.raises(ValueError, match="'1 2' are asked for, and this model takes 1 channel, or 3 for red, green and blue"):
        nt.predict(both, model, settings=PredictionSettings(channels="1 2"))
    with pytest.raises(ValueError, match="Channel 3 is asked for and both has 2 channels"):
        nt.predict(both, model, settings=PredictionSettings(channels="3"))


def test_the_brightness_of_the_experiment_is_that_of_the_chosen_channels():
    image = stack()
    how = NormalisationSettings(statistics="experiment")
    plan = plan_training([TrainingPair(image, CELLS)], replace(WISH, channels="3 1", statistics="experiment"))
    np.testing.assert_allclose(plan.window, intensity_window(picked(image, (2, 0)), how), rtol=1e-6)


def test_other_images_are_refused_in_plain_words():
    model = replace(bright_is_cell(2), channels=THIRD_FIRST)
    with pytest.raises(
        ValueError,
        match=r"a has 4 channels, but this model was trained on images with 3 channels, of which it looks at channels 3 and 1 of 3, "
        r"in this order \(an image that has just as many as these is taken as it is\)\. Choose a model",
    ):
        run_to_end(find_cells(model, stack(4)))


def test_grey_images_join_those_of_colour():
    """What is grey is the same in red, green and blue."""
    colour, grey = stack(colour=True), as_image(np.maximum(CELLS, 0).astype(np.uint8), name="grey")
    pairs = [TrainingPair(colour, CELLS), TrainingPair(grey, CELLS)]
    plan = plan_training(pairs, replace(WISH, channels="3 1"))
    assert (plan.channels, plan.colour, plan.network.channels) == (ChannelChoice((3, 1), 3, colour=True), False, 2)
    assert [plane.picture.shape[0] for plane in prepare(plan, pairs)] == [2, 2]
    np.testing.assert_array_equal(seen_by(new_model(plan), grey).planes, np.repeat(grey.planes, 2, axis=1))
    with pytest.raises(ValueError, match="grey has 1 channel and a 3 channels, so channels 3 and 1 of 3"):
        plan_training([TrainingPair(stack(), CELLS), TrainingPair(grey, CELLS)], replace(WISH, channels="3 1"))


def test_one_channel_goes_on_from_a_model_for_colour_or_grey():
    image = stack()
    for start in ("nuclei", "auto"):
        pair = TrainingPair(image, CELLS)
        chosen = choose_start(start, [pair], replace(WISH, channels="3", depth=0, base_width=0))
        plan = plan_training([pair], replace(WISH, channels="3", depth=0, base_width=0), chosen)
        model = new_model(plan, chosen)
        alone = choose_start(start, [TrainingPair(picked(image, [2]), CELLS)], replace(WISH, depth=0, base_width=0))
        assert alone.fingerprint == chosen.fingerprint  # what fits best is what fits the chosen channel best
        assert model.channels == ChannelChoice((3,), 3)
        assert not any("adapted" in note for note in plan.notes)
        found, wanted = (run_to_end(find_cells(m, i)) for m, i in ((model, image), (replace(model, channels=None), picked(image, [2]))))
        np.testing.assert_array_equal(found.labels, wanted.labels)


def test_training_on_keeps_the_choice_and_says_where_it_changes():
    start = replace(bright_is_cell(2), channels=THIRD_FIRST)
    pair = TrainingPair(stack(), CELLS)
    wish = replace(WISH, depth=0, base_width=0)
    plan = plan_training([pair], wish, start)
    assert plan.channels == new_model(plan, start).channels == THIRD_FIRST
    assert not any("channel" in note for note in plan.notes)
    other = plan_training([pair], replace(wish, channels="1 2"), start)
    assert new_model(other, start).channels == ChannelChoice((1, 2), 3)
    assert "The start model has learned channels 3 and 1 of 3, in this order; from now on it looks at channels 1 and 2 of 3." in other.notes
    more = plan_training([TrainingPair(stack(4), CELLS)], wish, start)
    assert (more.channels, more.network.channels) == (None, 4)
    assert any("its first layer is adapted to 4" in note for note in more.notes)
    assert any("from now on it looks at all channels" in note for note in more.notes)


def test_a_model_for_planes_becomes_one_for_volumes_with_its_channels():
    volume = as_image(np.stack([stack().planes[0]] * 6), axes="ZCYX")
    start = replace(bright_is_cell(2, diameter=16.0), channels=THIRD_FIRST)
    assert inflated(start, [TrainingPair(volume, np.stack([CELLS] * 6))], WISH).channels == THIRD_FIRST


def test_model_and_training_remember_the_channels(tmp_path):
    pair = TrainingPair(stack(), CELLS)
    plan = plan_training([pair], replace(WISH, channels="3 1"))
    model = new_model(plan)
    checkpoint = next(event for event in train(model, [pair], plan, checkpoint_seconds=1e-9) if isinstance(event, Checkpoint))
    save_checkpoint(checkpoint, tmp_path / "state.safetensors")
    again = load_checkpoint(tmp_path / "state.safetensors")
    assert again.plan.channels == again.model().channels == THIRD_FIRST
    save_model(model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.channels == loaded.copy().channels == THIRD_FIRST
    assert loaded.fingerprint == model.fingerprint != replace(model, channels=None).fingerprint
    assert ("Channels", "Channels 3 and 1 of 3, in this order. Images with just 2 channels are taken as they are.") in explain(plan)


def rewrite(path, change):
    """Write the model file again with a header that is changed in place."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(json.loads(file.read(size))["__metadata__"]["napari_tally"])
    change(header)
    save_file(load_file(path), path, metadata={"napari_tally": json.dumps(header)})


def test_a_file_of_the_format_before_looks_at_all_channels(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(bright_is_cell(), path)

    def older(header):
        assert header.pop("channels") is None
        header["format"] = 3

    rewrite(path, older)
    assert load_model(path).channels is None


@pytest.mark.parametrize(
    "stated",
    [
        3,
        [3, 1],
        {"order": [3, 1], "of": 3},
        {"order": [], "of": 3, "colour": False},
        {"order": [4], "of": 3, "colour": False},
        {"order": [0], "of": 3, "colour": False},
        {"order": [1, 1], "of": 3, "colour": False},
        {"order": [True], "of": 3, "colour": False},
        {"order": ["1"], "of": 3, "colour": False},
        {"order": [1.0], "of": 3, "colour": False},
        {"order": [[1]], "of": 3, "colour": False},
        {"order": [1], "of": "3", "colour": False},
        {"order": [1], "of": 3, "colour": 1},
        {"order": list(range(1, 66)), "of": 100, "colour": False},
    ],
)
def test_a_choice_that_is_none_is_refused(tmp_path, stated):
    with pytest.raises(ValueError, match="channels that are no choice of channels"):
        parse_choice(stated)
    save_model(bright_is_cell(), tmp_path / "m.safetensors")
    rewrite(tmp_path / "m.safetensors", lambda header: header.update(channels=stated))
    with pytest.raises(ValueError, match="the header of the model file is damaged"):
        load_model(tmp_path / "m.safetensors")


def test_a_choice_of_more_channels_than_the_network_takes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="channels 3 and 1 of 3, in this order for a network of 1"):
        save_model(replace(bright_is_cell(), channels=THIRD_FIRST), tmp_path / "m.safetensors")


def test_python_trains_with_channels():
    model = nt.train([(stack(), CELLS)], start=None, steps=1, patch=32, device="cpu", channels="3", depth=1, base_width=2)
    assert model.channels == ChannelChoice((3,), 3)
    assert nt.predict(stack(), model).labels.shape == CELLS.shape
    with pytest.raises(ValueError, match=r"Channels \(channels\) is '1-3'; numbers counted from 1 are wanted"):
        nt.train([(stack(), CELLS)], channels="1-3")
