"""What was found, as layers just above its image: the probabilities, hidden at first, and the labels."""

from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels
from numpy.typing import NDArray

from napari_tally.widgets import _counting
from napari_tally.widgets._counted import OUTDATED
from napari_tally.widgets._counting import Counted
from napari_tally.widgets._geometry import placement
from napari_tally.widgets._layers import Role, add_notes, belong, is_corrected, layers_of, notes_of, uncover

UNFINISHED = " (stopped, unfinished)"


class FoundLayers:
    """Lays what was found into a viewer; what the user has selected stays selected.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer

    def lay(self, counted: Counted, new: bool, alone: bool) -> Labels:
        """Show what was found in an image.

        Parameters
        ----------
        counted : Counted
        new : bool
            The network has looked at the image; else its cells were only told apart in another way.
        alone : bool
            The image is the only one that is asked for: others do not cover it.
        """
        image, active = counted.layer, self._viewer.layers.selection.active
        if new and counted.found.probabilities is not None:
            look = {"colormap": "magma", "contrast_limits": (0, 1), "visible": False, "opacity": 0.7}
            cell = (1 - counted.found.probabilities[:, 0]).reshape(counted.image.shape)
            self._put("probability", cell, ImageLayer, image, name=f"{image.name} probability", **look)
        labels = self.put_labels(image, _counting.to_show(counted.found.labels, counted.image))
        labels.visible = labels.visible or new
        for other in self._other_cells(image) if new else []:  # outlines over these cells would only confuse
            if other is not labels and not (other is active and other.mode != "pan_zoom"):  # nor what is being drawn
                other.visible = False
        if new and alone:
            uncover(self._viewer, image)
        # For who looks at the cells one by one, or draws windows.
        add_notes(labels, found=(counted.found, counted.counting), planes=counted.planes)
        self._viewer.layers.selection.active = active
        return labels

    def _other_cells(self, image: ImageLayer) -> list[Any]:
        """Give the layers that show cells of an image too: what was drawn, what was found before, the preview of a training."""
        drawn, found = (layers_of(self._viewer, role, image) for role in ("annotation", "prediction"))
        return [*drawn, *found, *(aid for aid in layers_of(self._viewer, "aid", image) if aid.name == f"{image.name} preview")]

    def put_labels(self, layer: ImageLayer, labels: Any) -> Labels:
        """Show labels; of a large image they stay in their file."""
        active = self._viewer.layers.selection.active
        shown: Labels = self._put("prediction", labels, Labels, layer, name=f"{layer.name} labels")
        shown.name = shown.name.removesuffix(UNFINISHED).removesuffix(OUTDATED)
        notes_of(shown).pop("outdated", None)
        shown.editable = False  # it is made anew when a threshold changes; "5 Review cells" makes it the user's own
        self._viewer.layers.selection.active = active
        return shown

    def _put(self, role: Role, data: NDArray[Any], kind: type, image: ImageLayer, **look: Any) -> Any:
        """Give the layer of the image that has this role, holding `data`; a new one is laid above the image."""
        layers = self._viewer.layers
        old = next((layer for layer in reversed(layers_of(self._viewer, role, image)) if not is_corrected(layer)), None)
        if old is not None and old.data.shape == data.shape:
            if old.data is not data:
                old.data = data
            return old
        if old is not None:
            layers.remove(old)
        new = kind(data, **look, **placement(image, data.ndim))
        belong(new, role, image)
        older = layers_of(self._viewer, role, image) if role == "prediction" else []  # mended ones: the newest lies on top
        layers.insert(max(map(layers.index, [image, *layers_of(self._viewer, "probability", image), *older])) + 1, new)
        return new
