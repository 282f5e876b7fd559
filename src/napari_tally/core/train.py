"""Training: a plan, then a generator of events around a model that belongs to the caller.

::

    choose_start(wish, pairs)             ->  Model or None     what to start from
    plan_training(pairs, settings, start) ->  TrainingPlan      pure; what will be done, and what is odd
    new_model(plan, start)                ->  Model             a copy of the start, or random weights
    train(model, pairs, plan)             ->  Step, Validation, Preview, ..., Trouble?, Comparison?, Finished
    train(..., resume=checkpoint)             goes on from an unfinished one, see :mod:`napari_tally.core.checkpoint`

What is held out when is drawn in :mod:`napari_tally.core.validation`; :mod:`napari_tally.core.learner` makes
the steps, :mod:`napari_tally.core.judge` says how good they were. After any event the caller may walk away, or
wait as long as he likes: `model.network` always holds the last finished step (the running average of the weights,
which is what predicts best).
"""

import platform
import time
from collections.abc import Collection, Generator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import napari_tally
from napari_tally.core.checkpoint import Checkpoint, Place, to_comparison, to_score
from napari_tally.core.explain import explain
from napari_tally.core.images import Image
from napari_tally.core.judge import Comparison, Fitting, Judged, Score, choose_counting, fit_counting, judge, labels_of, score
from napari_tally.core.learner import Learner, copied
from napari_tally.core.model_file import Model
from napari_tally.core.plan import TrainingPlan, build_meta_network, counting_at, prepare
from napari_tally.core.predict import require_channels, require_volumes
from napari_tally.core.range import KEY as RANGE
from napari_tally.core.range import fingerprint_images
from napari_tally.core.samples import PatchSampler, TrainingPair, data_fingerprint
from napari_tally.core.sizes import own_scale
from napari_tally.core.validation import Phase, plan_phases, to_judge_by
from napari_tally.settings import AugmentationSettings, TrainingSettings, to_dict

_PREVIEW_PIXELS = 2e6
_KNOWN, _KNOWN_SIDE = 12, 384
"""So many training images, at most, say what the model knows (core/range.py); so many pixels wide, so that it takes seconds."""


@dataclass(frozen=True)
class Step:
    """News: a step is done. `fraction` of the budget is used, about `seconds_left` remain."""

    step: int
    loss: float
    fraction: float
    seconds_left: float


@dataclass(frozen=True)
class Validation:
    """News: how well the model does on what is held out."""

    step: int
    score: Score


@dataclass(frozen=True, eq=False)
class Preview:
    """News: the labels that the model gives now for the first plane, in network pixels."""

    step: int
    name: str
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Trouble:
    """News: the loss was no longer a number, or the memory did not suffice; what is done about it."""

    step: int
    message: str


@dataclass(frozen=True)
class Finished:
    """News: the end. The last validation and the comparison with the start, if there were any; whether the start was kept."""

    step: int
    seconds: float
    validation: Validation | None
    comparison: Comparison | None = None
    start_kept: bool = False


Event = Step | Validation | Preview | Fitting | Trouble | Comparison | Checkpoint | Finished


