"""Make docs/example_report: the results and the report of a small batch of simulated images.

    python docs/example_report.py

Two groups of three simulated images each, counted by the model that comes with the package, in unbiased frames.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import tifffile

from napari_tally import simulate_nuclei
from napari_tally.cli import main

HERE = Path(__file__).parent / "example_report"
GROUPS = {"control": 45, "treated": 25}
"""Cells drawn in each image."""


def make() -> int:
    """Simulate, predict, report; keep the page and the tables of images and groups."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for g, (group, n) in enumerate(GROUPS.items()):
            (folder / group).mkdir()
            for i in range(3):
                pixels, _ = simulate_nuclei(seed=10 * g + i, n=n)
                path = folder / group / f"{group}_{i + 1}.tif"
                tifffile.imwrite(path, pixels, resolution=(2e4, 2e4), resolutionunit="CENTIMETER")  # 0.5 um a pixel
        out, images = str(folder / "out"), [str(folder / group) for group in GROUPS]
        failed = main(["predict", "--model", "nuclei", "--out", out, "--border", "frame", "--groups", "folder", *images])
        failed = failed or main(["report", out, "--title", "An example: simulated nuclei"])
        HERE.mkdir(exist_ok=True)
        for name in ("report.html", "counts.csv", "groups.csv"):
            shutil.copyfile(folder / "out" / name, HERE / name)
    return failed


if __name__ == "__main__":
    sys.exit(make())
