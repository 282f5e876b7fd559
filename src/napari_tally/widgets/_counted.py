"""What was counted in a viewer. It outlives the dock: who closes that and opens it again finds the counts as they were.

::

    found by a model ──▶ one Counted an image ──▶ tables, count, files
                              ▲        │
    mended by hand in the     │        └─▶ gone with its image, or with its labels; mended ones that were set aside
    labels of "5 Review" ─────┘            count again when newer labels go
"""

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, ref

from napari_tally.widgets import _counting
from napari_tally.widgets._counting import Counted
from napari_tally.widgets._layers import found_of, is_corrected, layers_of, notes_of

_of_viewers: "WeakKeyDictionary[Any, CountedImages]" = WeakKeyDictionary()


def counted_images(viewer: Any) -> "CountedImages":
    """Give what was counted in a viewer (not napari's proxy of one)."""
    if viewer not in _of_viewers:
        _of_viewers[viewer] = CountedImages(viewer)
    return _of_viewers[viewer]


class CountedImages(dict[str, Counted]):
    """The newest count of each image of a viewer, by the id of its layer."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = ref(viewer)
        self._mended: dict[str, int] = {}  # how many corrections are in the count of an image
        viewer.layers.events.removed.connect(self._removed)

    def follow(self) -> None:
        """Take up what has changed in the layers: names of images, and cells that were mended by hand in their labels."""
        for key, known in list(self.items()):
            if known.image.name != (name := known.layer.name):
                known = self[key] = replace(known, image=replace(known.image, name=name), cells=known.cells.assign(image=name))
            for labels in self._labels_of(known):
                notes = notes_of(labels)
                if is_corrected(labels) and found_of(labels)[0] is known.found and notes["corrected"] != self._mended.get(key):
                    self[key] = mended = _counting.mended(known, labels.data)
                    if not mended.is_mended:  # all was undone
                        notes["corrected"] = 0
                    notes["found"], self._mended[key] = (mended.found, known.counting), notes["corrected"]

    def forget(self, gone: Any) -> None:
        """A layer is gone: an image with its count; labels with theirs, where no others of that image hold cells."""
        self.pop(gone.unique_id, None)
        found, _ = found_of(gone)
        for key, known in [item for item in self.items() if item[1].found is found]:
            del self[key]
            self._mended.pop(key, None)
            for labels in self._labels_of(known)[-1:]:  # mended before, and set aside: `follow` counts them
                before, counting = found_of(labels)
                if before:
                    self[key] = replace(known, found=before, counting=counting)

    def _labels_of(self, known: Counted) -> list[Any]:
        viewer = self._viewer()
        return layers_of(viewer, "prediction", known.layer) if viewer is not None else []

    def _removed(self, event: Any) -> None:
        self.forget(event.value)
