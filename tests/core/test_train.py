"""Training: events, repeatable to the bit, never a NaN that goes on, and a model that is whole at every moment."""

import json
import math
from dataclasses import replace
from itertools import combinations, count, islice
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import discs

from napari_tally.core import budget
from napari_tally.core import train as module
from napari_tally.core.budget import Flat
from napari_tally.core.events import run_to_end
from napari_tally.core.images import as_image
from napari_tally.core.judge import Fitting
from napari_tally.core.losses import LOSSES
from napari_tally.core.model_file import Model, build_network, load_model, save_model
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.predict import predict
from napari_tally.core.record import RunRecord
from napari_tally.core.report import methods
from napari_tally.core.samples import TrainingPair
from napari_tally.core.train import Comparison, Finished, Preview, Step, Trouble, Validation, train
from napari_tally.settings import PAPER_NETWORK, AugmentationSettings, NetworkSettings, PredictionSettings, TrainingSettings, to_dict

LABELS = discs((64, 128), *((y, x, 7) for y in (12, 32, 52) for x in range(10, 128, 18)))
SMALL = NetworkSettings(base_width=2, depth=2)


@pytest.fixture
def pairs(rng):
    return [TrainingPair(as_image((LABELS > 0) * 1000 + rng.normal(100, 20, LABELS.shape), name="wells"), LABELS)]


def planned(pairs, network=SMALL, **wishes):
    """A small network and a plan for it."""
    settings = TrainingSettings(**{"steps": 6, "patch": 32, "device": "cpu", **wishes})
    torch.manual_seed(1)
    model = Model(build_network(network).eval(), network)
    return model, plan_training(pairs, settings, start=model)


def trained(pairs, **wishes):
    model, plan = planned(pairs, **wishes)
    events = list(train(model, pairs, plan))
    return model, events


def is_finite(model):
    return all(tensor.isfinite().all() for tensor in model.network.state_dict().values())


def state(model):
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_one_seed_gives_one_model_to_the_bit(pairs):
    one, two, three = (state(trained(pairs, seed=seed)[0]) for seed in (4, 4, 5))
    assert equal(one, two)
    assert not equal(one, three)


def test_every_loss_trains(pairs):
    learned = {}
    for loss in LOSSES:
        model, events = trained(pairs, loss=loss)
        assert is_finite(model)
        assert all(math.isfinite(event.loss) for event in events if isinstance(event, Step))
        assert model.record["training"]["loss"] == loss
        learned[loss] = state(model)
    assert not any(equal(learned[one], learned[other]) for one, other in combinations(LOSSES, 2))


def test_previews_do_not_change_the_model(pairs):
    model, plan = planned(pairs)
    previews = [event for event in train(model, pairs, plan, preview_seconds=1e-9) if isinstance(event, Preview)]
    assert previews
    assert {(event.name, event.labels.shape) for event in previews} == {("wells", LABELS.shape)}
    assert equal(state(model), state(trained(pairs)[0]))


def test_events_tell_the_story(pairs):
    model, events = trained(pairs, steps=12)
    steps = [event for event in events if isinstance(event, Step)]
    assert steps[0].step == 1
    assert all(0 < event.fraction <= 1 and event.seconds_left >= 0 and math.isfinite(event.loss) for event in steps)
    validations = [event for event in events if isinstance(event, Validation)]
    assert [event.step for event in validations] == sorted(event.step for event in validations)
    assert max(event.step for event in validations) <= 0.75 * 12 + 1  # then nothing is left that could judge
    assert isinstance(events[-1], Finished)
    assert (events[-1].step, events[-1].validation) == (12, validations[-1])


