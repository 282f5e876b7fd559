"""The same tiles on other processes or machines: dask.distributed runs them, this process joins the cells.

::

    this process            worker (a process; on a cluster, a machine)
    tiles ────────────────▶ opens model and image itself, once; predicts; writes the hills of its tile to a file of its own
    cells ◀──────────────── the name of that file, and what there is to know of the hills: a few numbers a cell

Neither the network nor pixels travel. The image, the model file and the folder of results must be where every worker finds them
under the same name. A worker that dies takes its tile with it; the scheduler gives the tile to another. One that only seemed dead may
write its tile late: to a file that nobody reads, in a folder that belongs to this run and is gone after it.

Where a machine has several GPUs, its workers take one each (:func:`gpu_of`).
"""

import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import torch

from napari_tally.core.events import run_to_end
from napari_tally.core.files import partial_folder
from napari_tally.core.find import TileResult, TileWork
from napari_tally.core.image_files import read_image
from napari_tally.core.instances import TileHills
from napari_tally.core.model_file import find_model
from napari_tally.core.predict import Predictor, looking_at
from napari_tally.core.tiles import Region
from napari_tally.settings import CountingSettings, PredictionSettings

_PATIENCE = 10
"""Seconds to wait for a scheduler."""


@dataclass(frozen=True)
class _Task:
    """What a worker needs to know, but for the tile, to open image and model once. Small: it travels with every tile."""

    model: str
    fingerprint: str
    path: str
    pixel_size: tuple[float, float] | None
    settings: PredictionSettings
    counting: CountingSettings
    window: tuple[tuple[float, float], ...]
    state: tuple[int, ...]
    threads: int


@dataclass(frozen=True)
class Cluster:
    """A runner of tiles for :func:`napari_tally.core.find.find_cells`.

    Attributes
    ----------
    client : distributed.Client
    model : str
        Model file or name of a shipped model, which the workers open.
    fingerprint : str
        Of that model: workers refuse another one.
    path, state
        The image, and what tells whether its file has changed (:func:`napari_tally.core.files.file_state`).
    threads : int
        Of each worker; 0 = as torch does there.
    out : Path
        A folder for what the workers hand over.
    """

    client: Any
    model: str
    fingerprint: str
    threads: int
    path: Path = Path()
    state: tuple[int, ...] = ()
    out: Path = Path()

    def run(self, work: TileWork, plane: int, tiles: Sequence[Region]) -> Generator[tuple[int, TileResult] | None, None, None]:
        """Have the tiles of a plane computed.

        Yields
        ------
        (int, (labels, TileHills, None)) or None
            The place of a tile in `tiles`, and what was found in it; None every half second without one.

        Raises
        ------
        ValueError
            What the worker raised for a bad image.
        """
        folder = partial_folder(self.out.resolve() / "tiles")
        try:
            yield from self._run(work, plane, tiles, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(
        self, work: TileWork, plane: int, tiles: Sequence[Region], folder: Path
    ) -> Generator[tuple[int, TileResult] | None, None, None]:
        from distributed import CancelledError, KilledWorker, wait

        window = tuple((float(low), float(high)) for low, high in work.predictor.window)
        task = _Task(
            self.model,
            self.fingerprint,
            str(self.path.resolve()),
            work.predictor.image.pixel_size,
            work.predictor.settings,
            work.counting,
            window,
            self.state,
            self.threads,
        )
        workers = tuple(self.client.scheduler_info()["workers"])
        bounds = [tuple((part.start, part.stop) for part in tile) for tile in tiles]
        # pure=False: the tile is written even if some earlier task looked alike
        futures = {self.client.submit(_compute, task, plane, tile, str(folder), workers, pure=False): n for n, tile in enumerate(bounds)}
        try:
            waited = 0.0
            while futures:
                if not self.client.scheduler_info()["workers"]:
                    waited += 0.5
                    if waited > _PATIENCE:
                        raise ValueError(f"The scheduler has no workers. Start some: dask worker {self.client.scheduler.address}.")
                try:
                    wait(list(futures), timeout=0.5, return_when="FIRST_COMPLETED")
                except TimeoutError:
                    yield None
                for future in [future for future in futures if future.done()]:
                    n = futures.pop(future)
                    try:
                        name, top = future.result()
                    except (CancelledError, KilledWorker) as error:
                        raise ValueError(f"A tile could not be computed on the workers ({str(error) or type(error).__name__}).") from error
                    with np.load(folder / name) as stored:
                        piece = stored["hills"]
                    (folder / name).unlink(missing_ok=True)
                    yield n, (piece, top, None)
        finally:
            self.client.cancel(list(futures))


def connect(scheduler: str, workers: int) -> Any:
    """Connect to a scheduler, or start workers on this machine.

    Parameters
    ----------
    scheduler : str
        Its address, like tcp://node1:8786; "" = none.
    workers : int
        Processes to start here where there is no scheduler.

    Raises
    ------
    ValueError
        If dask.distributed is not installed, or nobody answers at the address.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("For several workers dask.distributed is needed: pip install 'napari-tally[cluster]'.") from error
    if not scheduler:
        return Client(n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50)  # closes them
    try:
        return Client(scheduler, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No scheduler answers at {scheduler} ({str(error) or type(error).__name__}). Start one: dask scheduler."
        ) from error


def share_of_threads(workers: int) -> int:
    """Give the threads for each of so many workers on this machine; on other machines (0) all that torch takes there."""
    return max(1, torch.get_num_threads() // workers) if workers else 0


def gpu_of(worker: str, workers: Sequence[str], gpus: int) -> int:
    """Give the number of the GPU that a worker takes: its place among the workers on its machine, and from the first on again.

    Parameters
    ----------
    worker : str
        Its address, like tcp://node1:40011.
    workers : sequence of str
        The addresses of all.
    gpus : int
        How many its machine has.
    """
    host = urlsplit(worker).hostname
    return sorted(other for other in {*workers, worker} if urlsplit(other).hostname == host).index(worker) % gpus


def _compute(
    task: _Task, plane: int, bounds: tuple[tuple[int, int], tuple[int, int]], folder: str, workers: Sequence[str]
) -> tuple[str, TileHills]:
    """Compute a tile on a worker and write its pixels; give the name of the file."""
    if task.threads:
        torch.set_num_threads(task.threads)
    if (gpus := torch.cuda.device_count()) > 1:
        from distributed import get_worker

        torch.cuda.set_device(gpu_of(get_worker().address, workers, gpus))
    work = _open(task)
    piece, top, _ = run_to_end(work.run(plane, (slice(*bounds[0]), slice(*bounds[1]))))
    name = f"{uuid4().hex}.npz"
    np.savez_compressed(Path(folder) / name, hills=piece)
    return name, top


@lru_cache(maxsize=1)
def _open(task: _Task) -> TileWork:
    """Open model and image: once for all tiles of an image on a worker."""
    image = replace(read_image(task.path), pixel_size=task.pixel_size)
    model = looking_at(_model(task.model, task.fingerprint), image, task.settings)
    return TileWork(Predictor(model, image, task.settings, np.array(task.window, np.float32)), task.counting)


@lru_cache(maxsize=1)
def _model(name: str, fingerprint: str) -> Any:
    model = find_model(name)
    if model.fingerprint != fingerprint:
        raise ValueError(f"The model {name} is another one on this worker.")
    return model
