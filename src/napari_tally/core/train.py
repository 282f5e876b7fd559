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
from napari_tally.core.budget import Clock, Flat
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
from napari_tally.core.samples import PatchSampler, Plane, TrainingPair, data_fingerprint
from napari_tally.core.sizes import own_scale
from napari_tally.core.unet import UNet
from napari_tally.core.validation import Phase, plan_phases, to_judge_by
from napari_tally.settings import AugmentationSettings, to_dict

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
    yield from _Training(model, pairs, plan, augmentation, validation, preview_seconds, checkpoint_seconds, resume).run()


class _Training:
    """One training on its way.

    ::

        run ─┬─▶ _begin     a phase: what is learned from, from which weights on
             ├─▶ _learn     its steps, with news between them
             └─▶ _fit, or _compare      what was held out judges: the thresholds; is it better than the start?
    """

    def __init__(
        self,
        model: Model,
        pairs: Sequence[TrainingPair],
        plan: TrainingPlan,
        augmentation: AugmentationSettings | None,
        validation: Sequence[TrainingPair],
        preview_seconds: float,
        checkpoint_seconds: float,
        resume: Checkpoint | None,
    ) -> None:
        self._model, self._pairs, self._plan, self._resume = model, pairs, plan, resume
        self._augmentation = augmentation or AugmentationSettings()
        self._preview_seconds, self._checkpoint_seconds = preview_seconds, checkpoint_seconds
        self._data = data_fingerprint([*pairs, *validation])
        if resume and self._data != resume.data:
            raise ValueError(
                "The images or labels are not those with which this training began, so it cannot go on. Bring them back, or start anew."
            )
        self._start = start = resume.start if resume else model.copy() if model.record else None
        self._given = model.counting  # as new_model has brought those of the start to pixels of the plan
        model.scale, model.diameter, model.pixel_size = plan.scale, plan.diameter, plan.pixel_size
        model.z_scale, model.slice_distance, model.any_size = plan.z_scale, plan.slice_distance, plan.any_size
        for pair in validation:
            require_channels(model, pair.image)
            _require_unseen(pair.image, plan.fingerprints, start.record.get("seen", []) if start else [])
            if model.settings.dimensions == 3:
                require_volumes(pair.image)
        self._validation_images = len(validation)

        self._planes = prepare(plan, pairs)
        if validation:
            judges = prepare(plan, validation, [own_scale(model, pair) for pair in validation])
            if not judges:
                raise ValueError("No cell is drawn in the images to validate on, so they can judge nothing. Draw some, or leave them out.")
            self._phases = [Phase(self._planes, judges, 1.0)]
        else:
            self._phases = plan_phases(self._planes, build_meta_network(model.settings).margin, start is not None, plan.seen)
        torch.manual_seed(plan.settings.seed)  # dropout
        place = replace(resume.place, resumed=[*resume.place.resumed, resume.step]) if resume else Place(next_preview=preview_seconds)
        self._at, self._clock, self._flat = place, Clock(plan.settings, place.active, place.skipped), Flat(*place.flat)
        self._learner = Learner(model, plan, start is not None, resume)
        self._last = Validation(place.last["step"], to_score(place.last)) if place.last else None
        self._comparison = to_comparison(place.comparison) if place.comparison else None
        self._before: list[Judged] = []
        self._after: list[Judged] = []
        self._learned = resume.learned if resume else []  # what each fold has learned
        self._last_news, self._next_checkpoint = self._clock.active, self._clock.active + checkpoint_seconds

    def run(self) -> Generator[Event, None, None]:
        """Train, phase by phase."""
        start, kept = self._start, False
        for number, phase in enumerate(self._phases):
            held_out = to_judge_by(phase.held_out)
            if start is not None and held_out and self._comparison is None:
                self._before.append(self._judge(start.network, held_out))
            if number < self._at.phase:  # it was through before the interruption
                if held_out and number < len(self._learned):  # not yet compared
                    self._after.append(self._judge(self._learner.with_average(self._learned[number]), held_out))
                continue
            self._begin(number, phase)
            yield from self._learn(phase, held_out)
            if self._checkpoint_seconds:  # judging takes a while
                yield from self._tell(self._checkpoint())
            if held_out:
                self._after.append(self._judge(self._learner.average.network, held_out))
            if phase is self._phases[-1] and not self._validation_images:
                continue
            # What was held out can judge now; from the next phase on it is trained on.
            if start is None:
                yield from self._fit(phase)
                continue
            self._learned.append(copied(self._learner.average.network.state_dict()))
            if len(self._learned) >= len(self._phases) - 1:  # both folds
                kept = yield from self._compare(start)
            if kept:
                break
        yield from self._tell(Finished(self._at.step, self._clock.active, self._last, self._comparison, kept))

    def _begin(self, number: int, phase: Phase) -> None:
        """Make ready for a phase, or for the rest of it."""
        at, clock, learner = self._at, self._clock, self._learner
        if goes_on := self._resume is not None and number == at.phase:
            learner.go_on()
        elif self._learned and self._start is not None:  # the second fold begins where the first one did
            learner.begin(self._start.network.state_dict())
        settings = self._model.settings
        drawn_how = self._plan.settings.class_balance, self._augmentation, settings.types, self._plan.slices
        learner.learn_from(PatchSampler(phase.training, settings.classes, *drawn_how))
        if goes_on:
            return
        if phase.begin != "start":
            clock.skip((1 - at.pace) * (phase.end - clock.fraction(at.step)))
        at.phase = number
        at.began = clock.fraction(at.step) if phase.begin != "go on" else 0.0  # where its schedule begins
        at.next_validation = at.began + 0.1 * (phase.end - at.began)
        self._flat = Flat(at.step)

    def _learn(self, phase: Phase, held_out: list[Plane]) -> Generator[Event, None, None]:
        """Make the steps of a phase; what is held out says when it is enough."""
        s, at, clock, learner = self._plan.settings, self._at, self._clock, self._learner
        model, first = self._model, self._planes[0]
        schedule_end = 1.0 if phase.begin == "start" and self._start is None else phase.end
        while (fraction := clock.fraction(at.step)) < phase.end:
            at.step += 1
            trouble, loss = learner.step((fraction - at.began) / (schedule_end - at.began), at.step)
            if trouble:
                yield from self._tell(Trouble(at.step, trouble))
                continue
            if held_out and fraction >= at.next_validation:
                asked = clock.active
                self._last = last = Validation(at.step, score([self._judge(learner.average.network, held_out)], [model.counting]))
                at.next_validation = fraction + max(0.1 * (phase.end - at.began), 20 * clock.share(clock.active - asked))
                yield from self._tell(last)
                if not s.steps and self._flat.since(at.step, last.score.quality):  # who asks for steps gets them
                    at.pace = (fraction - at.began) / (phase.end - at.began)
                    clock.skip(phase.end - clock.fraction(at.step))
                    break
            if self._preview_seconds and clock.active >= at.next_preview and first.labels.size <= _PREVIEW_PIXELS:
                asked = clock.active
                found = labels_of(learner.average.network, first, model.counting, model.scale, model.z_scale)
                yield from self._tell(Preview(at.step, first.name, found))
                at.next_preview = clock.active + max(self._preview_seconds, 15 * (clock.active - asked))
            if self._checkpoint_seconds and clock.active >= self._next_checkpoint:
                yield from self._tell(self._checkpoint())
                self._next_checkpoint = clock.active + self._checkpoint_seconds
            if clock.active - self._last_news >= 0.1 or at.step == 1:
                self._last_news = clock.active
                yield from self._tell(Step(at.step, loss, clock.fraction(at.step), clock.seconds_left(at.step)))

    def _fit(self, phase: Phase) -> Generator[Event, None, None]:
        """Fit the thresholds of a model from random weights to cells that it has learned; what is held out stays the judge."""
        to_fit = [self._judge(self._learner.average.network, to_judge_by(phase.training))]
        fitting = fit_counting(to_fit, self._model.counting, self._plan.any_size, learned=True)
        self._model.counting = (yield from self._clock.following(fitting))[0]
        self._last = Validation(self._at.step, score(self._after, [self._model.counting]))
        yield from self._tell(self._last)

    def _compare(self, start: Model) -> Generator[Event, None, bool]:
        """Compare what was learned with the start, and go on with the better one; give whether the start is kept."""
        model, plan, following = self._model, self._plan, self._clock.following
        fitting, tuned = yield from following(choose_counting(self._after, model.counting, plan.any_size))
        begun = score(self._before, [self._given] * len(self._before))
        self._comparison = Comparison(self._at.step, begun, tuned, start.any_size)
        self._last = Validation(self._at.step, tuned)
        kept = not self._comparison.helped and not plan.settings.insist
        if kept and start.any_size:  # a handful of images does not tell its thresholds better than those that it was made of
            fitting = self._given
        elif kept:  # they may still be fitted to the drawn cells
            fitting, _ = yield from following(choose_counting(self._before, self._given, plan.any_size))
        self._learner.begin(start.network.state_dict() if kept else _mean(self._learned))
        self._learned, model.counting = [], fitting
        yield from self._tell(self._comparison)
        if kept and start.any_size:  # it goes on to find out the size of cells by itself
            model.any_size, model.scale, model.diameter, model.pixel_size = True, start.scale, start.diameter, start.pixel_size
            model.counting = counting_at(fitting, plan, start)
        return kept

    def _judge(self, network: UNet, held_out: list[Plane]) -> Judged:
        return judge(network, held_out, self._model.scale, self._model.z_scale)

    def _tell(self, event: Event) -> Generator[Event, None, None]:
        """Hand out an event. Whoever takes it may walk away, so the caller's model is made whole first."""
        model, start = self._model, self._start
        model.network.load_state_dict(_mean([*self._learned, self._learner.average.network.state_dict()]))
        model.record = self._provenance()
        if isinstance(event, Finished) and event.start_kept:  # it has learned nothing: they can judge it another time
            model.record["seen"] = start.record.get("seen", []) if start else []
            model.record["start_kept"] = True
        if isinstance(event, Finished):
            known = start.record.get(RANGE) if start and event.start_kept else None
            of = [pair.image for pair in self._pairs[:_KNOWN]]
            if model.settings.dimensions == 2:  # what images are like is known of planes only
                model.record[RANGE] = known or fingerprint_images(model, of, _KNOWN_SIDE, self._plan.device).as_dict()
        yield from self._clock.outside(event)

    def _checkpoint(self) -> Checkpoint:
        """Put all that is needed to go on into one piece."""
        at = self._at
        at.last = to_dict(self._last.score) | {"step": self._last.step} if self._last else None
        at.comparison = to_dict(self._comparison) if self._comparison else None
        at.active, at.skipped, at.flat = self._clock.active, self._clock.skipped, self._flat.state
        tensors = self._learner.remember(at)
        tensors |= {f"learned.{i}.{name}": tensor for i, weights in enumerate(self._learned) for name, tensor in weights.items()}
        place = Place(**deepcopy(asdict(at)))
        return Checkpoint(at.step, self._plan, self._augmentation, self._data, self._start, self._model.counting, place, tensors)

    def _provenance(self) -> dict[str, Any]:
        """Say how the model came about, as JSON values."""
        start, plan, at = self._start, self._plan, self._at
        before = start.record if start else {}
        name = before.get("name", "a trained model") if start else ""
        return {
            "trained": datetime.now(UTC).isoformat(timespec="seconds"),
            "start": before.get("name", before.get("trained", "")) or "random weights",
            "images": [pair.image.name for pair in self._pairs],
            "seen": sorted({*before.get("seen", []), *plan.fingerprints}),
            "annotated": sorted({*before.get("annotated", []), *plan.fingerprints}),  # that a start was judged by, too
            "licence": before.get("licence", ""),
            "data": self._data,
            "cells": plan.n_cells,
            "steps": at.step,
            "resumed": at.resumed,
            "seconds": round(self._clock.active, 1),
            "training": to_dict(plan.settings),
            "plan": [f"{topic}: {text}" for topic, text in explain(plan, name, self._validation_images)],
            "augmentation": to_dict(self._augmentation),
            "validation": to_dict(self._last.score) if self._last else None,
            "comparison": to_dict(self._comparison) if self._comparison else None,
            "device": plan.device_name,
            "bfloat16": self._learner.half,
            "versions": {
                "napari-tally": napari_tally.__version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }


def _require_unseen(image: Image, learned: Collection[str], seen: Collection[str]) -> None:
    """Raise a ``ValueError`` if an image to validate on is among those that are learned, or that the start has seen."""
    if image.fingerprint in learned:
        raise ValueError(f"{image.name} is among the images to train on too, so it cannot judge. Validate on other images.")
    if image.fingerprint in seen:
        raise ValueError(f"{image.name}: the start model has learned this image, so it cannot judge. Validate on other images.")


def _mean(models: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average the weights of models; whole numbers are those of the last."""
    first, last = models[0], models[-1]
    if len(models) == 1:
        return first
    return {
        name: torch.stack([model[name].cpu() for model in models]).mean(0) if tensor.is_floating_point() else last[name]
        for name, tensor in first.items()
    }