def test_the_record_says_how_the_model_came_about(pairs, tmp_path):
    model, events = trained(pairs)
    record = model.record
    assert (record["steps"], record["images"], record["cells"], record["start"]) == (6, ["wells"], 21, "random weights")
    assert record["training"]["patch"] == 32
    assert record["augmentation"] == to_dict(AugmentationSettings())
    assert model.diameter == pytest.approx(14, abs=1)
    save_model(model, tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors").record == json.loads(json.dumps(record))
    plan = plan_training(pairs, TrainingSettings(steps=1, patch=32), model)
    run_to_end(train(model, pairs, plan))
    assert model.record["start"] == record["trained"]
    assert model.record["seen"] == record["seen"] == [pairs[0].image.fingerprint]


def test_whoever_walks_away_keeps_a_whole_model(pairs):
    """After any event: finite weights that differ from the start, on the CPU, ready to predict, with their record."""
    first = state(planned(pairs)[0])
    for stop in range(1, 7):
        model, plan = planned(pairs)
        events = islice(train(model, pairs, plan, preview_seconds=1e-9), stop)
        *_, last = (event for event in events if not isinstance(event, Fitting))  # those say nothing of the model
        assert is_finite(model)
        assert not equal(state(model), first)
        assert not model.network.training
        assert model.record["steps"] == last.step
    assert np.isfinite(run_to_end(predict(model, pairs[0].image))).all()


def test_going_on_from_a_trained_model(pairs):
    model, _ = trained(pairs, steps=30, learning_rate=1e-2)
    before = state(model)
    plan = plan_training(pairs, TrainingSettings(steps=3, patch=32, learning_rate=1e-9, device="cpu"), model)
    run_to_end(train(model, pairs, plan))
    for name, tensor in model.network.state_dict().items():
        if "running" not in name and "num_batches" not in name:  # these see new patches
            torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)


def test_the_preset_of_the_paper(pairs):
    model, plan = planned(pairs, replace(PAPER_NETWORK, base_width=2), preset="paper", patch=188, steps=3, learning_rate=1e-3)
    assert plan.settings.patch == 188
    first = state(model)
    events = list(train(model, pairs, plan))
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(event, Trouble) for event in events)
    assert is_finite(model)
    assert not equal(state(model), first)


def test_images_to_validate_on(pairs, rng):
    model, plan = planned(pairs, steps=4)
    other = [TrainingPair(as_image((LABELS > 0) + rng.normal(0, 0.1, LABELS.shape)), LABELS)]
    validations = [event for event in train(model, pairs, plan, validation=other) if isinstance(event, Validation)]
    assert validations[-1].step == 4  # to the end: they are never trained on
    assert {event.score.true_count for event in validations} == {21}


def test_images_to_validate_on_without_a_cell_are_refused_before_the_training(pairs):
    model, plan = planned(pairs, steps=4)
    empty = np.zeros((2, *LABELS.shape), np.int32)
    with pytest.raises(ValueError, match="No cell is drawn in the images to validate on"):
        next(train(model, pairs, plan, validation=[TrainingPair(as_image(empty), empty)]))


def test_minutes_are_kept(pairs):
    model, plan = planned(pairs)
    plan = replace(plan, settings=replace(plan.settings, steps=0, minutes=0.02))
    *_, last = train(model, pairs, plan)
    assert last.seconds >= 1.2
    assert last.step > 1


def test_time_that_the_caller_takes_does_not_count(pairs, monkeypatch):
    now = [0.0]

    def tick():
        now[0] += 0.01
        return now[0]

    monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=tick))
    model, plan = planned(pairs)
    plan = replace(plan, settings=replace(plan.settings, steps=0, minutes=1 / 60))
    events = []
    for event in train(model, pairs, plan):
        now[0] += 1000
        events.append(event)
    assert events[-1].step > 5
    assert events[-1].seconds == pytest.approx(1, abs=0.2)


def test_news_come_at_most_ten_times_a_second(pairs, monkeypatch):
    ticks = count()
    monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 1000))
    model, plan = planned(pairs, steps=60)
    events = list(train(model, pairs, plan))
    assert sum(isinstance(event, Step) for event in events) <= 2 + 10 * events[-1].seconds


# --- starting from a trained model: two folds, and did it help? ------------------------------------


@pytest.fixture
def start(pairs):
    """A model that has learned other images of such cells."""
    other = [TrainingPair(as_image((LABELS.T > 0) * 1000 + np.random.default_rng(5).normal(100, 20, LABELS.T.shape)), LABELS.T.copy())]
    model, plan = planned(other, steps=60, learning_rate=1e-2)
    run_to_end(train(model, other, plan))
    return model


def tuned(start, pairs, **wishes):
    plan = plan_training(pairs, TrainingSettings(**{"steps": 20, "patch": 32, "device": "cpu", **wishes}), start)
    model = new_model(plan, start)
    return model, list(train(model, pairs, plan))


def test_the_start_and_the_trained_model_are_compared_on_the_same_cells(pairs, start):
    model, events = tuned(start, pairs)
    (comparison,) = (event for event in events if isinstance(event, Comparison))
    assert comparison.before.true_count == comparison.after.true_count > 14  # of 21: both halves, less those on the cut and the guard
    assert events[-1].comparison == comparison
    assert model.record["comparison"]["after"]["true_count"] == comparison.after.true_count
    assert comparison.step == 12  # both folds are through
    assert events[-1].step == (12 if events[-1].start_kept else 20)


