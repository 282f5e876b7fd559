"""Train the weights that the package carries.

    python benchmarks/pretrain.py nuclei --data DIR --out src/napari_tally/weights
    python benchmarks/pretrain.py phase  --data DIR --out src/napari_tally/weights
    python benchmarks/pretrain.py nuclei --data DIR --out src/napari_tally/weights --round 2    (nuclei has eight, phase has three)
    python benchmarks/pretrain.py nuclei --data DIR --out src/napari_tally/weights --finish

DIR holds nuclei_pretrain (CC0) and phase_pretrain (MIT), each as SET/images and SET/labels. Nothing else is read.
`phase` began with `nuclei` after its first round; each round goes on from what the one before wrote, with other chances and a lower
rate, the last ones without batch normalisation. The number of steps and the seed are fixed, so a run repeats itself on one machine (but
for --compile, which rounds differently).

Every image is brought to cells 20 px wide (phase contrast: 24 px) and the augmentation zooms by up to 2, so that the network
knows cells from 10 to 40 px (in the last round by up to 1.6: images are brought near that size first). Colour images come
twice, the second time in grey or with their channels exchanged; every sixth grey image comes inverted too, for dark cells on
bright ground; and simulated empty images say that noise, uneven light and hot pixels are no cells.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage as ndi

from napari_tally.core.annotations import require_labels
from napari_tally.core.image_files import match_by_stem, read_image
from napari_tally.core.images import Image
from napari_tally.core.label_files import read_labels
from napari_tally.core.model_file import Model, load_model, save_model
from napari_tally.core.plan import TrainingPlan, new_model, plan_training
from napari_tally.core.rescale import rescale, scaled_shape
from napari_tally.core.samples import TrainingPair, cell_diameter, rescale_labels
from napari_tally.core.train import Step, Validation, train
from napari_tally.settings import AugmentationSettings, CountingSettings, TrainingSettings

DIAMETER = {"nuclei": 20.0, "phase": 24.0}


class Round(NamedTuple):
    """A round: steps of four patches, the largest learning rate, the side of a patch in pixels, how much the augmentation zooms.

    `empty` images without cells are simulated for `nuclei`; where there are more than 20, with haze of all sizes. Colour images come
    `colour` times more, with their optical densities mixed at random by `mix`. Without `norm` the batch normalisation is folded into
    the weights first.
    """

    steps: int
    rate: float
    patch: int
    zoom: float
    empty: int = 20
    colour: int = 1
    norm: bool = True
    mix: float = 0.0


ROUNDS = {
    "nuclei": [
        Round(9000, 2e-3, 160, 2.0),
        Round(6000, 1.5e-3, 160, 2.0),
        Round(8000, 1.2e-3, 160, 2.0),
        Round(10000, 1.5e-3, 192, 1.6),
        Round(600, 5e-4, 192, 2.0, empty=150),  # the fourth had made it see cells in haze
        Round(8000, 1e-3, 192, 1.6, empty=150, norm=False),
        Round(5000, 8e-4, 192, 1.6, empty=150, colour=3, norm=False),
        Round(10000, 1e-3, 192, 1.6, empty=150, colour=4, norm=False, mix=0.25),
    ],
    "phase": [Round(1100, 2e-3, 160, 2.0), Round(3000, 1.5e-3, 160, 2.0), Round(3000, 1e-3, 192, 1.6, norm=False)],
}
COUNTING = {
    "nuclei": CountingSettings(valley=0.15, seed_threshold=0.5, edge_threshold=0.5),
    "phase": CountingSettings(valley=0.2, smoothing=3.0, seed_threshold=0.6, edge_threshold=0.5),  # docs/benchmarks.md
}
LICENCES = {
    "nuclei": "Weights: BSD-3-Clause. Trained on images of the Data Science Bowl 2018, Broad Bioimage Benchmark Collection BBBC038 (CC0).",
    "phase": "Weights: BSD-3-Clause. As 'nuclei' (BBBC038 (CC0)), then trained on NIH/3T3 images of Usiigaci (Tsai et al. 2019; MIT).",
}


def main() -> None:
    """Train one of the shipped models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["nuclei", "phase"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--round", type=int, choices=range(1, 9), default=1)
    parser.add_argument("--steps", type=int, default=0, help="0 = as the shipped weights")
    parser.add_argument("--base-width", type=int, default=16)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--finish", action="store_true", help="fold the normalisation, set the thresholds, write 16 bits")
    arguments = parser.parse_args()
    number, own = arguments.round - 1, arguments.out / f"{arguments.name}.safetensors"
    if arguments.finish:
        save_model(replace(load_model(own).folded(), counting=COUNTING[arguments.name]), own, half=True)
        return
    rng = np.random.default_rng(number)
    if number >= len(ROUNDS[arguments.name]):
        parser.error(f"{arguments.name} has {len(ROUNDS[arguments.name])} rounds")
    this = ROUNDS[arguments.name][number]
    pairs = _read(arguments.data / f"{arguments.name}_pretrain", DIAMETER[arguments.name])
    if arguments.name == "nuclei":
        pairs += [pair for _ in range(this.colour) for pair in _colour_again(pairs, rng, this.mix)] + _inverted(pairs)
    pairs += [_empty(rng, i, varied=this.empty > 20) for i in range(this.empty if arguments.name == "nuclei" else 2)]
    wish = {"steps": arguments.steps or this.steps, "patch": this.patch, "batch": 4, "learning_rate": this.rate}
    settings = TrainingSettings(compile=arguments.compile, seed=number, **wish)
    start = load_model(own) if number else load_model(arguments.out / "nuclei.safetensors") if arguments.name == "phase" else None
    start = start.folded() if start and not this.norm else start
    sizes = {"scale": 1.0, "scales": (1.0,) * len(pairs), "any_size": True, "diameter": DIAMETER[arguments.name]}
    plan = replace(plan_training(pairs, settings, start), **sizes)
    plan = replace(plan, network=replace(plan.network, base_width=arguments.base_width) if start is None else plan.network)
    print(f"{plan.n_images} images, {plan.n_cells} cells, {settings.steps} steps of {settings.batch} patches", flush=True)
    model = new_model(plan, start)
    model.record = {}  # else half of the images would judge the other half, which is for a handful of them
    began = f"round {number} of {arguments.name}" if number else "nuclei" if arguments.name == "phase" else "random weights"
    _train(model, pairs, plan, this.zoom, own, LICENCES[arguments.name], began)


def _train(model: Model, pairs: list[TrainingPair], plan: TrainingPlan, zoom: float, out: Path, licence: str, began: str) -> None:
    for event in train(model, pairs, plan, AugmentationSettings(scale=zoom, intensity=0.6)):
        if isinstance(event, Validation) or (isinstance(event, Step) and event.step % 50 == 0):
            print(event, flush=True)
        if isinstance(event, Validation):  # a checkpoint
            save_model(model, out)
    names = model.record["images"]
    model.record |= {
        "name": out.stem,
        "seen": [],
        "annotated": [],
        "images": [f"{len(names)} images made of the sets that the licence names"],
        "licence": licence,
        "start": began,
        "plan": [f"Start: From {began}." if line.startswith("Start:") else line for line in model.record["plan"]],
    }
    model.counting = COUNTING[out.stem]  # not those that fit a few of its own training images
    model.any_size = True
    save_model(model, out)


def _read(folder: Path, diameter: float) -> list[TrainingPair]:
    """Read a set, each image scaled so that its median cell has this diameter."""
    pairs = []
    for image_path, labels_path in match_by_stem(folder / "images", folder / "labels"):
        image = read_image(image_path)
        labels = require_labels(read_labels(labels_path), image)
        own = cell_diameter([TrainingPair(image, labels)])
        shape = scaled_shape(labels.shape, float(np.clip(diameter / own, 0.25, 2.0)) if own == own else 1.0)
        planes = rescale(image.planes[0].astype(np.float32), shape)[None]
        pairs.append(TrainingPair(Image(planes, image.name, colour=image.colour), rescale_labels(labels, shape)))
    return pairs


def _colour_again(pairs: list[TrainingPair], rng: np.random.Generator, mix: float) -> list[TrainingPair]:
    """Give every colour image once more, in grey or with its channels exchanged and their optical densities mixed: other dyes.

    What is white stays white (Tellez et al. 2019, Medical Image Analysis, vary stains in the same way).
    """
    again = []
    for pair in pairs:
        if pair.image.colour:
            planes = pair.image.planes
            grey = rng.random() < 0.4
            changed = planes.mean(axis=1, keepdims=True) if grey else planes[:, rng.permutation(3)]
            if mix and not grey:
                density = -np.log((np.clip(changed, 0, 255) + 1) / 256)  # (1, 3, Y, X)
                changed = 256 * np.exp(-np.einsum("ij,njyx->niyx", np.eye(3) + rng.normal(0, mix, (3, 3)), density)) - 1
                changed = np.clip(changed, 0, 255).astype(np.float32)
            again.append(TrainingPair(Image(changed, pair.image.name + " again", colour=not grey), pair.labels))
    return again


def _inverted(pairs: list[TrainingPair]) -> list[TrainingPair]:
    """Give every sixth grey image once more, inverted."""
    grey = [pair for pair in pairs if pair.image.channels == 1]
    return [TrainingPair(Image(255 - pair.image.planes, pair.image.name + " inverted"), pair.labels) for pair in grey[::6]]


def _empty(rng: np.random.Generator, i: int, side: int = 256, varied: bool = False) -> TrainingPair:
    """Simulate an image without cells: camera noise, uneven light, and in some hot pixels or out-of-focus haze."""
    y, x = np.mgrid[:side, :side] / side
    light = 20 * rng.random() * (rng.normal() * y + rng.normal() * x + rng.normal() * (x - 0.5) ** 2)
    planes = 100 + light + rng.normal(0, rng.uniform(0.5, 5), (side, side))
    if i % 3 == 1:
        planes[tuple(rng.integers(0, side, (2, 30)))] += rng.uniform(20, 500)
    if i % 3 == 2 and not varied:
        planes += 40 * ndi.gaussian_filter(rng.normal(0, 25, (side, side)), 25)
    elif i % 3 == 2 or (varied and i % 3 == 0):
        haze = ndi.gaussian_filter(rng.normal(0, 1, (side, side)), rng.uniform(6, 45))
        planes += rng.uniform(3, 20) / haze.std() * haze
    return TrainingPair(Image(planes.astype(np.float32)[None, None], f"empty {i}"), np.zeros((side, side), np.int32))


if __name__ == "__main__":
    main()
