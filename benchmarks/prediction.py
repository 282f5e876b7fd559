"""How fast, how exact and how large? Prediction against the bare network, against MONAI's sliding window, and up to slides.

    python benchmarks/prediction.py speed   [--sides 1024 2048 4096] [--repeat 3]
    python benchmarks/prediction.py bounded [--sides 2048 5000 10000 20000] [--folder DIR]
    python benchmarks/prediction.py pauses  [--sides 4096 10000] [--folder DIR]
    python benchmarks/prediction.py average --data DIR [--images 12]

`speed`: the whole way from array to label image, and the network on the same pixels without any halo, one after the other in one run;
medians of the ratios. MONAI (where it is installed) with the same network, overlap 0.25, gaussian weights; seam error = the largest
difference of a probability from the network on the whole picture.
`bounded`: simulated nuclei in a tiled 16-bit TIFF, read and written in pieces; time and peak resident memory of a process of its own.
`pauses`: the longest time between two moments at which Cancel and Ctrl-C act, by what is done there; a batch of one file.
`average`: the eight views of --average on the fluorescence images of nuclei_dev.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

import numpy as np
import tifffile
import torch

import napari_tally as nt
from napari_tally.core.events import run_to_end
from napari_tally.core.find import find_cells
from napari_tally.core.images import as_image
from napari_tally.core.intensity import intensity_window, normalise
from napari_tally.core.predict import predict
from napari_tally.settings import PredictionSettings


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "bounded", "pauses", "average", "one"])
    parser.add_argument("--sides", type=int, nargs="+")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the files of `bounded` (default: a temporary one)")
    parser.add_argument("--images", type=int, help="so many images, evenly spread (default: all)")
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"))
    arguments = parser.parse_args()
    if arguments.what == "speed":
        speed(arguments.sides or [1024, 2048, 4096], arguments.repeat)
    elif arguments.what == "bounded":
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            bounded(arguments.sides or [2048, 5000, 10000, 20000], Path(folder))
    elif arguments.what == "pauses":
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            pauses(arguments.sides or [4096, 10000], Path(folder))
    elif arguments.what == "average":
        average(arguments.data, arguments.images)
    else:
        one(arguments.folder)


def picture_of(side: int) -> np.ndarray:
    """Simulate nuclei: (side, side) uint16. Tiles of one picture, each turned in its own way."""
    part, _ = nt.simulate_nuclei(shape=(512, 512), seed=3)
    rng = np.random.default_rng(0)
    n = -(-side // 512)
    rows = [np.hstack([np.rot90(part, rng.integers(4)) for _ in range(n)]) for _ in range(n)]
    return np.vstack(rows)[:side, :side].astype(np.uint16)


def speed(sides: list[int], repeat: int) -> None:
    """Print time and seam error of each way."""
    model = nt.find_model("nuclei")
    settings = PredictionSettings(diameter=model.diameter)
    network = model.network.eval()
    print("| side (px) | way | s / megapixel | times the bare network | seam error |")
    print("|---|---|---|---|---|")
    for side in sides:
        image = as_image(picture_of(side))
        picture = torch.from_numpy(normalise(image.planes[0], intensity_window(image, model.normalisation)))[None].repeat(1, 3, 1, 1)
        found: dict[str, np.ndarray] = {}

        def bare(picture: torch.Tensor = picture) -> np.ndarray:
            with torch.inference_mode():
                return network(picture).softmax(1)[0].numpy()

        ways = {
            "the bare network": bare,
            "probabilities": lambda image=image: run_to_end(predict(model, image, settings))[0],
            "array to label image": lambda image=image: run_to_end(find_cells(model, image, settings, keep=False)).labels,
            **monai_ways(network, picture),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeat):
            for name, way in ways.items():
                began = time.perf_counter()
                found[name] = way()
                times[name].append(time.perf_counter() - began)
        inner = slice(128, -128)  # at the border, mirroring and zeros differ
        whole = found["the bare network"][:, inner, inner]
        for name in ways:
            ratio = np.median(np.array(times[name]) / np.array(times["the bare network"]))
            error = "" if found[name].ndim == 2 else f"{np.abs(found[name][:, inner, inner] - whole).max():.1e}"
            print(f"| {side} | {name} | {np.median(times[name]) / side**2 * 1e6:.2f} | {ratio:.2f} | {error} |", flush=True)


def monai_ways(network: torch.nn.Module, picture: torch.Tensor) -> dict:
    """Give MONAI's sliding window with two window sizes, where it is installed."""
    try:
        from monai.inferers import sliding_window_inference
    except ImportError:
        return {}

    def way(roi: int) -> np.ndarray:
        with torch.inference_mode():
            return sliding_window_inference(picture, (roi, roi), 1, network, overlap=0.25, mode="gaussian").softmax(1)[0].numpy()

    return {f"MONAI, window {roi}": lambda roi=roi: way(roi) for roi in (256, 512)}


