"""Training: a plan, then a generator of events around a model that belongs to the caller.

::

    choose_start(wish, pairs)             ->  Model or None     what to start from
    plan_training(pairs, settings, start) ->  TrainingPlan      pure; what will be done, and what is odd
    new_model(plan, start)                ->  Model             a copy of the start, or random weights
    train(model, pairs, plan)             ->  Step, Validation, Preview, ..., Trouble?, Comparison?, Finished
    train(..., resume=checkpoint)             goes on from an unfinished one, see :mod:`napari_tally.core.checkpoint`

What is held out when is drawn in :mod:`napari_tally.core.validation`. After any event the caller may walk away, or
wait as long as he likes: `model.network` always holds the last finished step (the running average of the weights,
which is what predicts best).
"""

import math
import platform
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import napari_tally
from napari_tally.core.checkpoint import Checkpoint, Place, to_comparison, to_score
from napari_tally.core.devices import bf16_pays
from napari_tally.core.events import is_out_of_memory
from napari_tally.core.explain import explain
from napari_tally.core.losses import LOSSES
from napari_tally.core.model_file import Model
from napari_tally.core.plan import TrainingPlan, build_meta_network, own_scale
from napari_tally.core.predict import require_channels
from napari_tally.core.range import KEY as RANGE
from napari_tally.core.range import fingerprint_images
from napari_tally.core.samples import PatchSampler, Plane, TrainingPair, data_fingerprint, prepare_planes
from napari_tally.core.unet import UNet
from napari_tally.core.validation import (
    HOLD_OUT_UNTIL,
    Comparison,
    Fitting,
    Judged,
    Phase,
    Score,
    fit_counting,
    judge,
    labels_of,
    plan_phases,
    score,
    to_judge_by,
)
from napari_tally.settings import AugmentationSettings, TrainingSettings, to_dict

