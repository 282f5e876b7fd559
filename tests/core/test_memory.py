"""Memory that really runs out while a model is trained or predicts: a process of its own, to which the system gives no more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STATUS = """
import gc, resource
import numpy as np, torch

torch.set_num_threads(1)
MB = 1e6


def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def allow(more):
    resource.setrlimit(resource.RLIMIT_AS, (int(status("VmSize") + more), resource.RLIM_INFINITY))
"""

TRAINS = """
from pictures import discs
from napari_tally.core.images import as_image
from napari_tally.core.model_file import Model, build_network
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import TrainingPair
from napari_tally.core.train import Trouble, train
from napari_tally.settings import NetworkSettings, TrainingSettings

network = NetworkSettings(base_width=16, depth=1)
labels = discs((160, 160), (30, 30, 10), (80, 60, 9), (50, 110, 11), (120, 120, 10), (130, 40, 8), (90, 140, 8))


def cells(repeat=1):
    many = np.tile(labels, (repeat, repeat))
    return [TrainingPair(as_image(100.0 * (many > 0), name="cells"), many)]


def trained(pairs, batch, patch):
    start = Model(build_network(network).eval(), network)
    plan = plan_training(pairs, TrainingSettings(steps=3, patch=patch, batch=batch, device="cpu"), start)
    model = new_model(plan, start)
    news = list(train(model, pairs, plan))
    assert news[-1].step == 3
    assert all(tensor.isfinite().all() for tensor in model.network.state_dict().values())
    return [event.message for event in news if isinstance(event, Trouble)]


small, large = cells(), cells(16)
assert not trained(small, 1, 32)  # what every run needs, the threads, is there from now on
allow(120 * MB)
said = trained(small, 16, 128)
print("halved", len(said), said[-1])
before = status("VmRSS")
for _ in range(2):
    try:
        trained(large, 1, 32)
    except (MemoryError, RuntimeError) as error:
        print("failed", type(error).__name__, str(error)[:60])
    gc.collect()
print("kept", round((status("VmRSS") - before) / MB))
print("again", trained(small, 1, 32))
"""

PREDICTS = """
from napari_tally.core.events import run_to_end
from napari_tally.core.find import find_cells
from napari_tally.core.images import as_image
from napari_tally.core.model_file import Model, build_network
from napari_tally.settings import NetworkSettings, PredictionSettings

torch.manual_seed(0)
network = NetworkSettings(base_width=16, depth=2)
model = Model(build_network(network).eval(), network)
picture = np.random.default_rng(0).normal(100, 20, (1400, 1400)).astype(np.float32)


def found():
    return run_to_end(find_cells(model, as_image(picture, name="noise"), PredictionSettings(device="cpu"), keep=False)).labels


want = found()
gc.collect()
print("took", (status("VmPeak") - status("VmSize")) / MB)
allow(220 * MB)
print("equal", np.array_equal(found(), want))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_a_training_without_memory_goes_on_smaller_and_the_next_one_works():
    halved, *failed, kept, again = _run(TRAINS)
    assert "Training goes on with" in halved
    assert len(failed) == 2
    assert all(line.startswith("failed MemoryError") for line in failed)
    assert int(kept.split()[1]) < 60
    assert again == "again []"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_a_prediction_without_memory_goes_on_in_halves_and_finds_the_same():
    took, equal = _run(PREDICTS)
    assert float(took.split()[1]) > 300  # half as much again as the limit: a tile does not fit
    assert equal == "equal True"


def _run(script: str) -> list[str]:
    # What is freed shall be free at once, not kept for later by the C library: the limit counts what is kept.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", STATUS + script], capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
