"""What the worker thread does for the Train widget: from the layers to the trained model, and model files.

Nothing here touches the window. torch is imported where it is used, on the worker thread.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels
from numpy.typing import NDArray

from napari_tally.core.events import beside
from napari_tally.settings import AugmentationSettings, TrainingSettings
from napari_tally.widgets._kept import at_work, discard, new_training, note_training
from napari_tally.widgets._layers import image_from_layer

if TYPE_CHECKING:
    from napari_tally.core.annotations import Problem
    from napari_tally.core.images import Image
    from napari_tally.core.model_file import Model
    from napari_tally.core.plan import TrainingPlan
    from napari_tally.core.samples import TrainingPair
    from napari_tally.core.train import Event

_LARGEST = 2e9
"""Bytes of images that are copied beside an unfinished training, at most."""
_SHARE_SECONDS = 5.0
"""Seconds between two copies of the model for the other widgets while training goes on."""


_ON_ITSELF = (
    "{}: these cells were found by a model. Trained on them, a model learns its own mistakes, and is judged by them too. Press “Copy to "
    "annotation” in “3 Predict and count”, mend what is wrong there, and train on that."
)


@dataclass(frozen=True, eq=False)
class Source:
    """An annotated image as it was when the user pressed Start: he may go on drawing."""

    name: str
    layer: ImageLayer
    labels_layer: Labels
    labels: NDArray[Any]
    region: NDArray[np.bool_] | None
    is_prediction: bool = False  # what a model found, and nobody has mended


@dataclass(frozen=True)
class Planned:
    """News: what will be done."""

    plan: "TrainingPlan"
    start: str
    words: str = ""


@dataclass(frozen=True)
class Shared:
    """News: a copy of the model that nobody trains."""

    model: "Model"


@dataclass(frozen=True)
class NotKept:
    """News: the training cannot be kept against a crash, and why."""

    message: str


@dataclass(eq=False)
class Run:
    """One training, from the layers to the model.

    `model`, `steps` and `start_kept` are read by the window when the job has ended, however it ended. While it runs it is kept in
    `folder`, so that it can go on after a crash; with `goes_on` it does so from there.
    """

    sources: list[Source]
    settings: TrainingSettings
    augmentation: AugmentationSettings
    start: "Model | str | None"
    anyway: bool
    preview_seconds: float
    model: "Model | None" = None
    steps: int = 0
    start_kept: bool = False
    folder: Path = field(default_factory=new_training)
    goes_on: bool = False
    unwanted: bool = False  # the user has stopped it

    def events(self) -> "Generator[Event | Planned | Shared | NotKept | None, None, list[tuple[Source, Problem]]]":
        """Check, plan and train; give the problems that kept us from training."""
        at_work.add(self.folder)
        try:
            return (yield from self._events())
        finally:
            at_work.discard(self.folder)

    def _events(self) -> "Generator[Event | Planned | Shared | NotKept | None, None, list[tuple[Source, Problem]]]":
        from napari_tally.core.checkpoint import EVERY, Checkpoint, load_checkpoint, load_pairs, save_checkpoint, save_pairs
        from napari_tally.core.explain import explain
        from napari_tally.core.plan import new_model, plan_training
        from napari_tally.core.start import choose_start, name_of
        from napari_tally.core.train import Step, train

        resume = None
        if self.goes_on:
            yield None
            pairs, resume = load_pairs(self.folder / "data.safetensors"), load_checkpoint(self.folder / "state.safetensors")
            start, plan, self.augmentation, self.steps = resume.start, resume.plan_here(), resume.augmentation, resume.step
        else:
            pairs, problems = yield from self._pairs()
            if any(problem.stops for _, problem in problems) or (problems and not self.anyway):
                return problems
            start = yield from beside(choose_start, self.start, pairs, self.settings)
            plan = yield from beside(plan_training, pairs, self.settings, start)
        words = "\n".join(f"{topic}: {text}" for topic, text in explain(plan, name_of(start)))
        yield Planned(plan, start.record.get("name", "") if start else "", words)
        self.model = resume.model() if resume else new_model(plan, start)
        shared = time.monotonic()
        names = [pair.image.name for pair in pairs]
        kept = sum(pair.image.planes.nbytes for pair in pairs) <= _LARGEST or self.goes_on
        if not kept:
            yield NotKept("The images are large, so they are not copied: if napari is interrupted, this training cannot go on.")
        events = train(
            self.model, pairs, plan, self.augmentation, preview_seconds=self.preview_seconds, checkpoint_seconds=EVERY, resume=resume
        )
        first = yield from beside(next, events)  # borders are weighed before the first step
        for event in chain([first], events):
            if isinstance(event, Step):
                self.steps = event.step
            if isinstance(event, Checkpoint) and kept:
                try:
                    if not (self.folder / "data.safetensors").exists():
                        save_pairs(pairs, self.folder / "data.safetensors")
                    save_checkpoint(event, self.folder / "state.safetensors")
                    note_training(self.folder, names, event.step, event.fraction)
                except OSError as error:  # a full disk: the training itself goes on in memory
                    kept = False
                    yield NotKept(f"{error} If napari is interrupted, this training cannot go on.")
                continue
            yield event
            if time.monotonic() - shared > _SHARE_SECONDS:
                yield Shared(self.model.copy())
                shared = time.monotonic()
        return []

    def forget(self) -> None:
        """Remove what was kept for going on."""
        discard(self.folder)

    def weight_maps(self) -> "Generator[None, None, list[tuple[str, NDArray[np.float32]]]]":
        """Compute the border weights that training would use; give (name, map in network pixels) of each plane."""
        from napari_tally.core.plan import plan_training, prepare
        from napari_tally.core.start import choose_start

        pairs, problems = yield from self._pairs()
        for _, problem in problems:
            if problem.stops:
                raise ValueError(problem.message)
        start = yield from beside(choose_start, self.start, pairs, self.settings)
        plan = yield from beside(plan_training, pairs, self.settings, start)
        return [(plane.name, plane.border) for plane in (yield from beside(prepare, plan, pairs))]

    def _pairs(self) -> "Generator[None, None, tuple[list[TrainingPair], list[tuple[Source, Problem]]]]":
        """Read the layers and check the labels."""
        from napari_tally.core.annotations import Problem, check_labels, known_labels
        from napari_tally.core.cell_types import merge_layers
        from napari_tally.core.samples import TrainingPair

        drawn: dict[ImageLayer, tuple[Image, list[NDArray[np.int32]]]] = {}
        problems = []
        for source in self.sources:
            yield  # so that Stop works between two images
            image = replace(image_from_layer(source.layer), name=source.name)  # the layer may be renamed meanwhile
            found = yield from beside(check_labels, source.labels, image, source.region)
            if source.is_prediction:
                found.append(Problem("prediction", _ON_ITSELF.format(source.labels_layer.name)))
            problems += [(source, problem) for problem in found]
            if not any(problem.stops for problem in found):
                drawn.setdefault(source.layer, (image, []))[1].append(known_labels(source.labels, source.region))
        if sum(problem.kind == "no background" for _, problem in problems) == len(self.sources):  # else others show it
            problems = [(source, replace(problem, stops=True)) for source, problem in problems]
        self.settings = replace(self.settings, types=self._types(max((len(layers) for _, layers in drawn.values()), default=1)))
        several = self.settings.ids_per_type
        merged = ((image, merge_layers(layers, several) if len(layers) > 1 else layers[0]) for image, layers in drawn.values())
        return [TrainingPair(image, labels) for image, labels in merged], problems

    def _types(self, layers: int) -> int:
        """Say how many types of cells there are, where an image has up to so many label layers: these are one type each."""
        known = getattr(getattr(self.start, "settings", None), "types", 0)
        types = self.settings.types or (known if known > 1 else layers if layers > 1 else 0)
        if layers > max(1, types):
            raise ValueError(
                f"{layers} label layers lie on one image. Each is a type of cells, and there {'is' if types == 1 else 'are'} {types}: "
                "take a layer out of the list, or change “Cell types” in the expert options."
            )
        return types


def load_file(path: Path) -> "Generator[None, None, tuple[Path, Model]]":
    """Read a model file."""
    from napari_tally.core.model_file import load_model

    yield
    return path, load_model(path)


def save_file(model: "Model", path: Path) -> "Generator[None, None, tuple[Path, Model]]":
    """Write a model file."""
    from napari_tally.core.model_file import save_model

    yield
    save_model(model, path)
    return path, model
