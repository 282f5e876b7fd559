"""Where the images of an audit are: in the viewer, as drawn or by their pixels, else in a folder.

::

    name ──▶ found before? ──▶ a layer with its pixels? ──▶ a file in the folder? ──▶ an error that says which image to open
                                                            opened as a layer; the one opened before is closed
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from psygnal import Signal

from napari_tally.core.audit import ImageRecord
from napari_tally.core.image_files import list_images, read_image
from napari_tally.widgets._geometry import label_shape
from napari_tally.widgets._layers import image_from_layer, is_source


class AuditImages:
    """Finds the layer of an image of an audit.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    known : dict of str to napari.layers.Image
        The layers that were found, by the names that the audit has for their images.
    changed : psygnal signal (str)
        The layer of this image has other pixels now, so it is no longer known.
    closing : psygnal signal ()
        The image that was opened from the folder is about to be closed, for the next one is opened.
    """

    changed = Signal(str)
    closing = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._records: dict[str, ImageRecord] = {}
        self._files: dict[str, Path] = {}  # for an audit of more images than the viewer holds
        self._opened: ImageLayer | None = None  # the one image that we have opened from there
        self.known: dict[str, ImageLayer] = {}

    def look_for(self, records: Iterable[ImageRecord]) -> None:
        """Look for the images of this audit from now on."""
        self._records = {record.name: record for record in records}
        self.known = {}

    def look_in(self, folder: str | Path) -> None:
        """Open what is not in the viewer from a folder; a ``ValueError`` if it has no images."""
        self._files = list_images(folder)

    def has_opened(self, layer: ImageLayer) -> bool:
        """Whether a layer is here for the audit alone."""
        return layer is self._opened

    def forget(self, gone: ImageLayer) -> None:
        """A layer is no longer in the viewer."""
        self.known = {name: layer for name, layer in self.known.items() if layer is not gone}
        if gone is self._opened:
            self._opened = None

    def find(self, name: str) -> ImageLayer:
        """Give the layer of an image.

        Raises
        ------
        ValueError
            If it is not open, or has other pixels than when the windows were drawn.
        """
        shape = self._records[name].shape
        known = self.known.get(name)
        if known is not None and known in self._viewer.layers:
            return known
        fitting = [layer for layer in self._viewer.layers if is_source(layer) and _has_shape(layer, shape)]
        for layer in sorted(fitting, key=lambda layer: layer.name != name):  # one that was renamed meanwhile has the same pixels
            if self._is_of(name, layer):
                return self._know(name, layer)
        if name in self._files:
            return self._open(name, shape)
        if any(layer.name == name for layer in fitting):
            raise ValueError(f"{name} has other pixels than when the windows were drawn. Open the image of then, and press Go there.")
        raise ValueError(
            f"The next window lies on {name} ({' × '.join(map(str, shape))} px), which is not open. Open it, then press Go there."
        )

    def _is_of(self, name: str, layer: ImageLayer) -> bool:
        """Whether a layer shows the image that windows were drawn on; of a slide its name must do."""
        mark = self._records[name].image_fingerprint
        image = image_from_layer(layer)
        return layer.name == name if image.is_lazy or not mark else image.fingerprint == mark

    def _open(self, name: str, shape: tuple[int, ...]) -> ImageLayer:
        image = read_image(self._files[name])
        if image.shape != shape:
            raise ValueError(f"{self._files[name]} has the shape {image.shape}; in the audit {name} has {shape}. Choose another folder.")
        if self._opened is not None and self._opened in self._viewer.layers:
            self.closing.emit()
            self._viewer.layers.remove(self._opened)
        data = (
            image.planes.transpose(0, 2, 3, 1).reshape(*image.shape, image.channels)
            if image.colour
            else image.planes[:, 0].reshape(image.shape)
        )
        scale: dict[str, Any] = (
            {"scale": (*[1] * (len(shape) - 2), *image.pixel_size), "units": [*["pixel"] * (len(shape) - 2), "um", "um"]}
            if image.pixel_size
            else {}
        )
        self._opened = ImageLayer(data, name=name, rgb=image.colour, **scale)
        self._viewer.layers.append(self._opened)
        return self._know(name, self._opened)

    def _know(self, name: str, layer: ImageLayer) -> ImageLayer:
        """Take a layer for an image of the audit as long as it has these pixels."""
        self.known[name] = layer
        layer.events.data.connect(self._take_pixels)
        return layer

    def _take_pixels(self, event: Any) -> None:
        for name in [name for name, layer in self.known.items() if layer is event.source]:
            del self.known[name]
            self.changed.emit(name)


def _has_shape(layer: ImageLayer, shape: tuple[int, ...]) -> bool:
    """Whether cells on a layer have this shape; false where that cannot be told."""
    try:
        return label_shape(layer) == shape
    except ValueError:
        return False
