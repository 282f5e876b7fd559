"""What does a training step cost beside the network itself, and are the estimates before Start right? Prints Markdown tables.

    python benchmarks/training_step.py

The step: forward, backward and optimiser on one fixed batch, against a whole step of the training (patches drawn and varied,
weights, checks, running average), in turns; medians. The estimates: a training of a minute on five simulated images, its time
and its peak memory, against what the plan said. The memory is that of a fresh process.
"""

import multiprocessing
import statistics
import time
from pathlib import Path

import numpy as np


def main() -> None:
    """Measure both."""
    whole, bare = _steps()
    print("| | ms a step | ratio |")
    print("|---|---|---|")
    print(f"| forward, backward, optimiser | {1e3 * bare:.1f} | 1 |")
    print(f"| a whole step of the training | {1e3 * whole:.1f} | {whole / bare:.2f} |\n")
    print("| training | estimated | measured |")
    print("|---|---|---|")
    for side, minutes in ((512, 1.0), (1024, 0.5)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            plan_seconds, plan_memory, seconds, memory = pool.apply(_training, (side, minutes))
        print(f"| five images of {side}², {minutes:g} min: time | {plan_seconds:.0f} s | {seconds:.0f} s |")
        print(f"| five images of {side}², {minutes:g} min: memory | {plan_memory / 1e9:.2f} GB | {memory / 1e9:.2f} GB |", flush=True)


def _steps(n: int = 60) -> tuple[float, float]:
    from napari_tally.core.learner import Learner
    from napari_tally.core.plan import new_model, plan_training
    from napari_tally.core.samples import PatchSampler, prepare_planes
    from napari_tally.settings import AugmentationSettings, TrainingSettings

    pairs = _pairs(512)
    plan = plan_training(pairs, TrainingSettings())
    model = new_model(plan)
    planes = prepare_planes(pairs, model.settings.channels, 1.0, model.normalisation, 10, 5)
    learner = Learner(model, plan, from_trained=False)
    learner.learn_from(PatchSampler(planes, 3, 0.0, AugmentationSettings()))
    assert learner._batches
    batch = learner._batches.next()
    times: dict[str, list[float]] = {"whole": [], "bare": []}
    for i in range(n):
        began = time.perf_counter()
        learner.step(0.1, i)
        times["whole"].append(time.perf_counter() - began)
        learner._batches._coming.result()  # the next patches must not compete with the bare step
        began = time.perf_counter()
        learner._learn(batch)
        times["bare"].append(time.perf_counter() - began)
    return statistics.median(times["whole"][5:]), statistics.median(times["bare"][5:])


def _training(side: int, minutes: float) -> tuple[float, float, float, float]:
    loaded = _peak()  # Python, and what this file imports
    from napari_tally.core.estimate import training_seconds

    pairs = _pairs(side)
    began = time.perf_counter()
    from napari_tally.core.plan import new_model, plan_training
    from napari_tally.core.start import choose_start
    from napari_tally.core.train import train
    from napari_tally.settings import TrainingSettings

    settings = TrainingSettings(minutes=minutes)
    start = choose_start("auto", pairs, settings)
    plan = plan_training(pairs, settings, start)
    for _ in train(new_model(plan, start), pairs, plan):
        pass
    seconds = time.perf_counter() - began
    pixels = sum(pair.labels.size for pair in pairs)
    return training_seconds(minutes, pixels), plan.memory, seconds, _peak() - loaded


def _peak() -> float:
    """Give the peak memory of this process in bytes (Linux; that of getrusage would be the parent's)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024.0 * int(status["VmHWM"].split()[0])


def _pairs(side: int) -> list:
    from napari_tally.core.annotations import split_pieces
    from napari_tally.core.images import as_image
    from napari_tally.core.samples import TrainingPair
    from napari_tally.sample_data import simulate_nuclei

    found = []
    for seed in range(5):
        image, labels = simulate_nuclei(seed, n=60)
        repeat = -(-side // image.shape[0])
        tiled = split_pieces(np.tile(labels, (repeat, repeat))[:side, :side])  # every copy of a nucleus is a cell of its own
        found.append(TrainingPair(as_image(np.tile(image, (repeat, repeat))[:side, :side], name=str(seed)), tiled))
    return found


if __name__ == "__main__":
    main()
