"""Layers to look at while a model trains: the preview of what it finds, and the weight map; in network pixels, laid on the image.

The network may see an image smaller or larger than it is. So a layer has the scale at which its pixels cover the image, and is shifted by
half the difference of the pixels, for napari places a layer by the centre of its first pixel::

    image      |·|·|·|·|·|·|        centre of the first pixel at 0
    network    | · | · | · |        at (factor - 1) / 2
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.components import ViewerModel
from numpy.typing import NDArray

from napari_tally.widgets._geometry import label_shape, placement
from napari_tally.widgets._layers import belong, layers_of
from napari_tally.widgets._training import Source

if TYPE_CHECKING:
    from napari_tally.core.plan import TrainingPlan

_PREVIEW_SIDE = 1024
"""Pixels that a preview has at most along a side: napari takes long to show more."""


class TrainingLayers:
    """Makes the layers of one training after the other. A layer that the user deletes stays away until the next one.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._laid: set[str] = set()  # names of layers that this training has made

    def begin_anew(self) -> None:
        """Another training begins: what was deleted may come again."""
        self._laid = set()

    def make_preview(self, source: Source, plan: "TrainingPlan") -> None:
        """Make the empty preview of the first image: that takes a moment, and should not while training runs."""
        shape = [max(1, round(n * plan.scales[0])) for n in label_shape(source.layer)[-2:]]
        if plan.slices:
            shape = [max(1, round(label_shape(source.layer)[-3] * plan.z_scale)), *shape]
        self._lay("preview", [source], source.name, np.zeros(shape, np.int32))

    def show_preview(self, sources: Sequence[Source], name: str, labels: NDArray[np.integer]) -> None:
        """Show the cells that the model finds in a plane or volume of one of the images."""
        every = -(-max(labels.shape[-2:]) // _PREVIEW_SIDE)
        self._lay("preview", sources, name, labels[..., every // 2 :: every, every // 2 :: every])

    def show_weights(self, sources: Sequence[Source], name: str, weights: NDArray[np.floating]) -> None:
        """Show how much the gaps between cells weigh."""
        self._lay("border weights", sources, name, weights)

    def _lay(self, kind: str, sources: Sequence[Source], plane_name: str, pixels: NDArray[Any]) -> None:
        """Show a plane or volume on its image, in a layer of its own or the one from before."""
        what = " plane " if pixels.ndim == 2 else " volume "
        source = next(s for s in sources if plane_name == s.name or plane_name.startswith(s.name + what))
        name, image = f"{source.name} {kind}", source.layer
        layer = next((one for one in layers_of(self._viewer, "aid", image) if one.name == name), None)
        known, self._laid = name in self._laid, self._laid | {name}
        if image not in self._viewer.layers or (known and layer is None):
            return  # the user has deleted it: it stays away
        shape, n = label_shape(image), pixels.ndim
        leading = shape[:-n]
        place = placement(image, len(shape))
        plane = int(plane_name.rpartition(what)[2]) if plane_name != source.name else 0
        index = np.unravel_index(plane, leading) if leading else ()
        factor = np.array([1.0] * len(leading) + [m / k for m, k in zip(shape[-n:], pixels.shape, strict=True)])
        shift = np.array([*index, *((factor[-n:] - 1) / 2)])  # from the centre of the first pixel to that of the larger one
        place["translate"] = place["translate"] + shift * place["scale"]
        place["scale"] = place["scale"] * factor
        data = pixels[(None,) * len(leading)]
        if layer is not None:
            layer.data = data
            for attribute in ("scale", "translate"):
                if not np.allclose(getattr(layer, attribute), place[attribute]):  # setting costs as much as new data
                    setattr(layer, attribute, place[attribute])
            return
        active = self._viewer.layers.selection.active
        if kind == "preview":
            layer = self._viewer.add_labels(data, name=name, **place)
            layer.contour = 1  # the image stays visible
        else:
            layer = self._viewer.add_image(data, name=name, colormap="inferno", blending="additive", **place)
        belong(layer, "aid", image)
        self._viewer.layers.selection.active = active  # whoever is drawing goes on drawing
