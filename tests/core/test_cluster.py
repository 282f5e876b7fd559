"""Tiles on real workers: the same labels, and the end is reached though a worker dies."""

import os
import signal

import numpy as np
import pytest
import tifffile

import napari_tally as nt
from napari_tally.core.batch import Batch, ImageDone, Working
from napari_tally.core.cluster import Cluster, connect
from napari_tally.core.events import run_to_end
from napari_tally.core.images import read_labels
from napari_tally.core.model_file import find_model
from napari_tally.settings import PredictionSettings

pytest.importorskip("distributed")


def test_nobody_at_the_address(monkeypatch):
    monkeypatch.setattr("napari_tally.core.cluster._PATIENCE", 0.2)
    with pytest.raises(ValueError, match=r"No scheduler answers at tcp://127\.0\.0\.1:1 "):
        connect("tcp://127.0.0.1:1", 0)


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