@pytest.mark.parametrize("insist", [False, True])
def test_a_model_that_training_made_worse_is_given_back_as_it_was(pairs, start, monkeypatch, insist):
    monkeypatch.setattr(Comparison, "helped", False)
    start.counting = replace(start.counting, min_area=0.0)
    before = state(start)
    model, events = tuned(start, pairs, learning_rate=0.5, insist=insist)
    assert events[-1].start_kept is not insist
    assert equal(state(model), before) is not insist
    assert model.counting.min_area > 20  # thresholds that fit the drawn cells, also for the start
    assert equal(state(start), before)
    assert (set(model.record["seen"]) == set(start.record["seen"])) is not insist  # who has learned nothing can be judged again
    assert {pair.image.fingerprint for pair in pairs} <= set(model.record["annotated"])  # but is not asked to annotate them again
    assert model.record.get("start_kept", False) is not insist
    run = RunRecord.begin(model, "m", PredictionSettings(device="cpu"), model.counting).content | {"images": []}
    counts = pd.DataFrame({"image": ["a"], "count": [1], "rule": ["all cells"]})
    assert ("steps of training on annotated images did not make better" in methods(run, counts)) is not insist


def test_a_start_for_cells_of_any_size_stays_one_where_it_is_kept(pairs, start, monkeypatch):
    monkeypatch.setattr(Comparison, "helped", False)
    start.any_size, start.diameter, start.counting = True, 2 * start.diameter, replace(start.counting, smoothing=1.0, min_area=9.0)
    model, events = tuned(start, pairs)
    assert events[-1].start_kept
    assert (model.any_size, model.scale, model.diameter) == (True, start.scale, start.diameter)
    assert model.counting.min_area == pytest.approx(9)
    assert model.counting == start.counting  # in pixels of the start again


def test_after_the_folds_comes_the_average_of_both(pairs, start, monkeypatch):
    """What each fold has learned is what prediction judges with; the model at the comparison is the mean of the two."""
    judges = []

    def judge(network, *args):
        judges.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return real(network, *args)

    real = module.judge
    monkeypatch.setattr(module, "judge", judge)
    monkeypatch.setattr(Comparison, "helped", True)
    plan = plan_training(pairs, TrainingSettings(steps=20, patch=32, device="cpu"), start)
    model = new_model(plan, start)
    first_start = state(model)
    for event in train(model, pairs, plan):
        if isinstance(event, Comparison):
            break
    begins = [i for i, weights in enumerate(judges) if equal(weights, first_start)]
    assert len(begins) == 2  # each fold begins with the start
    a, b = judges[begins[1] - 1], judges[-1]
    for name, tensor in state(model).items():
        torch.testing.assert_close(tensor, (a[name] + b[name]) / 2 if tensor.is_floating_point() else b[name])


def test_a_start_that_has_seen_the_images_is_not_judged_by_them(pairs, start):
    model, events = tuned(start, pairs)
    again, events = tuned(model, pairs)
    assert not any(isinstance(event, Comparison | Validation) for event in events)
    assert events[-1].validation is None


def test_user_images_judge_the_start_too(pairs, start):
    plan = plan_training(pairs, TrainingSettings(steps=5, patch=32, device="cpu"), start)
    model = new_model(plan, start)
    others = [TrainingPair(as_image(2 * pair.image.planes[0, 0]), pair.labels) for pair in pairs]
    *_, last = train(model, pairs, plan, validation=others)
    assert last.comparison.before.true_count == last.comparison.after.true_count == 21


def test_images_that_are_learned_do_not_judge(pairs, start):
    model, plan = planned(pairs, steps=2)
    with pytest.raises(ValueError, match="is among the images to train on too, so it cannot judge"):
        next(train(model, pairs, plan, validation=pairs))
    model, _ = tuned(start, pairs)
    others = [TrainingPair(as_image(2 * pair.image.planes[0, 0]), pair.labels) for pair in pairs]
    plan = plan_training(others, TrainingSettings(steps=2, patch=32, device="cpu"), model)
    with pytest.raises(ValueError, match="the start model has learned this image, so it cannot judge"):
        next(train(new_model(plan, model), others, plan, validation=pairs))


