"""An interrupted training goes on as if nothing had happened, to the bit; a damaged checkpoint is one sentence."""

import json
import math
import struct
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pictures import discs
from safetensors.torch import load_file, save_file

from napari_tally.core.checkpoint import Checkpoint, load_checkpoint, load_pairs, save_checkpoint
from napari_tally.core.events import run_to_end
from napari_tally.core.images import as_image
from napari_tally.core.model_file import Model, build_network
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import TrainingPair
from napari_tally.core.train import Comparison, Finished, Step, Validation, train
from napari_tally.settings import PAPER_NETWORK, AugmentationSettings, NetworkSettings, TrainingSettings

LABELS = discs((64, 128), *((y, x, 7) for y in (12, 32, 52) for x in range(10, 128, 18)))
SMALL = NetworkSettings(base_width=2, depth=2)


@pytest.fixture
def pairs(rng):
    return [TrainingPair(as_image((LABELS > 0) * 1000 + rng.normal(100, 20, LABELS.shape), name="wells"), LABELS)]


def begun(pairs, network=SMALL, start=None, **wishes):
    """A model and a plan for it."""
    settings = TrainingSettings(**{"steps": 12, "patch": 32, "device": "cpu", **wishes})
    if start is not None:
        plan = plan_training(pairs, settings, start)
        return new_model(plan, start), plan
    torch.manual_seed(1)
    model = Model(build_network(network).eval(), network)
    return model, plan_training(pairs, settings, start=model)


def checkpoints(model, pairs, plan, **more):
    return [event for event in train(model, pairs, plan, checkpoint_seconds=1e-9, **more) if isinstance(event, Checkpoint)]


def gone_on(checkpoint, path, pairs, **more):
    """Write the checkpoint, read it as another process would, and train to the end."""
    save_checkpoint(checkpoint, path)
    torch.manual_seed(99)
    found = load_checkpoint(path)
    model = found.model()
    events = list(train(model, pairs, found.plan, found.augmentation, resume=found, **more))
    return model, events


def same(one, other):
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours) and one.counting == other.counting


def pinned(model):
    """The record without what differs from run to run."""
    return {name: value for name, value in model.record.items() if name not in ("trained", "seconds", "resumed")}


@pytest.mark.parametrize("wishes", [{}, {"batch": 2}, {"preset": "paper", "patch": 188, "steps": 4, "learning_rate": 1e-3}])
def test_interrupted_anywhere_is_the_same_to_the_bit(pairs, tmp_path, wishes):
    """Adam and momentum, dropout, the hold-out phase and what follows it: whatever step it was."""
    network = replace(PAPER_NETWORK, base_width=2) if wishes.get("preset") else SMALL
    whole, plan = begun(pairs, network, **wishes)
    run_to_end(train(whole, pairs, plan))
    model, plan = begun(pairs, network, **wishes)
    found = checkpoints(model, pairs, plan)
    assert same(model, whole)  # checkpoints change nothing
    assert len(found) > plan.settings.steps
    for checkpoint in found[:: 4 if wishes else 3]:
        again, events = gone_on(checkpoint, tmp_path / "c.safetensors", pairs)
        assert same(again, whole)
        assert pinned(again) == pinned(whole)
        assert again.record["resumed"] == [checkpoint.step]
        steps = [event.step for event in events if isinstance(event, Step)]
        assert all(step > checkpoint.step for step in steps)
        assert isinstance(events[-1], Finished)


