"""Store in a weights file what its training images were like, and measure the warnings. Nothing is trained; the weights stay as they are.

    python benchmarks/fingerprint.py --weights src/napari_tally/weights/nuclei.safetensors --data DIR --train nuclei_pretrain --write
    python benchmarks/fingerprint.py --weights src/napari_tally/weights/phase.safetensors --data DIR --train phase_pretrain --write

DIR holds sets as SET/images. Every `--every`-th image of the training set makes the fingerprint, which `--write` puts into the header
of the file (core/range.py reads it there). The table says how many images of each test set are warned of: of its own held-out images
few should be (at most 5 %), of another kind of image all. An image is judged by its middle, at most 512 px wide here, to save time.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from napari_tally.core.image_files import list_images, read_image
from napari_tally.core.model_file import find_model, save_model
from napari_tally.core.range import KEY, NAMES, Fingerprint, distance, fingerprint_images, fingerprint_of

SIDE = 512


def main() -> None:
    """Make the fingerprint, write it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a model file")
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--train", help="the set that the model was trained on; left out: the fingerprint in the file is measured as it is")
    parser.add_argument("--test", nargs="*", default=["nuclei_dev", "phase_dev", "phase_pretrain"], help="sets to warn of")
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="store the fingerprint in the file")
    arguments = parser.parse_args()
    model = find_model(arguments.weights)
    if arguments.train:
        paths = list(list_images(arguments.data / arguments.train / "images").values())
        step = arguments.every if len(paths) > 3 * arguments.every * len(NAMES) else 1
        known: Fingerprint | None = fingerprint_images(model, (read_image(path) for path in paths[::step]), SIDE)
        assert known
        model.record[KEY] = known.as_dict()
        if arguments.write:
            save_model(model, arguments.weights)
    known = fingerprint_of(model)
    if known is None:
        raise SystemExit("This model has no fingerprint; name the set that it was trained on with --train.")
    print(f"{len(known.points)} training images, limit {known.limit:.2f}\n")
    print("| set | images | warned of | share | distance: median, largest |")
    print("|---|---|---|---|---|")
    for name in arguments.test:
        images = (read_image(path) for path in list_images(arguments.data / name / "images").values())
        points = fingerprint_images(model, images, SIDE).points
        far = np.array([distance(known, point) for point in points])
        warned = int((far > known.limit).sum())
        print(f"| {name} | {len(far)} | {warned} | {100 * warned / len(far):.0f} % | {np.median(far):.1f}, {far.max():.1f} |", flush=True)


if __name__ == "__main__":
    main()