def train(
    model: Model,
    pairs: Sequence[TrainingPair],
    plan: TrainingPlan,
    augmentation: AugmentationSettings | None = None,
    validation: Sequence[TrainingPair] = (),
    preview_seconds: float = 0.0,
    checkpoint_seconds: float = 0.0,
    resume: Checkpoint | None = None,
) -> Generator[Event, None, None]:
    """Train `model` in place.

    A trained model is compared with itself before: both on the same held-out cells. Where training made it worse, its
    weights are those of before, unless the settings insist; a start that knows cells of any size is wholly as it was, another one is at the
    size of these images, as it was judged.

    Parameters
    ----------
    model : Model
        From :func:`new_model`. It belongs to the caller and holds the last finished step after every event.
    pairs : sequence of TrainingPair
        What to learn from.
    plan : TrainingPlan
        From :func:`plan_training` of the same pairs.
    augmentation : AugmentationSettings, optional
    validation : sequence of TrainingPair, optional
        Images to validate on. Left out: parts of `pairs` are held out, see :mod:`napari_tally.core.validation`.
    preview_seconds : float
        Seconds between :class:`Preview` events; 0 = none. They would hold up the training where the first plane has more
        than 2 million pixels: none there.
    checkpoint_seconds : float
        Seconds of work between two :class:`Checkpoint` events; 0 = none.
    resume : Checkpoint, optional
        Go on from there: `model`, `plan` and `augmentation` must be those of the checkpoint, `pairs` and `validation` those that it
        began with. With a number of steps the model is then the same to the bit, on one machine, as without the interruption.

    Yields
    ------
    Event
        At most about ten a second. Time that the caller keeps the generator waiting does not count.

    Raises
    ------
    ValueError
        If the loss is not a number again and again, or `resume` belongs to other images or labels.
    MemoryError
        If the memory does not suffice even for one small patch.

    References
    ----------
    Ronneberger et al., MICCAI 2015, section 3. I. Loshchilov, F. Hutter, ICLR 2019 (AdamW). M. Wortsman et al., ICML 2022
    (averages of models that were tuned from one start).
    """
    s = plan.settings
    augmentation = augmentation or AugmentationSettings()
    data = data_fingerprint([*pairs, *validation])
    if resume and data != resume.data:
        raise ValueError(
            "The images or labels are not those with which this training began, so it cannot go on. Bring them back, or start anew."
        )
    start = resume.start if resume else model.copy() if model.record else None
    given = model.counting  # as new_model has brought those of the start to pixels of the plan
    model.scale, model.diameter, model.pixel_size = plan.scale, plan.diameter, plan.pixel_size
    model.z_scale, model.slice_distance, model.any_size = plan.z_scale, plan.slice_distance, plan.any_size
    for pair in validation:
        require_channels(model, pair.image)
        _require_unseen(pair.image, plan.fingerprints, start.record.get("seen", []) if start else [])
        if model.settings.dimensions == 3:
            require_volumes(pair.image)

    planes = prepare(plan, pairs)
    if validation:
        scales = [own_scale(model, pair) for pair in validation]
        judges = prepare(plan, validation, scales)
        if not judges:
            raise ValueError("No cell is drawn in the images to validate on, so they can judge nothing. Draw some, or leave them out.")
        phases = [Phase(planes, judges, 1.0)]
    else:
        phases = plan_phases(planes, build_meta_network(model.settings).margin, start is not None, plan.seen)
    torch.manual_seed(s.seed)  # dropout
    at = replace(resume.place, resumed=[*resume.place.resumed, resume.step]) if resume else Place(next_preview=preview_seconds)
    clock = _Clock(s, at)
    learner = Learner(model, plan, start is not None, resume)
    last = Validation(at.last["step"], to_score(at.last)) if at.last else None
    comparison = to_comparison(at.comparison) if at.comparison else None
    before: list[Judged] = []
    after: list[Judged] = []
    learned = resume.learned if resume else []  # what each fold has learned
    last_news, next_checkpoint = clock.active, clock.active + checkpoint_seconds

    def tell(event: Event) -> Generator[Event, None, None]:
        """Hand out an event. Whoever takes it may walk away, so the caller's model is made whole first."""
        model.network.load_state_dict(_mean([*learned, learner.average.network.state_dict()]))
        model.record = _provenance(pairs, plan, augmentation, data, at, clock.active, last, comparison, start, len(validation))
        model.record["bfloat16"] = learner.half
        if isinstance(event, Finished) and event.start_kept:  # it has learned nothing: they can judge it another time
            model.record["seen"] = start.record.get("seen", []) if start else []
            model.record["start_kept"] = True
        if isinstance(event, Finished):
            known = start.record.get(RANGE) if start and event.start_kept else None
            of = [pair.image for pair in pairs[:_KNOWN]]
            if model.settings.dimensions == 2:  # what images are like is known of planes only
                model.record[RANGE] = known or fingerprint_images(model, of, _KNOWN_SIDE, plan.device).as_dict()
        yield from clock.outside(event)

    def checkpoint() -> Checkpoint:
        """Put all that is needed to go on into one piece."""
        at.last = to_dict(last.score) | {"step": last.step} if last else None
        at.comparison = to_dict(comparison) if comparison else None
        at.active, at.skipped, at.flat = clock.active, clock.skipped, flat.state
        tensors = learner.remember(at)
        tensors |= {f"learned.{i}.{name}": tensor for i, weights in enumerate(learned) for name, tensor in weights.items()}
        return Checkpoint(at.step, plan, augmentation, data, start, model.counting, Place(**deepcopy(asdict(at))), tensors)

    for number, phase in enumerate(phases):
        held_out = to_judge_by(phase.held_out)
        if start is not None and held_out and comparison is None:
            before.append(judge(start.network, held_out, model.scale, model.z_scale))
        if number < at.phase:  # it was through before the interruption
            if held_out and number < len(learned):  # not yet compared
                after.append(judge(learner.with_average(learned[number]), held_out, model.scale, model.z_scale))
            continue
        schedule_end = 1.0 if phase.begin == "start" and start is None else phase.end
        if goes_on := resume is not None and number == at.phase:
            learner.go_on()
        elif learned and start is not None:  # the second fold begins where the first one did
            learner.begin(start.network.state_dict())
        drawn_how = s.class_balance, augmentation, model.settings.types, plan.slices
        learner.learn_from(PatchSampler(phase.training, model.settings.classes, *drawn_how))
        if goes_on:
            flat = _Flat(*at.flat)
        else:
            if phase.begin != "start":
                clock.skip((1 - at.pace) * (phase.end - clock.fraction(at.step)))
            at.phase = number
            at.began = clock.fraction(at.step) if phase.begin != "go on" else 0.0  # where its schedule begins
            at.next_validation = at.began + 0.1 * (phase.end - at.began)
            flat = _Flat(at.step)
        while (fraction := clock.fraction(at.step)) < phase.end:
            at.step += 1
            trouble, loss = learner.step((fraction - at.began) / (schedule_end - at.began), at.step)
            if trouble:
                yield from tell(Trouble(at.step, trouble))
                continue
            if held_out and fraction >= at.next_validation:
                asked = clock.active
                judged = judge(learner.average.network, held_out, model.scale, model.z_scale)
                last = Validation(at.step, score([judged], [model.counting]))
                at.next_validation = fraction + max(0.1 * (phase.end - at.began), 20 * clock.share(clock.active - asked))
                yield from tell(last)
                if not s.steps and flat.since(at.step, last.score.quality):  # who asks for steps gets them
                    at.pace = (fraction - at.began) / (phase.end - at.began)
                    clock.skip(phase.end - clock.fraction(at.step))
                    break
            if preview_seconds and clock.active >= at.next_preview and planes[0].labels.size <= _PREVIEW_PIXELS:
                asked = clock.active
                found = labels_of(learner.average.network, planes[0], model.counting, model.scale, model.z_scale)
                yield from tell(Preview(at.step, planes[0].name, found))
                at.next_preview = clock.active + max(preview_seconds, 15 * (clock.active - asked))
            if checkpoint_seconds and clock.active >= next_checkpoint:
                yield from tell(checkpoint())
                next_checkpoint = clock.active + checkpoint_seconds
            if clock.active - last_news >= 0.1 or at.step == 1:
                last_news = clock.active
                yield from tell(Step(at.step, loss, clock.fraction(at.step), clock.seconds_left(at.step)))
        if checkpoint_seconds:  # judging takes a while
            yield from tell(checkpoint())
        if held_out:
            after.append(judge(learner.average.network, held_out, model.scale, model.z_scale))
        if phase is phases[-1] and not validation:
            continue
        # What was held out can judge now; from the next phase on it is trained on.
        if start is None:
            seen = to_judge_by(phase.training)  # what is held out stays the judge
            to_fit = [judge(learner.average.network, seen, model.scale, model.z_scale)]
            fitting = fit_counting(to_fit, model.counting, plan.any_size, learned=True)
            model.counting = (yield from clock.following(fitting))[0]
            last = Validation(at.step, score(after, [model.counting]))
            yield from tell(last)
            continue
        learned.append(copied(learner.average.network.state_dict()))
        if len(learned) < len(phases) - 1:
            continue  # to the other fold
        fitting, tuned = yield from clock.following(choose_counting(after, model.counting, plan.any_size))
        comparison = Comparison(at.step, score(before, [given] * len(before)), tuned, start.any_size)
        last = Validation(at.step, comparison.after)
        start_kept = not comparison.helped and not s.insist
        if start_kept:  # its thresholds may still be fitted to the drawn cells
            fitting, _ = yield from clock.following(choose_counting(before, given, plan.any_size or start.any_size))
        learner.begin(start.network.state_dict() if start_kept else _mean(learned))
        learned, model.counting = [], fitting
        yield from tell(comparison)
        if start_kept:
            if start.any_size:  # it goes on to find out the size of cells by itself
                model.any_size, model.scale, model.diameter, model.pixel_size = True, start.scale, start.diameter, start.pixel_size
                model.counting = counting_at(fitting, plan, start)
            yield from tell(Finished(at.step, clock.active, last, comparison, start_kept))
            return
    yield from tell(Finished(at.step, clock.active, last, comparison))


