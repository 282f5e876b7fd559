"""What was counted in a viewer. It outlives the dock: who closes that and opens it again finds the counts as they were.

::

    found by a model ──▶ one Counted an image ──▶ tables, count, files
                              ▲        │
    mended by hand in the     │        ├─▶ gone with its image, with its pixels, or with its labels; mended ones that were
    labels of "5 Review" ─────┤        │   set aside count again when newer labels go
                              │        │
    pixels have another size ─┘        └─▶ gone too where the model goes by that
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet, ref

from napari.layers import Image as ImageLayer
from napari.layers import Labels
from psygnal import Signal

from napari_tally.widgets import _counting
from napari_tally.widgets._counting import Counted
from napari_tally.widgets._layers import found_of, is_corrected, layers_of, notes_of, sizes_of

OUTDATED = " (outdated)"
"""What the name of labels says when their image has other pixels now, or pixels of another size."""


@dataclass(frozen=True, eq=False)
class Mending:
    """Cells that were mended by hand: in what was counted, in which labels, and by how many corrections so far."""

    known: Counted
    labels: Labels
    corrections: int


class CountedImages(dict[str, Counted]):
    """The newest count of each image of a viewer, by the id of its layer.

    Attributes
    ----------
    changed : psygnal signal (str)
        A count was dropped, and why; or "": the pixels of an image have another size, and its densities are others.
    """

    changed = Signal(str)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = ref(viewer)
        self._mended: dict[str, int] = {}  # how many corrections are in the count of an image
        self._watched = WeakSet[ImageLayer]()
        self._new_pixels: dict[str, float] = {}  # when an image got others
        self._new_sizes: dict[str, float] = {}  # when its pixels got another size
        viewer.layers.events.removed.connect(self._removed)

    def watch(self, layers: Iterable[ImageLayer]) -> None:
        """Hear from now on what becomes of the pixels of these images; they are about to be counted."""
        for layer in set(layers) - set(self._watched):
            self._watched.add(layer)
            layer.events.data.connect(self._take_pixels)
            for name in ("scale", "units"):
                layer.events[name].connect(self._take_sizes)

    def take(self, counted: Counted) -> None:
        """Take a new count, unless the image has got other pixels since the counting began."""
        layer = counted.layer
        if self._new_pixels.get(layer.unique_id, 0.0) > counted.run.began:
            self._drop(layer, "got other pixels while it was counted")
        else:
            self._mended.pop(layer.unique_id, None)
            self[layer.unique_id] = counted
            if self._new_sizes.get(layer.unique_id, 0.0) > counted.run.began:
                self._follow_sizes(layer)

    def follow(self) -> None:
        """Take up what has changed in the layers: names of images, and cells that were mended by hand in their labels."""
        for key, known in list(self.items()):
            if known.image.name != (name := known.layer.name):
                known = self[key] = replace(known, image=replace(known.image, name=name), cells=known.cells.assign(image=name))
        for mending in self.mendings():
            self.take_mended(mending, _counting.mended(mending.known, mending.labels.data))

    def mendings(self) -> list[Mending]:
        """Give what was mended by hand and is not counted yet."""
        return [
            Mending(known, labels, notes_of(labels)["corrected"])
            for key, known in self.items()
            for labels in self._labels_of(known.layer)
            if is_corrected(labels) and found_of(labels)[0] is known.found and notes_of(labels)["corrected"] != self._mended.get(key)
        ]

    def take_mended(self, mending: Mending, mended: Counted) -> None:
        """Take the count of what was mended, unless more was mended or found meanwhile."""
        key, labels, notes = mended.layer.unique_id, mending.labels, notes_of(mending.labels)
        if self.get(key) is not mending.known or notes["corrected"] != mending.corrections:
            return
        self[key] = mended = replace(mended, found=replace(mended.found, labels=labels.data))  # they were a copy, where that was counted
        if not mended.is_mended:  # all was undone
            notes["corrected"] = 0
        notes["found"], self._mended[key] = (mended.found, mended.counting), notes["corrected"]

    def forget(self, gone: Any) -> None:
        """A layer is gone: an image with its count; labels with theirs, where no others of that image hold cells."""
        self.pop(gone.unique_id, None)
        for changes in (self._new_pixels, self._new_sizes, self._mended):
            changes.pop(gone.unique_id, None)
        found, _ = found_of(gone)
        for key, known in [item for item in self.items() if item[1].found is found]:
            del self[key]
            self._mended.pop(key, None)
            for labels in self._labels_of(known.layer)[-1:]:  # mended before, and set aside: `follow` counts them
                before, counting = found_of(labels)
                if before:
                    self[key] = replace(known, found=before, counting=counting)

    def _take_pixels(self, event: Any) -> None:
        self._new_pixels[event.source.unique_id] = time.monotonic()
        if event.source.unique_id in self:
            self._drop(event.source, "has other pixels now")

    def _take_sizes(self, event: Any) -> None:
        self._new_sizes[event.source.unique_id] = time.monotonic()
        self._follow_sizes(event.source)

    def _follow_sizes(self, layer: ImageLayer) -> None:
        """Take up the size that the pixels of an image have now."""
        known = self.get(layer.unique_id)
        if known is None:
            return
        size, steps = sizes_of(layer)
        if (size, steps) == (known.image.pixel_size, known.image.steps):
            return
        if known.goes_by_size:
            self._drop(layer, "has another pixel size now, and the model goes by it")
        else:
            self[layer.unique_id] = replace(known, image=replace(known.image, pixel_size=size, steps=steps))
            self.changed.emit("")

    def _drop(self, layer: ImageLayer, why: str) -> None:
        self._mended.pop(layer.unique_id, None)
        self.pop(layer.unique_id, None)
        for labels in self._labels_of(layer):
            notes_of(labels).pop("found", None)  # so that they never count again
            notes_of(labels)["outdated"] = True
            labels.name = labels.name.removesuffix(OUTDATED) + OUTDATED
        self.changed.emit(f"{layer.name} {why}: press Count cells.")

    def _labels_of(self, image: ImageLayer) -> list[Any]:
        viewer = self._viewer()
        return layers_of(viewer, "prediction", image) if viewer is not None else []

    def _removed(self, event: Any) -> None:
        self.forget(event.value)
