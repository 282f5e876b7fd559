"""How well does a shipped model estimate how large the cells are, and what does it cost? Prints a Markdown table.

    python benchmarks/cell_size.py --data DIR --models nuclei=fluorescence,stain phase=phase_dev

The diameter that the model estimates for each image against the median of the drawn cells; and the cells that are found with it,
against those that are found where the true diameter is stated (`--diameter`). The sets are those of few_images.py.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from few_images import read_set

import napari_tally as nt
from napari_tally.core.events import run_to_end
from napari_tally.core.find import estimate_diameter, find_cells
from napari_tally.core.metrics import evaluate
from napari_tally.core.predict import window_for
from napari_tally.core.samples import cell_diameter
from napari_tally.settings import PredictionSettings


def main() -> None:
    """Measure every set of every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--models", nargs="+", default=["nuclei=fluorescence,stain", "phase=phase_dev"])
    arguments = parser.parse_args()
    print("| model | set | images | typical error of the diameter | worst | AP@0.5, estimated | stated | count bias, estimated | stated |")
    print("|---|---|---|---|---|---|---|---|---|")
    for wish in arguments.models:
        name, _, sets = wish.partition("=")
        for row in _rows(nt.find_model(name), arguments.data, sets.split(",")):
            print(f"| {name} | {row} |", flush=True)


def _rows(model: nt.Model, data: Path, sets: list[str]) -> Iterator[str]:
    for name in sets:
        pairs = [pair for pair in read_set(data, name) if cell_diameter([pair]) > 0]
        true = [cell_diameter([pair]) for pair in pairs]
        how = PredictionSettings()
        estimated = [run_to_end(estimate_diameter(model, pair.image, how, window_for(model, pair.image))) for pair in pairs]
        off = np.exp(np.abs(np.log(np.divide(estimated, true)))) - 1
        scores = []
        for diameters in (estimated, true):
            found = [
                run_to_end(find_cells(model, pair.image, PredictionSettings(diameter=d))).labels
                for pair, d in zip(pairs, diameters, strict=True)
            ]
            scores.append(evaluate((pair.image.name, pair.labels, labels) for pair, labels in zip(pairs, found, strict=True)))
        aps = " | ".join(f"{score.matchings[0].ap:.3f}" for score in scores)
        biases = " | ".join(f"{score.bias:+.1%}" for score in scores)
        yield f"{name} | {len(pairs)} | {np.median(off):.0%} | {off.max():.0%} | {aps} | {biases}"


if __name__ == "__main__":
    main()
