"""Training: a plan, then a generator of events around a model that belongs to the caller.

::

    plan_training(pairs, settings)  ->  TrainingPlan      pure; what will be done, and what is odd
    new_model(plan)                 ->  Model             random weights
    train(model, pairs, settings)   ->  Step, Validation, Preview, Step, ..., Trouble?, Finished

After any event the caller may walk away, or wait as long as he likes: `model.network` always holds
the last finished step (the running average of the weights, which is what predicts best).
"""

import math
import platform
import time
from collections.abc import Generator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import napari_tally
from napari_tally.core.losses import weighted_cross_entropy
from napari_tally.core.model_file import Model
from napari_tally.core.plan import TrainingPlan, build_meta_network
from napari_tally.core.predict import require_channels
from napari_tally.core.samples import PatchSampler, TrainingPair, prepare_planes
from napari_tally.core.unet import UNet
from napari_tally.core.validation import Fitting, Score, fit_counting, hold_out, labels_of, score, to_judge_by
from napari_tally.settings import AugmentationSettings, TrainingSettings, to_dict

_AVERAGE = 0.98
"""Decay of the running average of the weights, a step."""
_HOLD_OUT_UNTIL = 0.75
"""Share of the budget after which the thresholds are fitted and the held-out plane joins the training: nothing drawn is wasted."""
_FREEZE_FROM = 0.25
"""Share of the budget after which batch normalisation keeps its statistics, so that the weights adapt to what prediction uses:
those of a single patch differ much from the running ones (AP 0.71 instead of 0.65 in docs/benchmarks.md)."""
_PATIENCE_WITH_NAN = 3
_PREVIEW_PIXELS = 2e6


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
    """News: the loss was no longer a number at this step; the last good state is back and training goes on more gently."""

    step: int
    message: str


@dataclass(frozen=True)
class Finished:
    """News: the budget is used. The last validation, if there was one."""

    step: int
    seconds: float
    validation: Validation | None


Event = Step | Validation | Preview | Fitting | Trouble | Finished


def train(
    model: Model,
    pairs: Sequence[TrainingPair],
    plan: TrainingPlan,
    augmentation: AugmentationSettings | None = None,
    validation: Sequence[TrainingPair] = (),
    preview_seconds: float = 0.0,
) -> Generator[Event, None, None]:
    """Train `model` in place.

    Parameters
    ----------
    model : Model
        From :func:`new_model`, or a trained one to go on from. It belongs to the caller and holds the
        last finished step after every event.
    pairs : sequence of TrainingPair
        What to learn from.
    plan : TrainingPlan
        From :func:`plan_training` of the same pairs.
    augmentation : AugmentationSettings, optional
    validation : sequence of TrainingPair, optional
        Images to validate on. Left out: a part of `pairs` is held out for the first three quarters
        of the budget, see :mod:`napari_tally.core.validation`.
    preview_seconds : float
        Seconds between :class:`Preview` events; 0 = none. They would hold up the training where the first plane has more
        than 2 million pixels: none there.

    Yields
    ------
    Event
        At most about ten a second. Time that the caller keeps the generator waiting does not count.

    Raises
    ------
    ValueError
        If the loss is not a number again and again.

    References
    ----------
    Ronneberger et al., MICCAI 2015, section 3. I. Loshchilov, F. Hutter, ICLR 2019 (AdamW).
    """
    s = plan.settings
    device = torch.device(plan.device)
    prepare = lambda some: prepare_planes(  # noqa: E731
        some, model.settings.channels, model.scale, model.normalisation, s.border_weight, s.border_width
    )
    planes = prepare(pairs)
    meta = build_meta_network(model.settings)
    for pair in validation:
        require_channels(model, pair.image)
    training, held_out = (planes, prepare(validation)) if validation else hold_out(planes, meta.margin)
    held_out = to_judge_by(held_out)
    augmentation = augmentation or AugmentationSettings()
    sampler = PatchSampler(training, model.settings.classes, s.class_balance, augmentation)
    rng = np.random.default_rng(s.seed)
    torch.manual_seed(s.seed)  # dropout
    network = model.copy().network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's types lack it
    average = _RunningAverage(network, model.network)
    optimiser = _optimiser(network, s)
    good = _snapshot(network, optimiser)
    clock = _Clock(s)
    gentleness, bad = 1.0, 0
    last: Validation | None = None
    next_validation, everything_from, next_preview, last_news = 0.1, _HOLD_OUT_UNTIL, preview_seconds, 0.0
    step, before = 0, model.record or None

    def tell(event: Event) -> Generator[Event, None, None]:
        """Hand out an event. Whoever takes it may walk away, so the caller's model is made whole first."""
        average.store()
        model.diameter = plan.diameter
        model.record = {**_provenance(pairs, plan, augmentation, step, clock.active, last), "before": before}
        yield from clock.outside(event)

    while (fraction := clock.fraction(step)) < 1:
        if fraction >= _FREEZE_FROM:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        for group in optimiser.param_groups:
            group["lr"] = s.learning_rate * gentleness * (_schedule(fraction, step) if s.preset == "quick" else 1.0)
        loss = _step(network, optimiser, sampler, rng, plan, meta, device)
        step += 1
        if not math.isfinite(loss):
            bad += 1
            if bad > _PATIENCE_WITH_NAN:
                raise ValueError(
                    f"The loss was not a number {bad} times (last at step {step}). The model keeps its last good state. "
                    "Train with a smaller learning rate, or look for strange values in the images."
                )
            _restore(network, optimiser, good)
            gentleness /= 4
            yield from tell(Trouble(step, "The loss was not a number. The last good state is back; training goes on more gently."))
            continue
        average.update(step)
        if step % 25 == 0:
            good, bad = _snapshot(network, optimiser), 0
        joins = fraction >= everything_from
        if joins:
            fitting = fit_counting(average.network, to_judge_by(training), model.counting, model.scale)
            model.counting = yield from clock.following(fitting)
        if held_out and (joins or fraction >= next_validation):
            began = clock.active
            last = Validation(step, score(average.network, held_out, model.counting, model.scale))
            next_validation = fraction + max(0.05, 20 * clock.share(clock.active - began))
            yield from tell(last)
        if joins:  # what was held out is seen from now on: it can no longer judge
            sampler, everything_from = PatchSampler(planes, model.settings.classes, s.class_balance, augmentation), math.inf
            held_out = held_out if validation else []
        if preview_seconds and clock.active >= next_preview and planes[0].labels.size <= _PREVIEW_PIXELS:
            began = clock.active
            yield from tell(Preview(step, planes[0].name, labels_of(average.network, planes[0], model.counting, model.scale)))
            next_preview = clock.active + max(preview_seconds, 15 * (clock.active - began))
        if clock.active - last_news >= 0.1 or step == 1:
            last_news = clock.active
            yield from tell(Step(step, loss, clock.fraction(step), clock.seconds_left(step)))
    if held_out:
        last = Validation(step, score(average.network, held_out, model.counting, model.scale))
        yield from tell(last)
    yield from tell(Finished(step, clock.active, last))


