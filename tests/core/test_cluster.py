"""Tiles on real workers: the same labels, and the end is reached though a worker dies."""

import os
import signal

import numpy as np
import pytest
import tifffile

import napari_tally as nt
from napari_tally.core.batch import Batch
from napari_tally.core.cluster import Cluster, _compute, _Task, connect, gpu_of
from napari_tally.core.done import ImageDone, Working
from napari_tally.core.events import run_to_end
from napari_tally.core.files import file_state
from napari_tally.core.label_files import read_labels
from napari_tally.core.model_file import find_model
from napari_tally.settings import PredictionSettings

pytest.importorskip("distributed")


def test_nobody_at_the_address(monkeypatch):
    monkeypatch.setattr("napari_tally.core.cluster._PATIENCE", 0.2)
    with pytest.raises(ValueError, match=r"No scheduler answers at tcp://127\.0\.0\.1:1 "):
        connect("tcp://127.0.0.1:1", 0)


@pytest.mark.parametrize(
    ("worker", "gpus", "number"),
    [
        ("tcp://10.0.0.1:40001", 2, 0),
        ("tcp://10.0.0.1:40002", 2, 1),
        ("tcp://10.0.0.1:40003", 2, 0),  # more workers than GPUs: they share
        ("tcp://10.0.0.1:40003", 4, 2),
        ("tcp://10.0.0.2:40009", 4, 0),  # each machine counts for itself
        ("tcp://10.0.0.2:39000", 4, 0),  # came later
        ("tls://[::1]:5", 2, 0),
    ],
)
def test_workers_of_a_machine_take_one_gpu_each(worker, gpus, number):
    workers = [f"tcp://10.0.0.{host}" for host in ("1:40003", "1:40001", "2:40009", "1:40002")]
    assert gpu_of(worker, workers, gpus) == number


def test_a_tile_that_comes_late_ends_nowhere(tmp_path):
    """Two workers compute one tile, for the first seemed dead: each writes a file of its own, and only one is named to who asked."""
    tifffile.imwrite(tmp_path / "a.tif", nt.simulate_nuclei(shape=(64, 64), seed=0)[0])
    model = find_model("nuclei")
    task = _Task(
        "nuclei",
        model.fingerprint,
        str(tmp_path / "a.tif"),
        None,
        PredictionSettings(diameter=20, device="cpu"),
        model.counting,
        ((0.0, 255.0),),
        tuple(file_state(tmp_path / "a.tif")),
        0,
    )
    (tmp_path / "run").mkdir()
    (first, _), (second, top) = (_compute(task, 0, ((0, 64), (0, 64)), str(tmp_path / "run"), ()) for _ in range(2))
    assert first != second
    assert np.load(tmp_path / "run" / second)["hills"].max() == len(top.heights)
    with pytest.raises(FileNotFoundError):  # the run is over: there is no place for what is late
        _compute(task, 0, ((0, 64), (0, 64)), str(tmp_path / "gone"), ())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of distributed, when its processes go
def test_two_workers_one_killed_give_the_labels_of_one_process(tmp_path):
    picture, _ = nt.simulate_nuclei(shape=(1100, 1100), seed=0)
    tifffile.imwrite(tmp_path / "a.tif", picture)
    model, settings = find_model("nuclei"), PredictionSettings(diameter=20, tile=512, device="cpu")
    run_to_end(Batch(model, "nuclei", tmp_path / "here", settings, model.counting).run([tmp_path / "a.tif"]))
    with connect("", 2) as client:
        runner = Cluster(client, "nuclei", model.fingerprint, 1)
        batch = Batch(model, "nuclei", tmp_path / "there", settings, model.counting, runner=runner)
        killed, done = False, []
        for event in batch.run([tmp_path / "a.tif"]):
            if isinstance(event, Working) and event.tile and event.tile.done >= 1 and not killed:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
                killed = True
            done += [event] if isinstance(event, ImageDone) else []
    assert killed
    assert len(done) == 1
    np.testing.assert_array_equal(*(read_labels(tmp_path / where / "labels" / "a.tif") for where in ("here", "there")))
    assert [path.name for path in (tmp_path / "there" / "labels").iterdir()] == ["a.tif"]
