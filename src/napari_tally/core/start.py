"""What to start from: of the models that come with the package, the one that knows such cells best."""

import math
from collections.abc import Sequence
from dataclasses import replace

from napari_tally.core.inflate import inflated
from napari_tally.core.judge import judge, score
from napari_tally.core.model_file import Model, find_model, load_model, shipped_models
from napari_tally.core.plan import as_seen, dimensions_for, new_model, plan_training
from napari_tally.core.samples import TrainingPair, prepare_planes
from napari_tally.core.validation import to_judge_by
from napari_tally.settings import TrainingSettings

_PLANES = 3
_FINDS = 0.15
"""Average precision in planes from which on a model knows such cells, however wrong it is about the pixels."""


def choose_start(wish: str | Model | None, pairs: Sequence[TrainingPair], settings: TrainingSettings) -> Model | None:
    """Turn the user's wish into a model to start from.

    Parameters
    ----------
    wish : str, Model or None
        ``"auto"``: the shipped model that finds the drawn cells best (by average precision, then by loss). ``"none"`` or None:
        random weights. Else the name of a shipped model, or a model file.
    pairs : sequence of TrainingPair
    settings : TrainingSettings
        The preset ``"paper"``, another architecture, depth or width is a network of its own, so ``"auto"`` gives random weights.
        For volumes a model for planes becomes one for volumes, see :mod:`napari_tally.core.inflate`; but ``"auto"`` takes random weights
        for them where no model says more of the drawn cells than chance would: such a start hinders (docs/benchmarks.md).

    Raises
    ------
    ValueError
        If there is no such model.
    """
    if wish is None or wish == "none" or (wish == "auto" and settings.own_network):
        return None
    in_3d = settings.dimensions == "3-D" or (wish == "auto" and dimensions_for(pairs, settings) == 3)
    start = wish if isinstance(wish, Model) else _best(pairs, settings, in_3d) if wish == "auto" else find_model(wish)
    start = start.folded() if start else None
    return inflated(start, pairs, settings) if start and in_3d and start.settings.dimensions == 2 else start


def _best(pairs: Sequence[TrainingPair], settings: TrainingSettings, in_3d: bool) -> Model | None:
    """Give the shipped model that finds the drawn cells best, plane by plane; of volumes None, if it does not know such cells at all."""
    settings = replace(settings, dimensions="2-D")
    models = [load_model(path) for path in shipped_models().values()]
    drawn = [pair for pair in pairs if (pair.labels > 0).any()]
    if not drawn:
        return next(iter(models), None)
    fits = [_fit(model, drawn, settings) for model in models]
    best = max(range(len(models)), key=fits.__getitem__, default=None)
    if best is None:
        return None
    quality, loss = fits[best][0], -fits[best][1]
    knows = quality > _FINDS or loss < math.log(models[best].settings.classes)  # what a network loses that takes all classes for alike
    return models[best] if knows or not in_3d else None


def name_of(start: Model | None) -> str:
    """Say what a model to start from is called; "" = there is none."""
    return (start.record.get("name") or "a trained model") if start else ""


def _fit(start: Model, pairs: Sequence[TrainingPair], settings: TrainingSettings) -> tuple[float, float]:
    """Say how well a model finds the drawn cells, at the scale at which it would be trained: higher is better."""
    plan = plan_training(pairs, settings, start)
    model = new_model(plan, start)
    few = [round(i * (len(pairs) - 1) / max(1, _PLANES - 1)) for i in range(min(_PLANES, len(pairs)))]
    some, scales = [pairs[i] for i in few], [plan.scales[i] for i in few]
    planes = prepare_planes(as_seen(plan.channels, some), model.settings.channels, scales, model.normalisation, 0, 1, model.window)
    found = score([judge(model.network, to_judge_by(planes)[:_PLANES], plan.scale)], [model.counting])
    return found.quality, -found.loss