def test_a_flat_score_ends_a_phase(pairs, monkeypatch):
    monkeypatch.setattr(Flat, "since", lambda self, step, quality: True)
    model, plan = planned(pairs, minutes=0.1, steps=0)
    events = list(train(model, pairs, plan))
    assert sum(isinstance(event, Validation) for event in events) == 2  # the first in the phase ends it; one when the thresholds fit
    assert is_finite(model)


def test_flat_means_no_new_best_for_half_of_the_phase():
    flat = Flat(0)
    assert not any(flat.since(step, step / 1e3) for step in range(0, 3000, 100))  # still getting better
    assert [step for step in range(3000, 9000, 100) if flat.since(step, 2.9)][0] == 5900


# --- memory ----------------------------------------------------------------------------------------


def test_too_little_memory_halves_the_batch_then_the_patch(pairs, monkeypatch):
    real = LOSSES["cross-entropy"]

    def loss(logits, classes, weights):
        if logits.numel() > 3 * 16 * 16:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
        return real(logits, classes, weights)

    monkeypatch.setitem(LOSSES, "cross-entropy", loss)
    model, plan = planned(pairs, batch=2, steps=20)
    events = list(train(model, pairs, plan))
    assert [event.message for event in events if isinstance(event, Trouble)] == [
        f"The memory is not enough. Training goes on with 1 patch(es) of {side} px a step." for side in (32, 16)
    ]
    assert events[-1].step == 20
    assert is_finite(model)


def test_far_too_little_memory_ends_with_a_sentence(pairs, monkeypatch):
    def loss(*tensors):
        raise MemoryError

    monkeypatch.setitem(LOSSES, "cross-entropy", loss)
    model, plan = planned(pairs, steps=20)
    with pytest.raises(MemoryError, match="even with the smallest patches"):
        list(train(model, pairs, plan))
    assert is_finite(model)


# --- what is not a number --------------------------------------------------------------------------


def broken(monkeypatch, when, how):
    """Break the loss of some steps."""
    real, step = LOSSES["cross-entropy"], [0]

    def loss(*tensors):
        step[0] += 1
        return how(real(*tensors)) if when(step[0]) else real(*tensors)

    monkeypatch.setitem(LOSSES, "cross-entropy", loss)


def no_number(loss):
    return loss * math.nan


def infinite(loss):
    return loss / 0


def no_slope(loss):
    return loss + (loss * 0).sqrt()  # a fine value whose gradient is NaN


@pytest.mark.parametrize("how", [no_number, infinite, no_slope])
def test_a_loss_that_is_no_number_is_reported_and_left_behind(pairs, monkeypatch, how):
    broken(monkeypatch, lambda step: step in (3, 7), how)
    model, plan = planned(pairs, steps=10)
    events = []
    for event in train(model, pairs, plan):
        assert is_finite(model)
        events.append(event)
    assert [event.step for event in events if isinstance(event, Trouble)] == [3, 7]
    assert "The last good state is back" in next(event.message for event in events if isinstance(event, Trouble))
    assert events[-1].step == 10


@pytest.mark.parametrize("how", [no_number, no_slope])
def test_again_and_again_ends_with_the_last_good_state(pairs, monkeypatch, how):
    broken(monkeypatch, lambda step: step > 3, how)
    model, plan = planned(pairs, steps=100)
    states = []
    with pytest.raises(ValueError, match=r"The loss was not a number 4 times \(last at step 7\)\. The model keeps its last good state"):
        run_to_end(train(model, pairs, plan), lambda event: states.append(state(model)) if isinstance(event, Trouble) else None)
    assert len(states) == 3
    assert is_finite(model)
    assert equal(states[0], state(model))


def test_a_far_too_large_learning_rate_never_leaves_a_broken_model(pairs):
    network = replace(SMALL, batch_norm=False)
    model, plan = planned(pairs, network, preset="paper", steps=40)
    plan = replace(plan, settings=replace(plan.settings, learning_rate=1e30))
    whole = []
    with pytest.raises(ValueError, match="Train with a smaller learning rate"):
        run_to_end(train(model, pairs, plan), lambda event: whole.append(is_finite(model)))
    assert all(whole)
    assert is_finite(model)


def test_new_models_fit_their_plan(pairs):
    plan = plan_training(pairs, TrainingSettings(steps=1, patch=32, device="cpu"))
    model = new_model(plan)
    *_, last = train(model, pairs, plan)
    assert last.step == 1
    assert model.settings == NetworkSettings(batch_norm=False)