_AVERAGE = 0.98
"""Decay of the running average of the weights, a step."""
_FREEZE_FROM = 0.25
"""Share of the budget after which batch normalisation keeps its statistics, so that the weights adapt to what prediction uses:
those of a single patch differ much from the running ones (AP 0.71 instead of 0.65 in docs/benchmarks.md). A trained model
keeps those that it has."""
_STEADY_BATCH = 4
"""From this batch on, the statistics of a batch are near the running ones, and are kept only from three quarters of the budget on."""
_PATIENCE_WITH_NAN = 3
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

    A trained model is compared with itself before: both on the same held-out cells. Where training made it worse, the
    model is given back as it was, unless the settings insist.

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
    given = start.counting if start else model.counting
    model.scale, model.diameter, model.pixel_size = plan.scale, plan.diameter, plan.pixel_size
    for pair in validation:
        require_channels(model, pair.image)

    def prepare(some: Sequence[TrainingPair], scales: Sequence[float]) -> list[Plane]:
        ids = s.ids_per_type if model.settings.types > 1 else 0
        return prepare_planes(
            some, model.settings.channels, scales, model.normalisation, s.border_weight, s.border_width, model.window, ids
        )

    planes = prepare(pairs, plan.scales)
    if validation:
        scales = [own_scale(model, pair) if plan.any_size else plan.scale for pair in validation]
        phases = [Phase(planes, prepare(validation, scales), 1.0)]
    else:
        phases = plan_phases(planes, build_meta_network(model.settings).margin, start is not None, plan.seen)
    torch.manual_seed(s.seed)  # dropout
    at = replace(resume.place, resumed=[*resume.place.resumed, resume.step]) if resume else Place(next_preview=preview_seconds)
    clock = _Clock(s, at)
    learner = _Learner(model, plan, start is not None, resume)
    last = Validation(at.last["step"], to_score(at.last)) if at.last else None
    comparison = to_comparison(at.comparison) if at.comparison else None
    before: list[Judged] = []
    after: list[Judged] = []
    learned = resume.learned if resume else []  # what each fold has learned
    last_news, next_checkpoint = clock.active, clock.active + checkpoint_seconds

    def tell(event: Event) -> Generator[Event, None, None]:
        """Hand out an event. Whoever takes it may walk away, so the caller's model is made whole first."""
        model.network.load_state_dict(_mean([*learned, learner.average.network.state_dict()]))
        model.record = _provenance(pairs, plan, augmentation, data, at, clock.active, last, comparison, start)
        if isinstance(event, Finished):
            known = start.record.get(RANGE) if start and event.start_kept else None
            model.record[RANGE] = known or fingerprint_images(model, [pair.image for pair in pairs[:_KNOWN]], _KNOWN_SIDE).as_dict()
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
            before.append(judge(start.network, held_out, model.scale))
        if number < at.phase:  # it was through before the interruption
            if held_out and number < len(learned):  # not yet compared
                after.append(judge(learner.with_average(learned[number]), held_out, model.scale))
            continue
        schedule_end = 1.0 if phase.begin == "start" and start is None else phase.end
        if goes_on := resume is not None and number == at.phase:
            learner.go_on()
        elif learned and start is not None:  # the second fold begins where the first one did
            learner.begin(start.network.state_dict())
        learner.learn_from(PatchSampler(phase.training, model.settings.classes, s.class_balance, augmentation, model.settings.types))
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
                judged = judge(learner.average.network, held_out, model.scale)
                last = Validation(at.step, score([judged], [model.counting]))
                at.next_validation = fraction + max(0.1 * (phase.end - at.began), 20 * clock.share(clock.active - asked))
                yield from tell(last)
                if not s.steps and flat.since(at.step, last.score.quality):  # who asks for steps gets them
                    at.pace = (fraction - at.began) / (phase.end - at.began)
                    clock.skip(phase.end - clock.fraction(at.step))
                    break
            if preview_seconds and clock.active >= at.next_preview and planes[0].labels.size <= _PREVIEW_PIXELS:
                asked = clock.active
                found = labels_of(learner.average.network, planes[0], model.counting, model.scale)
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
            after.append(judge(learner.average.network, held_out, model.scale))
        if phase is phases[-1] and not validation:
            continue
        # What was held out can judge now; from the next phase on it is trained on.
        if start is None:
            to_fit = [judge(learner.average.network, to_judge_by(phase.training), model.scale)]  # what is held out stays the judge
            model.counting = (yield from clock.following(fit_counting(to_fit, model.counting, plan.any_size)))[0]
            last = Validation(at.step, score(after, [model.counting]))
            yield from tell(last)
            continue
        learned.append(_copy(learner.average.network.state_dict()))
        if len(learned) < len(phases) - 1:
            continue  # to the other fold
        fitting, *fitted = yield from clock.following(fit_counting(after, model.counting, plan.any_size))
        comparison = Comparison(at.step, score(before, [given] * len(before)), score(after, fitted))
        last = Validation(at.step, comparison.after)
        start_kept = not comparison.helped and not s.insist
        if start_kept:  # its thresholds may still be fitted to the drawn cells
            fitting = (yield from clock.following(fit_counting(before, given, plan.any_size)))[0]
        learner.begin(start.network.state_dict() if start_kept else _mean(learned))
        learned, model.counting = [], fitting
        yield from tell(comparison)
        if start_kept:
            yield from tell(Finished(at.step, clock.active, last, comparison, start_kept))
            return
    yield from tell(Finished(at.step, clock.active, last, comparison))


