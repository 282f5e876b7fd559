"""Whatever happens in the middle of work, the window stays usable and says once what went wrong."""

import errno

import numpy as np
import pytest
import tifffile
import torch
from napari.components import ViewerModel
from napari.utils.notifications import notification_manager
from pictures import discs
from qtpy.QtCore import QObject, Qt

from napari_tally.core.audit_file import read_audit
from napari_tally.core.model_file import Model, build_network
from napari_tally.settings import NetworkSettings
from napari_tally.widgets._job import Job
from napari_tally.widgets._layers import annotation_of, belong
from napari_tally.widgets._session import session
from napari_tally.widgets.annotate import AnnotateWidget
from napari_tally.widgets.audit import AuditWidget
from napari_tally.widgets.batch import BatchWidget
from napari_tally.widgets.predict import PredictWidget
from napari_tally.widgets.train import TrainWidget

LABELS = discs((96, 128), (20, 20, 9), (20, 60, 10), (60, 25, 9), (58, 66, 11), (30, 100, 9), (70, 105, 9), (45, 42, 8), (80, 50, 9))
PICTURE = (200 * (LABELS > 0) + np.random.default_rng(0).normal(100, 5, LABELS.shape)).clip(0).astype(np.uint16)
SMALL = NetworkSettings(base_width=2, depth=1)

ERRORS = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),  # what torch raises, and superqt's own worker swallows
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    ValueError("The image is odd."),
    OSError(errno.ENOSPC, "No space left on device", "a.tif"),
    KeyError("x"),
    ZeroDivisionError("division by zero"),
    RecursionError("maximum recursion depth exceeded"),
    AssertionError(),
    NotImplementedError(),
    StopIteration(),
    SystemExit(1),
    KeyboardInterrupt(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
]


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_TALLY_STATE", str(tmp_path / "state"))


@pytest.fixture
def click(qtbot):
    return lambda button: qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


@pytest.fixture
def notices():
    before = len(notification_manager.records)
    return lambda: notification_manager.records[before:]


def fill(viewer):
    viewer.add_image(PICTURE, name="wells")
    viewer.add_labels(LABELS.copy(), name="drawn")
    network = build_network(SMALL).eval()
    session(viewer).put(Model(network, SMALL), "small")
    return viewer


@pytest.fixture
def make(qtbot):
    """Make a widget of a kind that is still at the end."""
    made = []

    def make(kind, viewer):
        widget = kind(viewer)
        made.append(widget)
        if kind is TrainWidget:
            widget.expert["steps"].value, widget.expert["patch"].value = 5000, 32
            widget.start_from.setCurrentIndex(widget.start_from.findData("none"))
            session(viewer).saved = True
        return widget

    yield make
    for widget in made:
        job_of(widget).stop()
        qtbot.waitUntil(lambda: not job_of(widget).is_active)  # noqa: B023
        widget.close()


def job_of(widget):
    if isinstance(widget, AnnotateWidget):
        return widget.check._job
    return widget._finding if isinstance(widget, PredictWidget) else widget._job


def begin(widget, click):
    click(widget.start_button if isinstance(widget, TrainWidget) else widget.run_button)


def idle(widget, qtbot):
    qtbot.waitUntil(lambda: not job_of(widget).is_active)


def raises(error):
    def generator(*_, **__):
        raise error
        yield

    return generator


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_any_kind_is_said_once(qtbot, notices, error):
    parent = QObject()
    job = Job(parent)
    job.start(raises(error))
    qtbot.waitUntil(lambda: not job.is_active)
    assert job.state == "failed"
    (notice,) = notices()
    assert notice.message.strip()
    assert "\n" not in notice.message.strip()
    job.start(lambda: iter_nothing())
    qtbot.waitUntil(lambda: job.state == "done")
    assert len(notices()) == 1


def iter_nothing():
    yield from ()


SOME = [ERRORS[0], ERRORS[1], ERRORS[4], ERRORS[11]]


@pytest.mark.parametrize("error", SOME, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("kind", "place"), [(TrainWidget, "core.train.train"), (PredictWidget, "core.find.find_cells")])
def test_after_an_error_the_next_run_works(make, qtbot, click, notices, monkeypatch, kind, place, error):
    viewer = fill(ViewerModel())
    widget = make(kind, viewer)
    monkeypatch.setattr(f"napari_tally.{place}", raises(error))
    begin(widget, click)
    idle(widget, qtbot)
    said = [notice.message for notice in notices()]
    assert len(said) == 1
    monkeypatch.undo()
    if kind is TrainWidget:
        widget.expert["steps"].value = 1
    begin(widget, click)
    idle(widget, qtbot)
    assert job_of(widget).state == "done"
    assert len(notices()) == len(said)