def _require_unseen(image: Image, learned: Collection[str], seen: Collection[str]) -> None:
    """Raise a ``ValueError`` if an image to validate on is among those that are learned, or that the start has seen."""
    if image.fingerprint in learned:
        raise ValueError(f"{image.name} is among the images to train on too, so it cannot judge. Validate on other images.")
    if image.fingerprint in seen:
        raise ValueError(f"{image.name}: the start model has learned this image, so it cannot judge. Validate on other images.")


class _Flat:
    """Says when the held-out score has been flat: no new best for half of the phase, and for a few hundred steps."""

    def __init__(self, began: int, best_at: int | None = None, best: float = -1.0) -> None:
        self.state = (began, began if best_at is None else best_at, best)

    def since(self, step: int, quality: float) -> bool:
        """Take the score of a step; give whether it is time to stop."""
        began, best_at, best = self.state
        if quality > best + 0.005:
            best_at, best = step, quality
        self.state = (began, best_at, best)
        return step - best_at > max(400, (step - began) / 2)


class _Clock:
    """How much of the budget is used. Time in which the caller keeps us waiting is left out."""

    def __init__(self, settings: TrainingSettings, at: Place) -> None:
        self._settings = settings
        self._began = time.perf_counter() - at.active
        self._waited, self.skipped = 0.0, at.skipped

    def skip(self, share: float) -> None:
        """Give up a share of the budget."""
        self.skipped += share

    def outside(self, event: Event) -> Generator[Event, None, None]:
        """Hand out an event and stop the clock until the caller comes back."""
        began = time.perf_counter()
        yield event
        self._waited += time.perf_counter() - began

    def following(self, work: Generator[Event, None, Any]) -> Generator[Event, None, Any]:
        """Hand out the events of other work in the same way; give its result."""
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            yield from self.outside(event)

    @property
    def active(self) -> float:
        """Seconds of our own work so far."""
        return time.perf_counter() - self._began - self._waited

    def share(self, seconds: float) -> float:
        """Give the share of the budget that so many seconds are (0 when the budget is steps)."""
        return 0.0 if self._settings.steps else seconds / (60 * self._settings.minutes)

    def fraction(self, step: int) -> float:
        """Give the used share of the budget, 0 to 1."""
        return min(1.0, self.skipped + (step / self._settings.steps if self._settings.steps else self.share(self.active)))

    def seconds_left(self, step: int) -> float:
        """Estimate the seconds to the end."""
        left = 1 - self.fraction(step)
        return left * (self.active / max(1, step) * self._settings.steps if self._settings.steps else 60 * self._settings.minutes)


