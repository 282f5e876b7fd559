"""A choice among the layers of a viewer."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from napari.components import ViewerModel
from napari.layers import Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox


class LayerCombo(QComboBox):
    """A choice among the layers of a viewer; follows layers that come, go, move and are renamed.

    Parameters
    ----------
    viewer : napari.Viewer
    accept : callable
        Which layers to offer.
    among : callable, optional
        Gives the layers to choose among, where it is quicker to find them together than to ask of each; left out, all of the viewer.
    extra : str
        An entry that stands for no layer (`layer` is None); "" = no such entry.
    extra_last : bool
        Put that entry last; else it is the first, and chosen at first.

    Attributes
    ----------
    changed : Qt signal
        Emits the layer (or None) when another is chosen, by the user or because the layer is gone.
    """

    changed = Signal(object)

    def __init__(
        self,
        viewer: ViewerModel,
        accept: Callable[[Layer], bool],
        extra: str = "",
        extra_last: bool = False,
        among: Callable[[], Iterable[Layer]] | None = None,
    ) -> None:
        super().__init__()
        self._among = among or partial(iter, viewer.layers)
        self._viewer, self._accept, self._extra, self._extra_last = viewer, accept, extra, extra_last
        self._offered: list[Layer | None] = []
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.setPlaceholderText("none yet")
        self._last: Layer | None = None
        for event in ("inserted", "removed", "reordered", "renamed"):
            getattr(viewer.layers.events, event).connect(self.follow)
        self.currentIndexChanged.connect(self._tell)
        self.follow()

    @property
    def layer(self) -> Any:
        """The chosen layer; None if there is none."""
        return self._offered[self.currentIndex()] if 0 <= self.currentIndex() < len(self._offered) else None

    @layer.setter
    def layer(self, layer: Layer | None) -> None:
        if layer in self._offered:
            self.setCurrentIndex(self._offered.index(layer))

    @property
    def layers(self) -> Sequence[Any]:
        """All layers that are offered."""
        return [layer for layer in self._offered if layer is not None]

    def follow(self, event: object = None) -> None:
        """Offer the layers that there are now, and keep the choice where it still exists."""
        chosen, kept = self.layer, self.layer is not None or not self._extra_last or len(self._offered) > 1
        self.blockSignals(True)
        self._offered = [layer for layer in self._among() if self._accept(layer)]
        if self._extra:
            self._offered.insert(len(self._offered) if self._extra_last else 0, None)
        self.clear()
        self.addItems([self._extra if layer is None else layer.name for layer in self._offered])
        self.setCurrentIndex(self._offered.index(chosen) if kept and chosen in self._offered else min(0, len(self._offered) - 1))
        self.blockSignals(False)
        self._tell()

    def _tell(self) -> None:
        if self.layer is not self._last:
            self._last = self.layer
            self.changed.emit(self._last)