@pytest.mark.parametrize("kind", [TrainWidget, PredictWidget])
def test_closing_napari_in_the_middle(make_napari_viewer, make, qtbot, click, notices, kind):
    viewer = fill(make_napari_viewer())
    viewer.add_image(np.tile(PICTURE, (8, 8)), name="large")
    widget = kind(viewer)  # it goes with the window
    viewer.window.add_dock_widget(widget)
    if kind is TrainWidget:
        widget.expert["steps"].value, widget.expert["patch"].value = 5000, 32
    else:
        widget.how["tile"].value = 64
        widget.image_choice.setCurrentIndex(widget.image_choice.findText("large"))
    begin(widget, click)
    qtbot.waitUntil(lambda: job_of(widget).is_active)
    task = job_of(widget)._task
    viewer.close()
    qtbot.waitUntil(lambda: task.outcome is not None)
    assert task.outcome[0] in ("stopped", "done")
    assert notices() == []


@pytest.mark.parametrize("what", ["delete", "rename", "reorder", "replace", "all"])
@pytest.mark.parametrize("kind", [TrainWidget, PredictWidget])
def test_layers_change_under_the_work(make, qtbot, click, notices, kind, what):
    viewer = fill(ViewerModel())
    widget = make(kind, viewer)
    if kind is TrainWidget:
        widget.expert["steps"].value = 10
        widget.preview.setChecked(False)
    begin(widget, click)
    image = viewer.layers["wells"]
    if what == "delete":
        viewer.layers.remove(image)
    elif what == "rename":
        image.name = "other"
    elif what == "reorder":
        viewer.layers.move(0, 2)
    elif what == "replace":
        image.data = PICTURE[:50, :60]
    else:
        viewer.layers.clear()
    idle(widget, qtbot)
    assert job_of(widget).state in ("done", "failed", *["stopped"] * (what in ("delete", "all")))  # there is nothing left to count
    assert len(notices()) == (job_of(widget).state == "failed")
    viewer.layers.clear()
    fill(viewer)
    if kind is TrainWidget:
        widget.expert["steps"].value = 1
        session(viewer).saved = True
    begin(widget, click)
    idle(widget, qtbot)
    assert job_of(widget).state == "done"


@pytest.mark.parametrize("what", ["image", "labels", "region", "all"])
def test_layers_go_while_cells_are_drawn(make, qtbot, click, notices, what):
    viewer = ViewerModel()
    image = viewer.add_image(PICTURE, name="wells")
    widget = make(AnnotateWidget, viewer)
    click(widget.start_button)
    labels = annotation_of(viewer, image)
    labels.paint((20, 20), 1)
    click(widget.check_button)
    if what == "all":
        viewer.layers.clear()
    else:
        viewer.layers.remove({"image": image, "labels": labels, "region": viewer.layers["wells region"]}[what])
    idle(widget, qtbot)
    widget._keeper.flush()
    assert notices() == []
    viewer.layers.clear()
    again = viewer.add_image(PICTURE, name="next")
    widget.image_choice.layer = again
    click(widget.start_button)
    annotation_of(viewer, again).paint((20, 20), 1)
    qtbot.waitUntil(lambda: widget.count_text.text() == "1 cell drawn")


def test_two_viewers_at_once(make, qtbot, click, notices):
    """Two trainings and a prediction side by side: each viewer gets its own."""
    one, two = fill(ViewerModel()), fill(ViewerModel())
    first, second, third = make(TrainWidget, one), make(TrainWidget, two), make(PredictWidget, two)
    first.expert["steps"].value, second.expert["steps"].value = 20, 30
    for widget in (first, second, third):
        begin(widget, click)
    for widget in (first, second, third):
        idle(widget, qtbot)
    assert (session(one).model.record["steps"], session(two).model.record["steps"]) == (20, 30)
    assert "wells labels" in two.layers
    assert "wells labels" not in one.layers
    assert notices() == []


def test_memory_comes_back_after_a_failure(make, qtbot, click, monkeypatch):
    """What a training that failed had made is gone when the next begins: no restart is needed."""
    import gc
    import weakref

    viewer = fill(ViewerModel())
    widget = make(TrainWidget, viewer)
    made = []

    def breaks(model, *_, **__):
        made.append(weakref.ref(model))
        raise torch.OutOfMemoryError("CUDA out of memory.")
        yield

    monkeypatch.setattr("napari_tally.core.train.train", breaks)
    begin(widget, click)
    idle(widget, qtbot)
    gc.collect()
    assert len(made) == 1
    assert made[0]() is None