def _mean(models: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average the weights of models; whole numbers are those of the last."""
    first, last = models[0], models[-1]
    if len(models) == 1:
        return first
    return {
        name: torch.stack([model[name].cpu() for model in models]).mean(0) if tensor.is_floating_point() else last[name]
        for name, tensor in first.items()
    }


def _provenance(
    pairs: Sequence[TrainingPair],
    plan: TrainingPlan,
    augmentation: AugmentationSettings,
    data: str,
    at: Place,
    seconds: float,
    last: Validation | None,
    comparison: Comparison | None,
    start: Model | None,
    given: int,
) -> dict[str, Any]:
    """Say how the model came about, as JSON values."""
    before = start.record if start else {}
    return {
        "trained": datetime.now(UTC).isoformat(timespec="seconds"),
        "start": before.get("name", before.get("trained", "")) or "random weights",
        "images": [pair.image.name for pair in pairs],
        "seen": sorted({*before.get("seen", []), *plan.fingerprints}),
        "annotated": sorted({*before.get("annotated", []), *plan.fingerprints}),  # that a start was judged by, too
        "licence": before.get("licence", ""),
        "data": data,
        "cells": plan.n_cells,
        "steps": at.step,
        "resumed": at.resumed,
        "seconds": round(seconds, 1),
        "training": to_dict(plan.settings),
        "plan": [f"{topic}: {text}" for topic, text in explain(plan, before.get("name", "a trained model") if start else "", given)],
        "augmentation": to_dict(augmentation),
        "validation": to_dict(last.score) if last else None,
        "comparison": to_dict(comparison) if comparison else None,
        "device": plan.device_name,
        "versions": {
            "napari-tally": napari_tally.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