def test_from_a_trained_start_through_both_folds(pairs, tmp_path):
    other = [TrainingPair(as_image((LABELS.T > 0) * 1000 + np.random.default_rng(5).normal(100, 20, LABELS.T.shape)), LABELS.T.copy())]
    start, plan = begun(other, steps=60, learning_rate=1e-2)
    run_to_end(train(start, other, plan))
    whole, plan = begun(pairs, start=start, steps=10, insist=True)
    events = list(train(whole, pairs, plan))
    (comparison,) = (event for event in events if isinstance(event, Comparison))
    model, plan = begun(pairs, start=start, steps=10, insist=True)
    found = checkpoints(model, pairs, plan)
    assert {c.place.phase for c in found} == {0, 1, 2}
    assert [len(c.learned) for c in found if c.place.phase == 1] == [1, 1, 1, 1]
    for checkpoint in found[::2]:
        again, events = gone_on(checkpoint, tmp_path / "c.safetensors", pairs)
        assert same(again, whole)
        assert pinned(again) == pinned(whole)
        assert events[-1].comparison == comparison
        assert again.record["start"] == start.record["trained"]


def test_with_images_to_validate_on(pairs, tmp_path, rng):
    other = [TrainingPair(as_image((LABELS > 0) + rng.normal(0, 0.1, LABELS.shape)), LABELS)]
    whole, plan = begun(pairs, steps=6)
    run_to_end(train(whole, pairs, plan, validation=other))
    model, plan = begun(pairs, steps=6)
    found = checkpoints(model, pairs, plan, validation=other)
    again, events = gone_on(found[3], tmp_path / "c.safetensors", pairs, validation=other)
    assert same(again, whole)
    assert [event.step for event in events if isinstance(event, Validation)][-1] == 6


def test_interrupted_twice(pairs, tmp_path):
    whole, plan = begun(pairs)
    run_to_end(train(whole, pairs, plan))
    model, plan = begun(pairs)
    first = checkpoints(model, pairs, plan)[2]
    again = first.model()
    second = checkpoints(again, pairs, first.plan, augmentation=first.augmentation, resume=first)[3]
    assert second.step > first.step
    last, _ = gone_on(second, tmp_path / "c.safetensors", pairs)
    assert same(last, whole)
    assert last.record["resumed"] == [first.step, second.step]


def test_minutes_go_on_where_they_were(pairs, tmp_path, monkeypatch):
    ticks = count()
    monkeypatch.setattr("napari_tally.core.budget.time", SimpleNamespace(perf_counter=lambda: next(ticks) / 50))
    model, plan = begun(pairs)
    plan = replace(plan, settings=replace(plan.settings, steps=0, minutes=0.05))
    found = checkpoints(model, pairs, plan)
    middle = next(c for c in found if c.fraction > 0.5)
    _, events = gone_on(middle, tmp_path / "c.safetensors", pairs)
    assert all(event.fraction >= middle.fraction for event in events if isinstance(event, Step))
    assert 3 <= events[-1].seconds < 4  # those before the interruption count


def test_memory_that_was_short_is_remembered(pairs, tmp_path):
    model, plan = begun(pairs, batch=2)
    checkpoint = checkpoints(model, pairs, plan)[2]
    checkpoint.place.batch, checkpoint.place.patch = 1, 16
    save_checkpoint(checkpoint, tmp_path / "c.safetensors")
    found = load_checkpoint(tmp_path / "c.safetensors")
    again = found.model()
    later = checkpoints(again, pairs, found.plan, resume=found)
    assert {(c.place.batch, c.place.patch) for c in later} == {(1, 16)}


def test_other_labels_are_refused(pairs, tmp_path):
    model, plan = begun(pairs)
    checkpoint = checkpoints(model, pairs, plan)[0]
    changed = LABELS.copy()
    changed[0, 0] = 22
    with pytest.raises(ValueError, match="not those with which this training began"):
        gone_on(checkpoint, tmp_path / "c.safetensors", [TrainingPair(pairs[0].image, changed)])


def test_a_checkpoint_comes_when_it_is_due(pairs, monkeypatch):
    """Every 10 seconds of work, and at the end of a phase."""
    model, plan = begun(pairs, steps=40)
    now = [0.0]

    def tick():
        now[0] += 0.1
        return now[0]

    monkeypatch.setattr("napari_tally.core.budget.time", SimpleNamespace(perf_counter=tick))
    seconds = []
    for event in train(model, pairs, plan, checkpoint_seconds=10):
        if isinstance(event, Checkpoint):
            seconds.append(event.place.active)
    gaps = np.diff([0.0, *seconds])
    assert len(seconds) >= 4
    assert gaps.max() < 15