def _step(
    network: UNet,
    optimiser: torch.optim.Optimizer,
    sampler: PatchSampler,
    rng: np.random.Generator,
    plan: TrainingPlan,
    meta: UNet,
    device: torch.device,
) -> float:
    """Draw a batch, go forward and back; give the loss."""
    s = plan.settings
    drawn = [sampler.draw(rng, s.patch) for _ in range(s.batch)]
    pictures, classes, weights = (torch.stack(parts).to(device) for parts in zip(*drawn, strict=True))
    logits = network(pictures.contiguous(memory_format=torch.channels_last))  # (N, classes, Y', X')
    crop = (s.patch - logits.shape[-1]) // 2  # "valid": the answer is asked for in the middle only
    inner = slice(crop, s.patch - crop)
    loss = weighted_cross_entropy(logits, classes[:, inner, inner], weights[:, inner, inner])
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    value = float(loss.detach())
    if math.isfinite(value):
        slope = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if not slope.isfinite():  # the step would make the weights NaN
            return math.nan
        optimiser.step()
    return value


def _optimiser(network: UNet, s: TrainingSettings) -> torch.optim.Optimizer:
    if s.preset == "paper":
        return torch.optim.SGD(network.parameters(), lr=s.learning_rate, momentum=0.99)
    return torch.optim.AdamW(network.parameters(), lr=s.learning_rate, weight_decay=1e-4)


def _schedule(fraction: float, step: int) -> float:
    """Warm up over 20 steps, then fall along a cosine to 1/50 at the end of the budget."""
    return min(1.0, (step + 1) / 20) * (0.02 + 0.98 * (1 + math.cos(math.pi * fraction)) / 2)


class _RunningAverage:
    """Exponential running average of the weights, kept on the device and stored into the caller's network."""

    def __init__(self, network: UNet, target: UNet) -> None:
        self._source, self._target = network, target
        self.network = deepcopy(network).eval()

    def update(self, step: int) -> None:
        decay = min(_AVERAGE, step / (step + 10))  # the first steps are soon forgotten
        with torch.no_grad():
            ours, theirs = self.network.state_dict(), self._source.state_dict()
            floats = [name for name, tensor in theirs.items() if tensor.is_floating_point()]
            torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], 1 - decay)

    def store(self) -> None:
        self._target.load_state_dict(self.network.state_dict())


class _Clock:
    """How much of the budget is used. Time in which the caller keeps us waiting is left out."""

    def __init__(self, settings: TrainingSettings) -> None:
        self._settings = settings
        self._began = time.perf_counter()
        self._waited = 0.0

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
        return min(1.0, step / self._settings.steps if self._settings.steps else self.share(self.active))

    def seconds_left(self, step: int) -> float:
        """Estimate the seconds to the end."""
        if self._settings.steps:
            return self.active / max(1, step) * (self._settings.steps - step)
        return max(0.0, 60 * self._settings.minutes - self.active)


def _snapshot(network: UNet, optimiser: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    return deepcopy(network.state_dict()), deepcopy(optimiser.state_dict())


def _restore(network: UNet, optimiser: torch.optim.Optimizer, good: tuple[dict[str, Any], dict[str, Any]]) -> None:
    network.load_state_dict(good[0])
    optimiser.load_state_dict(deepcopy(good[1]))


def _provenance(
    pairs: Sequence[TrainingPair],
    plan: TrainingPlan,
    augmentation: AugmentationSettings,
    steps: int,
    seconds: float,
    last: Validation | None,
) -> dict[str, Any]:
    """Say how the model came about, as JSON values."""
    return {
        "trained": datetime.now(UTC).isoformat(timespec="seconds"),
        "images": [pair.image.name for pair in pairs],
        "cells": plan.n_cells,
        "steps": steps,
        "seconds": round(seconds, 1),
        "training": to_dict(plan.settings),
        "augmentation": to_dict(augmentation),
        "validation": to_dict(last.score) if last else None,
        "device": plan.device_name,
        "versions": {"napari-tally": napari_tally.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