class _Learner:
    """The network in training, its optimiser and the running average of its weights."""

    def __init__(self, model: Model, plan: TrainingPlan, from_trained: bool, resume: Checkpoint | None = None) -> None:
        self._from_trained, self._resume = from_trained, resume
        self._settings = replace(plan.settings, batch=resume.place.batch, patch=resume.place.patch) if resume else plan.settings
        self._device = torch.device(plan.device)
        self._meta = build_meta_network(model.settings)
        network = model.copy().network
        self.network = network.to(self._device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's types lack it
        self._batches: _Batches | None = None
        self._gentleness, self._bad = 1.0, 0
        self._bf16 = resume.place.half if resume else bf16_pays(self._device)
        self.begin(network.state_dict())
        if self._settings.compile:
            self.network.compile()

    def begin(self, weights: dict[str, Tensor]) -> None:
        """Take these weights, with a fresh optimiser and average."""
        self.network.load_state_dict(weights)
        self._optimiser = _optimiser(self.network, self._settings)
        self.average = _RunningAverage(self.network)
        self._steps = 0
        self._good = _snapshot(self.network, self._optimiser)

    def with_average(self, weights: dict[str, Tensor]) -> UNet:
        """Put weights into the network of the average, to judge them as they were judged before an interruption."""
        self.average.network.load_state_dict(weights)
        return self.average.network

    def go_on(self) -> None:
        """Take everything from the checkpoint."""
        assert self._resume
        c, place = self._resume, self._resume.place
        self.begin(c.group("network."))
        self.average.network.load_state_dict(c.group("average."))
        state: dict[int, dict[str, Any]] = {}
        for i, parameter in enumerate(self.network.parameters()):
            for name, tensor in c.group(f"optimiser.{i}.").items():  # laid in memory as the weights are: sums are rounded alike then
                state.setdefault(i, {})[name] = torch.empty_like(parameter).copy_(tensor) if tensor.ndim else tensor.clone()
        self._optimiser.load_state_dict({"state": state, "param_groups": self._optimiser.state_dict()["param_groups"]})
        self._steps, self._gentleness, self._bad = place.learner_steps, place.gentleness, place.bad
        self._good = _snapshot(self.network, self._optimiser)
        torch.set_rng_state(c.tensors["random.cpu"])
        if self._device.type == "cuda" and "random.cuda" in c.tensors:
            torch.cuda.set_rng_state(c.tensors["random.cuda"], self._device)

    def remember(self, place: Place) -> dict[str, Tensor]:
        """Write the numbers into `place`; give the tensors. The state is a good one from now on: the last loss was a number."""
        assert self._batches
        self._good = weights, optimiser = _snapshot(self.network, self._optimiser)
        place.learner_steps, place.gentleness, place.bad = self._steps, self._gentleness, self._bad
        place.batch, place.patch, place.half, place.random = self._settings.batch, self._settings.patch, self._bf16, self._batches.random
        tensors = {f"network.{name}": tensor for name, tensor in weights.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in _copy(self.average.network.state_dict()).items()}
        for i, values in optimiser["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in values.items() if isinstance(value, Tensor)}
        tensors["random.cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self._device)
        return tensors

    def learn_from(self, sampler: PatchSampler) -> None:
        """Draw patches from here from now on."""
        if self._batches:
            self._batches.change(sampler=sampler)
        else:
            self._batches = _Batches(sampler, self._settings, self._resume.place.random if self._resume else None)

    def step(self, progress: float, number: int) -> tuple[str, float]:
        """Draw a batch, go forward and back; give what went wrong ("" = nothing) and the loss.

        `progress` is the share of the schedule that is done, `number` that of the step, for messages.
        """
        s = self._settings
        self._freeze(progress)
        rate = s.learning_rate * self._gentleness
        for group in self._optimiser.param_groups:
            group["lr"] = rate * (_schedule(progress, self._steps) if s.preset == "quick" else 1.0)
        assert self._batches
        try:
            loss = self._learn(self._batches.next())
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return self._shrink(error), math.nan
        self._steps += 1
        if not math.isfinite(loss):
            self._bad += 1
            if self._bad > _PATIENCE_WITH_NAN:
                raise ValueError(
                    f"The loss was not a number {self._bad} times (last at step {number}). The model keeps its last good state. "
                    "Train with a smaller learning rate, or look for strange values in the images."
                )
            _restore(self.network, self._optimiser, self._good)
            self._gentleness /= 4
            return "The loss was not a number. The last good state is back; training goes on more gently.", loss
        self.average.update(self._steps)
        if self._steps % 25 == 0:
            self._good, self._bad = _snapshot(self.network, self._optimiser), 0
        return "", loss

    def _learn(self, batch: Sequence[Tensor]) -> float:
        pictures, classes, weights = (part.to(self._device) for part in batch)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16):
            logits = self.network(pictures.contiguous(memory_format=torch.channels_last))  # (N, classes, Y', X')
        crop = (pictures.shape[-1] - logits.shape[-1]) // 2  # "valid": the answer is asked for in the middle only
        inner = slice(crop, pictures.shape[-1] - crop)
        loss = LOSSES[self._settings.loss](logits, classes[:, inner, inner], weights[:, inner, inner])
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        value = float(loss.detach())
        if math.isfinite(value):
            slope = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            if not slope.isfinite():  # the step would make the weights NaN
                return math.nan
            self._optimiser.step()
        return value

    def _shrink(self, error: BaseException) -> str:
        """Go on with less memory: half the batch, or smaller patches."""
        s, meta = self._settings, self._meta
        self._optimiser.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = meta.input_size(max(s.patch // 2, 2 * meta.step), of_output=False)
        if s.batch > 1:
            self._settings = replace(s, batch=s.batch // 2)
        elif smaller < s.patch:
            self._settings = replace(s, patch=smaller)
        else:
            raise MemoryError("The memory is not enough for training, even with the smallest patches.") from error
        assert self._batches
        self._batches.change(settings=self._settings)
        return f"The memory is not enough. Training goes on with {self._settings.batch} patch(es) of {self._settings.patch} px a step."

    def _freeze(self, progress: float) -> None:
        freeze_from = 0.0 if self._from_trained else _FREEZE_FROM if self._settings.batch < _STEADY_BATCH else HOLD_OUT_UNTIL
        if progress >= freeze_from:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()


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


class _Batches:
    """Draws the next batch in a thread of its own while the network learns from this one.

    Only that thread draws, one batch after the other, so a seed gives the same batches every time.
    """

    def __init__(self, sampler: PatchSampler, settings: TrainingSettings, random: dict[str, Any] | None = None) -> None:
        self._sampler, self._settings = sampler, settings
        self._rng = np.random.default_rng(settings.seed)
        if random:
            self._rng.bit_generator.state = random
        self._pool = ThreadPoolExecutor(1, "patches")
        self._coming: Future[tuple[dict[str, Any], list[Tensor]]] = self._pool.submit(self._draw)

    def next(self) -> list[Tensor]:
        """Give pictures (N, C, Y, X), classes (N, Y, X) and weights (N, Y, X)."""
        _, batch = self._coming.result()
        self._coming = self._pool.submit(self._draw)
        return batch

    @property
    def random(self) -> dict[str, Any]:
        """Give the state of the generator with which the next batch is drawn."""
        return self._coming.result()[0]

    def change(self, sampler: PatchSampler | None = None, settings: TrainingSettings | None = None) -> None:
        """Draw other batches from now on; the one that is drawn already is thrown away: it may show what is held out now."""
        self._coming.result()
        self._sampler, self._settings = sampler or self._sampler, settings or self._settings
        self._coming = self._pool.submit(self._draw)

    def _draw(self) -> tuple[dict[str, Any], list[Tensor]]:
        random = dict(self._rng.bit_generator.state)
        drawn = [self._sampler.draw(self._rng, self._settings.patch) for _ in range(self._settings.batch)]
        return random, [torch.stack(parts) for parts in zip(*drawn, strict=True)]


def _optimiser(network: UNet, s: TrainingSettings) -> torch.optim.Optimizer:
    if s.preset == "paper":
        return torch.optim.SGD(network.parameters(), lr=s.learning_rate, momentum=0.99)
    return torch.optim.AdamW(network.parameters(), lr=s.learning_rate, weight_decay=1e-4)


def _schedule(fraction: float, step: int) -> float:
    """Warm up over 20 steps, then fall along a cosine to 1/50 at the end of the budget."""
    return min(1.0, (step + 1) / 20) * (0.02 + 0.98 * (1 + math.cos(math.pi * fraction)) / 2)


class _RunningAverage:
    """Exponential running average of the weights, kept on the device."""

    def __init__(self, network: UNet) -> None:
        self._source = network
        self.network = deepcopy(network).eval()

    def update(self, step: int) -> None:
        decay = min(_AVERAGE, step / (step + 10))  # the first steps are soon forgotten
        with torch.no_grad():
            ours, theirs = self.network.state_dict(), self._source.state_dict()
            floats = [name for name, tensor in theirs.items() if tensor.is_floating_point()]
            torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], 1 - decay)


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


def _snapshot(network: UNet, optimiser: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    return deepcopy(network.state_dict()), deepcopy(optimiser.state_dict())


def _restore(network: UNet, optimiser: torch.optim.Optimizer, good: tuple[dict[str, Any], dict[str, Any]]) -> None:
    network.load_state_dict(good[0])
    optimiser.load_state_dict(deepcopy(good[1]))


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


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
) -> dict[str, Any]:
    """Say how the model came about, as JSON values."""
    before = start.record if start else {}
    return {
        "trained": datetime.now(UTC).isoformat(timespec="seconds"),
        "start": before.get("name", before.get("trained", "")) or "random weights",
        "images": [pair.image.name for pair in pairs],
        "seen": sorted({*before.get("seen", []), *plan.fingerprints}),
        "licence": before.get("licence", ""),
        "data": data,
        "cells": plan.n_cells,
        "steps": at.step,
        "resumed": at.resumed,
        "seconds": round(seconds, 1),
        "training": to_dict(plan.settings),
        "plan": [f"{topic}: {text}" for topic, text in explain(plan, before.get("name", "a trained model") if start else "")],
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