# --- closing, in the middle of each kind of work -----------------------------------------------------


def begin_to_annotate(viewer, qtbot, click, folder):
    widget = AnnotateWidget(viewer)
    click(widget.start_button)
    annotation_of(viewer, viewer.layers["wells"]).paint((20, 20), 1)
    return widget, lambda: None


def begin_an_audit(viewer, qtbot, click, folder):
    widget = AuditWidget(viewer)
    widget.settings["windows"].value, widget.settings["window"].value = 6, 40
    widget.start(folder / "audit.json")
    qtbot.waitUntil(lambda: widget._frame.is_shown)
    viewer.layers["Click on cells"].add([widget._frame.window.top + 1.0, widget._frame.window.left + 1.0])
    return widget, lambda: sum(map(len, read_audit(folder / "audit.json").clicks.values())) == 1


def begin_to_predict(viewer, qtbot, click, folder):
    viewer.add_image(np.tile(PICTURE, (8, 8)), name="large")
    widget = PredictWidget(viewer)
    widget.how["tile"].value = 64
    widget.image_choice.setCurrentIndex(widget.image_choice.findText("large"))
    click(widget.run_button)
    qtbot.waitUntil(lambda: job_of(widget).is_active)
    task = job_of(widget)._task
    return widget, lambda: task.outcome is not None


def begin_a_batch(viewer, qtbot, click, folder):
    (folder / "images").mkdir()
    for n in range(5):  # few: while something still holds the widget of a closed dock, the work goes on to its end
        tifffile.imwrite(folder / "images" / f"{n}.tif", PICTURE)
    widget = BatchWidget(viewer)
    widget.add([folder / "images"])
    widget.put_out(folder / "counts")
    click(widget.start_button)
    qtbot.waitUntil(lambda: widget._job.is_active)
    task = widget._job._task
    return widget, lambda: task.outcome is not None


BEGIN = [begin_to_annotate, begin_an_audit, begin_to_predict, begin_a_batch]


@pytest.mark.parametrize("begin_work", BEGIN)
@pytest.mark.parametrize("what", ["dock", "napari"])
def test_closing_in_the_middle(make_napari_viewer, qtbot, click, notices, tmp_path, begin_work, what):
    """The work ends, what was clicked is kept, and after a dock the window is usable: the same work can begin anew."""
    viewer = fill(make_napari_viewer(show=True))
    belong(viewer.layers["drawn"], "prediction", viewer.layers["wells"])
    (tmp_path / "1").mkdir()
    widget, is_over = begin_work(viewer, qtbot, click, tmp_path / "1")
    docked = viewer.window.add_dock_widget(widget)
    qtbot.waitUntil(widget.isVisible)
    if what == "dock":
        docked.destroyOnClose()  # what the x of the dock does
    else:
        viewer.close()
    del widget, docked
    qtbot.waitUntil(lambda: is_over() is not False)
    if what == "dock":
        viewer.layers["wells"].name = "renamed"
        viewer.layers.clear()
        fill(viewer)
        belong(viewer.layers["drawn"], "prediction", viewer.layers["wells"])
        (tmp_path / "2").mkdir()
        again, is_over = begin_work(viewer, qtbot, click, tmp_path / "2")
        viewer.window.add_dock_widget(again)
        qtbot.waitUntil(again.isVisible)
        viewer.close()
        qtbot.waitUntil(lambda: is_over() is not False)
    assert notices() == []


def test_a_layer_that_goes_with_the_brush_on_it_leaves_a_picture_without_it(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(PICTURE)
    labels = viewer.add_labels(np.eye(64, dtype=int))
    session(viewer)
    labels.mode = "paint"
    viewer.mouse_over_canvas = True
    viewer.screenshot(flash=False)  # with the circle of the brush
    viewer.layers.remove(labels)
    assert viewer.screenshot(flash=False).any()  # it crashed here
    assert labels.mode == "pan_zoom"


def test_a_layer_goes_with_the_brush_on_it_where_the_canvas_has_no_room(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    labels = viewer.add_labels(np.eye(64, dtype=int))
    session(viewer)
    labels.mode = "paint"
    canvas = viewer.window._qt_viewer.canvas.native
    canvas.setMinimumSize(0, 0)
    canvas.resize(0, 0)
    viewer.layers.remove(labels)
    assert not viewer.layers
