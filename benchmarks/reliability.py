"""What a crash takes: work is killed (SIGKILL) at random moments, again and again, and what is lost is measured.

    python benchmarks/reliability.py                    50 times each; about five minutes on two cores
    python benchmarks/reliability.py --times 5 --only training

Three kinds of work, each in a process of its own:

- training: a checkpoint every half second (in the program: every 10 seconds); each time it goes on from the last one, and in the
  end the model must be that of a training that nobody interrupted, to the bit;
- drawing: ten strokes a second, the journal half a second after a stroke, as in the window;
- model file: a model is saved again and again over the one before.

Exits with 1 if a file was half written, the model is another one, or more was lost than docs/reliability.md promises.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import napari_tally as nt
from napari_tally.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from napari_tally.core.images import as_image
from napari_tally.core.journal import Journal, read_journal
from napari_tally.core.model_file import Model, build_network, load_model, save_model
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import TrainingPair
from napari_tally.core.train import Step, train
from napari_tally.settings import NetworkSettings, TrainingSettings

_fork = multiprocessing.get_context("fork")  # torch is imported once; nothing is computed before the fork
SMALL = NetworkSettings(base_width=2, depth=2)
STEPS, EVERY = 40, 0.5
STROKES, PAUSE, DELAY = 2000, 0.1, 0.5
PROMISED = {"training": EVERY + 5.0, "drawing": 2.0}
"""Seconds. Of a training: between two checkpoints, and what a busy computer takes for one."""


def killed(work: Callable[..., None], seconds: float, *arguments: Any, since: Any = None) -> bool:
    """Run work in a process and kill it so many seconds after `since` was set; whether it was still running."""
    process = _fork.Process(target=work, args=arguments)
    process.start()
    while since is not None and not since.value and process.is_alive():
        process.join(0.01)
    process.join(seconds)
    running = process.is_alive()
    if running:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    if not running and process.exitcode:
        raise SystemExit(f"{work.__name__} failed")
    return running


def half_written(folder: Path) -> int:
    """Count files that carry their final name and cannot be read."""
    bad = 0
    readers = {".unfinished": load_checkpoint, ".safetensors": load_model, ".journal": read_journal}
    for path in folder.iterdir():
        if not path.name.startswith("."):
            try:
                readers[path.suffix](path)
            except ValueError as error:
                print(error, file=sys.stderr)
                bad += 1
    return bad


# ------------------------------------------------------------------ training


def _pairs() -> list[TrainingPair]:
    picture, labels = nt.simulate_nuclei(seed=1, n=20)
    return [TrainingPair(as_image(picture, name="nuclei"), labels.astype(np.int32))]


def training(folder: str, active: Any, every: float, steps: int) -> None:
    """Train to the end, from the last checkpoint where there is one."""
    import torch

    torch.set_num_threads(1)
    path, pairs = Path(folder, "m.unfinished"), _pairs()
    resume = load_checkpoint(path) if path.exists() else None
    if resume:
        model, plan = resume.model(), resume.plan
    else:
        torch.manual_seed(0)
        model = Model(build_network(SMALL).eval(), SMALL)
        plan = plan_training(pairs, TrainingSettings(steps=steps, patch=32, device="cpu"), model)
        model = new_model(plan, model)
    for event in train(model, pairs, plan, checkpoint_seconds=every, resume=resume):
        if isinstance(event, Checkpoint):
            save_checkpoint(event, path)
        if isinstance(event, Step):
            active.value = model.record["seconds"]
    save_model(model, Path(folder, "m.safetensors"))


def campaign_training(times: int, rng: np.random.Generator) -> tuple[str, bool]:
    folder, reference = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    active = _fork.Value("d", 0.0)
    steps = STEPS * times
    killed(training, 600, str(reference), active, 0.0, steps)
    lost, kills, bad = [], 0, 0
    while kills < times and not (folder / "m.safetensors").exists():
        active.value = 0.0
        if not killed(training, rng.uniform(0, 2), str(folder), active, EVERY, steps, since=active):
            break
        kills += 1
        bad += half_written(folder)
        kept = load_checkpoint(folder / "m.unfinished").place.active if (folder / "m.unfinished").exists() else 0.0
        lost.append(max(0.0, active.value - kept))
    killed(training, 600, str(folder), active, EVERY, steps)
    ours, theirs = (load_model(f / "m.safetensors").network.state_dict() for f in (folder, reference))
    same = all(np.array_equal(ours[name], theirs[name]) for name in ours)
    resumed = len(load_model(folder / "m.safetensors").record["resumed"])
    shutil.rmtree(folder)
    shutil.rmtree(reference)
    text = (
        f"| training | {kills} | {np.median(lost):.1f} s, at most {max(lost):.1f} s (a checkpoint every {EVERY:g} s) | {bad} | "
        f"taken up {resumed} times; the model is {'the same to the bit' if same else 'ANOTHER ONE'} |"
    )
    return text, same and not bad and max(lost) <= PROMISED["training"]


# ------------------------------------------------------------------ drawing


def strokes(upto: int) -> np.ndarray:
    """Give the drawing after so many strokes."""
    labels = np.zeros((600, 800), np.int32)
    rng = np.random.default_rng(3)
    for n in range(1, upto + 1):
        y, x = rng.integers(0, 570), rng.integers(0, 770)
        labels[y : y + 30, x : x + 30] = n
    return labels


def whole_strokes(found: np.ndarray) -> int | None:
    """Count the strokes that are whole; a part of later ones, drawn while the journal was written, may be there. None: no such drawing."""
    for n in range(int(found.max()), -1, -1):
        wanted = strokes(n)
        if np.array_equal(found[found <= n], wanted[found <= n]):
            return n
    return None


def drawing(folder: str, times: Any) -> None:
    """Draw; beside it a thread writes the journal as the window does."""
    labels, rng = np.zeros((600, 800), np.int32), np.random.default_rng(3)
    journal, drawn = Journal(Path(folder, "d.journal"), {}), threading.Event()

    def keep() -> None:
        while drawn.wait():
            time.sleep(DELAY)
            drawn.clear()
            journal.write(labels)

    threading.Thread(target=keep, daemon=True).start()
    for n in range(1, STROKES + 1):
        y, x = rng.integers(0, 570), rng.integers(0, 770)
        labels[y : y + 30, x : x + 30] = n
        times[n] = time.time()
        drawn.set()
        time.sleep(PAUSE)


def campaign_drawing(times: int, rng: np.random.Generator) -> tuple[str, bool]:
    lost, bad = [], 0
    for _ in range(times):
        folder = Path(tempfile.mkdtemp())
        stamps = _fork.Array("d", STROKES + 1)
        killed(drawing, rng.uniform(0.3, 4), str(folder), stamps)
        now, done = time.time(), int(np.count_nonzero(np.array(stamps[:])))
        bad += half_written(folder)
        path = folder / "d.journal"
        found = read_journal(path).labels if path.exists() else strokes(0)
        kept = whole_strokes(found)
        bad += kept is None
        lost.append(now - stamps[(kept or 0) + 1] if (kept or 0) < done else 0.0)
        shutil.rmtree(folder)
    text = f"| drawing | {times} | {np.median(lost):.1f} s, at most {max(lost):.1f} s of strokes | {bad} | every drawing came back |"
    return text, not bad and max(lost) <= PROMISED["drawing"]


# ------------------------------------------------------------------ model files


def saving(folder: str) -> None:
    """Save a model again and again."""
    import torch

    torch.set_num_threads(1)
    network = NetworkSettings(base_width=16, depth=4)
    model = Model(build_network(network).eval(), network)
    while True:
        save_model(model, Path(folder, "m.safetensors"))


def campaign_saving(times: int, rng: np.random.Generator) -> tuple[str, bool]:
    folder, bad = Path(tempfile.mkdtemp()), 0
    for _ in range(times):
        killed(saving, rng.uniform(0.3, 1.5), str(folder))
        bad += half_written(folder)
    left = len([path for path in folder.iterdir() if path.name.startswith(".")])
    shutil.rmtree(folder)
    return f"| model file | {times} | nothing | {bad} | {left} unfinished files under names of their own |", not bad


CAMPAIGNS = {"training": campaign_training, "drawing": campaign_drawing, "saving": campaign_saving}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--only", choices=CAMPAIGNS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| killed while | times | work lost | files half written | |\n|---|---|---|---|---|")
    good = True
    for name in [arguments.only] if arguments.only else CAMPAIGNS:
        text, held = CAMPAIGNS[name](arguments.times, np.random.default_rng(arguments.seed))
        print(text, flush=True)
        good &= held
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