# --- the file --------------------------------------------------------------------------------------


@pytest.fixture
def path(pairs, tmp_path):
    model, plan = begun(pairs, steps=3)
    plan = replace(plan, window=np.array([[1.5, 900]], np.float32), diameter=math.nan)
    model.window = plan.window
    save_checkpoint(checkpoints(model, pairs, plan)[-1], tmp_path / "c.safetensors")
    return tmp_path / "c.safetensors"


def test_what_is_written_is_read(path):
    found = load_checkpoint(path)
    assert (found.step, found.fraction) == (3, 1.0)
    assert math.isnan(found.plan.diameter)
    np.testing.assert_array_equal(found.plan.window, [[1.5, 900]])
    assert found.augmentation == AugmentationSettings()
    assert found.start is None


def header_of(path):
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(json.loads(file.read(size))["__metadata__"]["napari_tally_training"])


def refuses(path):
    with pytest.raises(ValueError, match="unfinished training") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


WRONG = [None, -1, "x", [], {}, 10**400, True, math.nan]


@pytest.mark.parametrize("group", ["place", "plan", "augmentation", "counting"])
def test_headers_with_wrong_types(path, group):
    """Each field of each group, each wrong value: one sentence, or a value that is as good."""
    header, tensors = header_of(path), load_file(path)
    for name in header[group]:
        for value in (WRONG[i] for i in (0, 2, 4)) if group == "plan" else WRONG:
            changed = header | {group: header[group] | {name: value}}
            save_file(tensors, path, metadata={"napari_tally_training": json.dumps(changed)})
            try:
                load_checkpoint(path)
            except ValueError as error:
                assert "unfinished training" in str(error)  # noqa: PT017 - not every value is wrong for every field


@pytest.mark.parametrize("name", ["format", "plan", "place", "data", "start", "counting", "augmentation"])
def test_headers_that_lack_something(path, name):
    header = header_of(path)
    del header[name]
    save_file(load_file(path), path, metadata={"napari_tally_training": json.dumps(header)})
    refuses(path)


@pytest.mark.parametrize(
    "change",
    [
        {"network.head.bias": torch.zeros(4)},
        {"average.head.bias": torch.zeros(3, dtype=torch.float64)},
        {"optimiser.0.exp_avg": torch.zeros(3)},
        {"optimiser.999.exp_avg": torch.zeros(3)},
        {"optimiser.x": torch.zeros(3)},
        {"random.cpu": torch.zeros(3)},
        {"learned.0.head.bias": torch.zeros(3)},
        {"learned.x.head.bias": torch.zeros(3)},
        {"more": torch.zeros(3)},
    ],
)
def test_tensors_that_do_not_belong(path, change):
    save_file(load_file(path) | change, path, metadata={"napari_tally_training": json.dumps(header_of(path))})
    refuses(path)


def test_no_checkpoint(path, tmp_path):
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refuses(path)
    refuses(tmp_path / "absent")
    save_file({"a": torch.zeros(2)}, path)
    refuses(path)


@pytest.mark.parametrize("field", ['"steps": {"Z": HUGE}', '"pixel_size": [HUGE, 1]', '"leading": [HUGE]', '"leading": [1e999]'])
def test_numbers_that_are_too_large_for_any_image(tmp_path, field):
    about = '[{"name": "a", "leading": [], "colour": false, "pixel_size": null, FIELD}]'.replace("FIELD", field).replace("HUGE", "1" * 400)
    tensors = {"0.planes": torch.ones((1, 1, 4, 4), dtype=torch.uint8), "0.labels": torch.ones((4, 4), dtype=torch.int32)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"napari_tally_training": about})
    with pytest.raises(ValueError, match=r"a.safetensors: no images of an unfinished training can be read"):
        load_pairs(tmp_path / "a.safetensors")
