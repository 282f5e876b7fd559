"""Time the border weight map against one distance transform for each cell.

    python benchmarks/weight_map.py

Prints three tables: the ratio to the naive way (wanted: at least 50), the time for more and more
cells on the same pixels (wanted: flat), and the time for more and more pixels at one density
(wanted: proportional). Times are medians of several runs in this process.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_tally.core.weights import border_weights
from napari_tally.sample_data import simulate_nuclei


def naive(labels: NDArray[np.int32], w0: float = 10.0, sigma: float = 5.0) -> NDArray[np.float32]:
    """Equation 2 as it stands: a distance transform over the whole image for each cell; keeps the two smallest."""
    d1, d2 = np.full((2, *labels.shape), np.inf, np.float32)
    for cell in range(1, labels.max() + 1):
        distance = ndi.distance_transform_edt(labels != cell).astype(np.float32)
        d2 = np.minimum(d2, np.maximum(d1, distance))
        d1 = np.minimum(d1, distance)
    return w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))


def seconds(runs: int, *jobs: Callable[[], object]) -> list[float]:
    """Median time of each job. The jobs take turns, so that a busy moment of the machine hits them all."""
    times = [[] for _ in jobs]
    for _ in range(runs):
        for job, taken in zip(jobs, times, strict=True):
            began = time.perf_counter()
            job()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def nuclei(side: int, cells: int) -> NDArray[np.int32]:
    """Label image whose nuclei cover about a fifth of it, however many they are."""
    diameter = side * np.sqrt(0.2 * 4 / np.pi / cells)
    return simulate_nuclei(0, (side, side), cells, diameter)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="side of the image in pixels")
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5, help="runs of which the median is taken")
    parser.add_argument("--naive-runs", type=int, default=1, help="the same for the naive way (half a minute each)")
    options = parser.parse_args()

    labels = nuclei(options.side, options.cells)
    weights, exact = border_weights(labels), naive(labels)  # once unmeasured, to warm up
    ours, one = seconds(options.runs, lambda: border_weights(labels), lambda: ndi.distance_transform_edt(labels != 1))
    (slow,) = seconds(options.naive_runs, lambda: naive(labels))
    transforms = labels.max() * one
    print(f"{options.side}x{options.side} px, {labels.max()} cells")
    print(f"  one transform a cell   {slow:8.2f} s   {slow / ours:4.0f} times ours")
    print(f"  the transforms alone   {transforms:8.2f} s   {transforms / ours:4.0f} times ours   (one, times the cells)")
    print(f"  border_weights         {ours:8.3f} s")
    print(f"  largest difference     {np.abs(weights - exact).max():8.1e}   of weights up to 10")

    print(f"\nmore cells on {options.side}x{options.side} px\n{'cells':>8} {'seconds':>9}")
    for cells in (50, 200, 500, 2000, 8000):
        labels = nuclei(options.side, cells)
        print(f"{labels.max():8} {seconds(options.runs, lambda: border_weights(labels))[0]:9.3f}")  # noqa: B023

    print(f"\nmore pixels at one density\n{'side':>8} {'cells':>8} {'seconds':>9} {'us a pixel':>11}")
    for side in (256, 512, 1024, 2048):
        labels = nuclei(side, round(options.cells * (side / options.side) ** 2))
        (took,) = seconds(options.runs, lambda: border_weights(labels))  # noqa: B023
        print(f"{side:8} {labels.max():8} {took:9.3f} {1e6 * took / labels.size:11.3f}")


if __name__ == "__main__":
    main()
