"""Memory that really runs out while a model is trained: a process of its own, to which the system gives no more."""

import subprocess
import sys
from pathlib import Path

import pytest

TRAINS = """
import gc, resource
import numpy as np, torch
from pictures import discs
from napari_tally.core.images import as_image
from napari_tally.core.model_file import Model, build_network
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import TrainingPair
from napari_tally.core.train import Trouble, train
from napari_tally.settings import NetworkSettings, TrainingSettings

torch.set_num_threads(1)
MB = 1e6
network = NetworkSettings(base_width=16, depth=1)
labels = discs((160, 160), (30, 30, 10), (80, 60, 9), (50, 110, 11), (120, 120, 10), (130, 40, 8), (90, 140, 8))


def cells(repeat=1):
    many = np.tile(labels, (repeat, repeat))
    return [TrainingPair(as_image(100.0 * (many > 0), name="cells"), many)]


def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def trained(pairs, batch, patch):
    start = Model(build_network(network).eval(), network)
    plan = plan_training(pairs, TrainingSettings(steps=3, patch=patch, batch=batch, device="cpu"), start)
    model = new_model(plan, start)
    news = list(train(model, pairs, plan))
    assert news[-1].step == 3
    assert all(tensor.isfinite().all() for tensor in model.network.state_dict().values())
    return [event.message for event in news if isinstance(event, Trouble)]


def allow(more):
    resource.setrlimit(resource.RLIMIT_AS, (int(status("VmSize") + more), resource.RLIM_INFINITY))


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


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_a_training_without_memory_goes_on_smaller_and_the_next_one_works():
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    halved, *failed, kept, again = done.stdout.splitlines()
    assert "Training goes on with" in halved
    assert len(failed) == 2
    assert all(line.startswith("failed MemoryError") for line in failed)
    assert int(kept.split()[1]) < 60
    assert again == "again []"
