"""Where the widgets of one viewer meet: the model they share, and what one tells the others."""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, finalize, ref

from napari.layers import Labels
from psygnal import Signal

import napari_tally
from napari_tally.settings import CountingSettings, PredictionSettings, RuleSettings
from napari_tally.widgets._counted import CountedImages
from napari_tally.widgets._unsaved import keep_model, leave_model, let_model_go

if TYPE_CHECKING:
    from napari_tally.core.model_file import Model

Way = tuple[CountingSettings, PredictionSettings, RuleSettings]

SHIPPED = sorted((Path(napari_tally.__file__).parent / "weights").glob("*.safetensors"))
"""Files of the models that come with the package (found here without torch; the engine's list is `model_file.shipped_models`)."""

_sessions: "WeakKeyDictionary[Any, Session]" = WeakKeyDictionary()


def usual_way(model: "Model | None") -> Way:
    """Give the way to count that a model stands for, where the user wants nothing else."""
    return model.counting if model else CountingSettings(), PredictionSettings(), RuleSettings()


class Session:
    """The current model of a viewer, and what was counted in it.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel

    Attributes
    ----------
    model : Model or None
        Never changed in place once it is here: training works on its own copy and puts a new one. So
        whoever takes it may use it as long as he likes, also while training goes on.
    model_name : str
        What to call it: the name of its file, or words for one that is not saved.
    model_source : str
        Where it comes from, for the record of a run: the path of its file, the name of a shipped model, or words.
    saved : bool
        Whether it is in a file.
    model_changed : psygnal signal (object)
        The new model, or None.
    counted : CountedImages
        The newest count of each image. It outlives the dock.
    way : tuple of CountingSettings, PredictionSettings and RuleSettings, or None
        How the user wants cells to be found and counted; None = as the model says.
    way_changed : psygnal signal (object)
        It, after a change.
    cells_mended : psygnal signal ()
        Cells of some prediction were mended by hand.
    """

    model_changed = Signal(object)
    way_changed = Signal(object)
    cells_mended = Signal()

    def __init__(self, viewer: Any) -> None:
        self.counted = CountedImages(viewer)
        self.model: Model | None = None
        self.model_name = self.model_source = ""
        self.saved = True
        self._folder = Path()  # where the model is kept that is not saved
        self._kept: finalize[..., Session] | None = None  # what to do when nobody has it any more
        self.way: Way | None = None

    def put(self, model: "Model | None", name: str | Path = "", saved: bool = True, source: str = "", keep: bool = True) -> None:
        """Make `model` the current one; `name` is its file, or what to call it.

        One that is not saved is kept until it is, or until another comes; without `keep`, in the middle of a training, that of before
        stays kept.
        """
        if self.way and not (model and self.model and model.counting == self.model.counting):
            self.put_way(None)  # it was for another model
        self.model, self.saved = model, saved
        self.model_name = name.stem if isinstance(name, Path) else name
        self.model_source = source or (self.model_name if name in SHIPPED else str(name))
        if keep:
            self._keep(None if saved or model is None else keep_model(model, self.model_name))
        self.model_changed.emit(model)

    def _keep(self, folder: Path | None) -> None:
        """Keep what is in this folder until it is saved, instead of what was kept before."""
        if self._kept:
            self._kept.detach()
            let_model_go(self._folder)
        if folder:
            self._folder, self._kept = folder, finalize(self, leave_model, folder)
        else:
            self._kept = None

    def put_way(self, way: "Way | None") -> None:
        """Count in this way from now on."""
        self.way = way
        self.way_changed.emit(way)


def session(viewer: Any) -> Session:
    """Give the session of a viewer; the same for all its widgets, gone with the viewer.

    Parameters
    ----------
    viewer : napari.Viewer, ViewerModel, or napari's proxy of one
    """
    viewer = unwrap(viewer)
    if viewer not in _sessions:
        _sessions[viewer] = Session(viewer)
        viewer.layers.events.removing.connect(partial(_put_brush_down, ref(viewer)))
    return _sessions[viewer]


def _put_brush_down(viewer: "ref[Any]", event: Any) -> None:
    """A layer is about to go: put its brush down, and draw once without the circle of the brush.

    Where OpenGL is computed by the processor, the first picture after the circle of the brush (vispy's AggLine) crashes if the layer is
    gone by then: what the circle needed is still switched on, and points into the layer's memory.
    """
    layer = event.source[event.index]
    if isinstance(layer, Labels) and layer.mode != "pan_zoom":
        layer.mode = "pan_zoom"
        if draw := getattr(viewer(), "screenshot", None):  # there is a window
            with suppress(ValueError):  # it is minimised, or has no room for the canvas: there is no picture
                draw(flash=False)


def unwrap(viewer: Any) -> Any:
    """Give the viewer behind the proxy that napari hands to plugins: each widget gets another proxy, and none lasts."""
    return getattr(viewer, "__wrapped__", viewer)
