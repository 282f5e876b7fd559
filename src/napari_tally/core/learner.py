"""A network that learns: one batch after the other is drawn, goes forward and back, and moves the weights."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_tally.core.checkpoint import Checkpoint, Place
from napari_tally.core.devices import bf16_pays
from napari_tally.core.events import is_out_of_memory
from napari_tally.core.losses import LOSSES
from napari_tally.core.model_file import Model
from napari_tally.core.plan import TrainingPlan, build_meta_network
from napari_tally.core.samples import PatchSampler
from napari_tally.core.unet import UNet
from napari_tally.core.validation import HOLD_OUT_UNTIL
from napari_tally.settings import TrainingSettings

_AVERAGE = 0.999
"""Largest decay of the running average of the weights, a step. It averages the last tenth of the steps, at most a thousand."""
_FREEZE_FROM = 0.25
"""Share of the budget after which batch normalisation keeps its statistics, so that the weights adapt to what prediction uses:
those of a single patch differ much from the running ones (AP 0.71 instead of 0.65 in docs/benchmarks.md). A start
that has any (a U-Net has none: core/fold.py) keeps them."""
_STEADY_BATCH = 4
"""From this batch on, the statistics of a batch are near the running ones, and are kept only from three quarters of the budget on."""
_PATIENCE_WITH_NAN = 3


class Learner:
    """The network in training, its optimiser and the running average of its weights."""

    def __init__(self, model: Model, plan: TrainingPlan, from_trained: bool, resume: Checkpoint | None = None) -> None:
        self._from_trained, self._resume = from_trained, resume
        self._settings = replace(plan.settings, batch=resume.place.batch, patch=resume.place.patch) if resume else plan.settings
        self._device = torch.device(plan.device)
        self._meta = build_meta_network(model.settings)
        network = model.copy().network
        self._format = torch.channels_last if network.dimensions == 2 else torch.channels_last_3d
        self.network = network.to(self._device, memory_format=self._format).train()  # type: ignore[call-overload]  # torch's types lack it
        self._batches: _Batches | None = None
        self._gentleness, self._bad = 1.0, 0
        self.half = resume.place.half if resume else bf16_pays(self._device)
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
        place.batch, place.patch, place.half, place.random = self._settings.batch, self._settings.patch, self.half, self._batches.random
        tensors = {f"network.{name}": tensor for name, tensor in weights.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in copied(self.average.network.state_dict()).items()}
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
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.half):
            logits = self.network(pictures.contiguous(memory_format=self._format))  # (N, classes, Y', X')
        lost = [(n - m) // 2 for n, m in zip(pictures.shape[2:], logits.shape[2:], strict=True)]
        inner = tuple(slice(k, n - k) for k, n in zip(lost, pictures.shape[2:], strict=True))  # "valid": the middle is asked for only
        loss = LOSSES[self._settings.loss](logits, classes[:, *inner], weights[:, *inner])
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
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                    module.eval()


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
        decay = min(_AVERAGE, step / (step + 10))  # the last tenth of the steps; the first are soon forgotten
        with torch.no_grad():
            ours, theirs = self.network.state_dict(), self._source.state_dict()
            floats = [name for name, tensor in theirs.items() if tensor.is_floating_point()]
            torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], 1 - decay)


def _snapshot(network: UNet, optimiser: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    return deepcopy(network.state_dict()), deepcopy(optimiser.state_dict())


def _restore(network: UNet, optimiser: torch.optim.Optimizer, good: tuple[dict[str, Any], dict[str, Any]]) -> None:
    network.load_state_dict(good[0])
    optimiser.load_state_dict(deepcopy(good[1]))


def copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy weights to the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