def bounded(sides: list[int], folder: Path) -> None:
    """Print time and peak memory of files of these sizes."""
    print("| side (px) | megapixels | cells | s | s / megapixel | peak memory (GB) |")
    print("|---|---|---|---|---|---|")
    for side in sides:
        path = slide(folder, side)
        began = time.perf_counter()
        done = subprocess.run([sys.executable, __file__, "one", "--folder", path], capture_output=True, text=True, check=True)
        cells, peak = done.stdout.split()
        seconds = time.perf_counter() - began
        print(f"| {side} | {side**2 / 1e6:.0f} | {cells} | {seconds:.0f} | {seconds / side**2 * 1e6:.2f} | {float(peak):.2f} |", flush=True)
        path.unlink()


def slide(folder: Path, side: int, **options: str) -> Path:
    """Write a file of simulated nuclei."""
    path = folder / f"{side}.tif"
    strips = (row for y in range(0, side, 512) for row in _tiles(side, y))
    tifffile.imwrite(path, strips, shape=(side, side), dtype=np.uint16, tile=(512, 512), bigtiff=True, **options)
    return path


def pauses(sides: list[int], folder: Path) -> None:
    """Print the longest pause of each stage, by the clock and in processor time (which other work on the machine does not change)."""
    from napari_tally.core.batch import Batch
    from napari_tally.settings import BatchSettings

    model = nt.find_model("nuclei")
    print("| side (px) | labels | stage | moments | longest pause (s) | longest pause (s of processor) |")
    print("|---|---|---|---|---|---|")
    for side in sides:
        path = slide(folder, side, compression="zlib")
        for file_format in ("tiff", "ome-zarr"):
            settings = PredictionSettings(diameter=model.diameter)
            batch = Batch(model, "nuclei", folder / file_format, settings, model.counting, files=BatchSettings(format=file_format))
            found: dict[str, list[np.ndarray]] = {}
            last, stage = np.array([time.perf_counter(), time.process_time()]), "the start"
            for event in chain(batch.run([path]), [None]):
                now = np.array([time.perf_counter(), time.process_time()])
                found.setdefault(stage, []).append(now - last)
                tile = getattr(event, "tile", None)
                last, stage = now, (tile.doing.split(",")[0] or "tiles") if tile else "a file"
            for stage, times in found.items():
                clock, processor = np.max(times, axis=0)
                print(f"| {side} | {file_format} | after {stage} | {len(times)} | {clock:.2f} | {processor:.2f} |", flush=True)


def _tiles(side: int, y: int) -> list[np.ndarray]:
    """Simulate a row of TIFF tiles."""
    part, _ = nt.simulate_nuclei(shape=(512, 512), seed=3)
    rng = np.random.default_rng(y)
    return [np.rot90(part, rng.integers(4)).astype(np.uint16) for _ in range(0, side, 512)]


def one(path: Path) -> None:
    """Count the cells of a file in pieces, as the command does; print their number and the peak memory in GB."""
    import resource

    from napari_tally.core.batch import Batch

    model = nt.find_model("nuclei")
    out = path.with_suffix("")
    batch = Batch(model, "nuclei", out, PredictionSettings(diameter=model.diameter), model.counting)
    results = run_to_end(batch.run([path]))
    print(int(results.tables()["counts"]["count"].sum()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def average(data: Path, images: int | None) -> None:
    """Print what the eight views bring and cost."""
    sys.path.insert(0, str(Path(__file__).parent))
    from few_images import read_set

    from napari_tally.core.metrics import evaluate

    model = nt.find_model("nuclei")
    pairs = list(read_set(data, "fluorescence"))
    pairs = pairs[:: max(1, len(pairs) // images)][:images] if images else pairs
    print("| views | AP@0.5 | AP@0.8 | F1 | count bias | s / megapixel |")
    print("|---|---|---|---|---|---|")
    for eight in (False, True):
        began = time.perf_counter()
        settings = PredictionSettings(average=eight)
        found = [run_to_end(find_cells(model, pair.image, settings)).labels for pair in pairs]
        seconds = time.perf_counter() - began
        result = evaluate((pair.image.name, pair.labels, labels) for pair, labels in zip(pairs, found, strict=True))
        five, eighty = result.matchings[0], result.matchings[3]
        megapixels = sum(pair.labels.size for pair in pairs) / 1e6
        scores = f"{five.ap:.3f} | {eighty.ap:.3f} | {five.f1:.3f} | {100 * result.bias:+.1f} %"
        print(f"| {8 if eight else 1} | {scores} | {seconds / megapixels:.2f} |", flush=True)


if __name__ == "__main__":
    main()
