"""Which valley and smoothing suit a shipped model? Prints a Markdown table; nothing is written.

    python benchmarks/thresholds.py --weights src/napari_tally/weights/nuclei.safetensors --data DIR --set nuclei_pretrain

DIR holds SET/images and SET/labels (or set NAPARI_TALLY_DATA). Every image is looked at once, then its cells are told apart with each
valley and smoothing. `--images N` takes N of the set at random (always the same), large ones (over 0.4 megapixels) left out. AP, count and
worth (the mean AP over IoU 0.5 to 0.8 less the share by which the count is off) are pooled; dark grey images apart from all others.
"""

import argparse
import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from few_images import is_dark

from napari_tally.core.annotations import require_labels
from napari_tally.core.events import run_to_end
from napari_tally.core.find import find_cells
from napari_tally.core.image_files import match_by_stem, read_image
from napari_tally.core.instances import label_planes
from napari_tally.core.label_files import read_labels
from napari_tally.core.metrics import evaluate
from napari_tally.core.model_file import find_model

_LARGEST = 400_000


def main() -> None:
    """Measure every pair of thresholds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a model file, or the name of a shipped one")
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--set", default="nuclei_pretrain")
    parser.add_argument("--images", type=int, default=70)
    parser.add_argument("--valleys", type=float, nargs="+", default=[0.1, 0.15, 0.2, 0.25])
    parser.add_argument("--smoothings", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    arguments = parser.parse_args()
    model = find_model(arguments.weights)
    folder = arguments.data / arguments.set
    paths = list(match_by_stem(folder / "images", folder / "labels"))
    looked = []
    for i in np.random.default_rng(0).permutation(len(paths))[: arguments.images]:
        image = read_image(paths[i][0])
        if image.planes[0, 0].size <= _LARGEST:
            found = run_to_end(find_cells(model, image, keep=True))
            looked.append((is_dark(image), image.name, require_labels(read_labels(paths[i][1]), image), found))
    cells = sum(len(np.unique(truth[truth > 0])) for _, _, truth, _ in looked)
    print(f"{len(looked)} images, {cells} cells\n")
    print("| valley | smoothing | dark images: AP@0.5 | AP@0.8 | count bias | others: AP@0.5 | AP@0.8 | count bias | worth, all |")
    print("|" + "---|" * 9)
    for valley, smoothing in product(arguments.valleys, arguments.smoothings):
        counting = replace(model.counting, valley=valley, smoothing=smoothing)
        rows = [
            (dark, name, truth, label_planes(f.probabilities, counting, f.zoom).reshape(truth.shape)) for dark, name, truth, f in looked
        ]
        texts = []
        for kind in (True, False, None):
            result = evaluate((name, truth, labels) for dark, name, truth, labels in rows if kind in (None, dark))
            aps = [matching.ap for matching in result.matchings]
            worth = np.mean(aps[:4]) - abs(result.bias)
            texts.append(f"{worth:.3f}" if kind is None else f"{aps[0]:.3f} | {aps[3]:.3f} | {result.bias:+.1%}")
        print(f"| {valley:g} | {smoothing:g} | {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
