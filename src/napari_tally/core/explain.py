"""A training plan in plain words: what will be done, and by which rule it was chosen."""

from napari_tally.core.architectures import ARCHITECTURES
from napari_tally.core.channels import ChannelChoice
from napari_tally.core.estimate import count_parameters, training_seconds
from napari_tally.core.plan import TrainingPlan, build_meta_network
from napari_tally.core.sizes import pixels_apart
from napari_tally.core.validation import are_folds_whole, held_out_whole
from napari_tally.core.words import number


def explain(plan: TrainingPlan, start: str = "", validation: int = 0) -> list[tuple[str, str]]:
    """Say what a plan holds and why.

    Parameters
    ----------
    plan : TrainingPlan
    start : str
        Name of the model to start from; "" = random weights.
    validation : int
        Images that are given to validate on; 0 = parts of the training images are held out.

    Returns
    -------
    list of (topic, text)
        The text is one or two sentences.
    """
    n, s = plan.network, plan.settings
    seen = plan.diameter * plan.scale  # of a cell, in network pixels
    channels = "colour (red, green, blue)" if plan.colour else "grey" if n.channels == 1 else f"{n.channels} channels"
    planes = "two-dimensional" if plan.n_planes == plan.n_images else f"{plan.n_planes} planes, each seen by itself"
    if n.dimensions == 3:
        planes = f"{plan.n_planes} slices, seen as volumes, for cells go through them"
    wide = f", {s.patch / seen:.0f} cells wide" if seen > 0 else ""
    deep = f" and {number(plan.slices, 'slice')}" if plan.slices else ""
    gaps = f", gaps between cells weigh up to {s.border_weight:g} more" if s.border_weight and s.loss not in ("dice", "tversky") else ""
    rows = [
        ("Images", f"{number(plan.n_images, 'image')}, {planes}, {number(plan.n_cells, 'cell')} drawn. The network takes {channels}."),
        *([("Channels", _channels(plan.channels))] if plan.channels else []),
        ("Cell size", _size(plan, seen, start)),
        *([("Slices", _slices(plan))] if n.dimensions == 3 else []),
        ("Brightness", _brightness(plan)),
        ("Start", f"From “{start}”: it fixes the network." if start else "From random weights."),
        ("Network", _network(plan, seen)),
        ("Classes", _classes(plan)),
        ("Loss", f"{s.loss}{gaps}."),
        ("Patches", f"{number(s.batch, 'patch', 'es')} of {s.patch} px{deep} a step{wide}; learning rate up to {s.learning_rate:g}."),
        (
            "Held out",
            _held_out(plan, bool(start)) if not validation else f"{number(validation, 'image')} given; all others are trained on.",
        ),
        ("Memory", f"About {plan.memory / 1e9:.1f} GB."),
        ("Time", _time(plan)),
    ]
    return rows + [("Note", note) for note in plan.notes]


def _network(plan: TrainingPlan, seen: float) -> str:
    n, architecture, margin = plan.network, ARCHITECTURES[plan.network.architecture], build_meta_network(plan.network).margin
    cells = f", {margin / seen:.1f} cell diameters" if seen > 0 else ""
    halves = f"halves the image {n.depth} times" if n.depth > 1 else "halves the image once"
    return (
        f"{architecture.title} ({architecture.source}) with {count_parameters(n) / 1e6:.1f} M weights: {halves} "
        f"and sees {margin} px to each side{cells}. Tiles are {'exact' if architecture.exact else 'blended where they meet'}."
    )


def _channels(choice: ChannelChoice) -> str:
    """Say which channels are looked at."""
    said, just = str(choice), f"{'just ' * (len(choice.order) > 1)}{number(len(choice.order), 'channel')}"
    return f"{said[0].upper()}{said[1:]}. Images with {just} are taken as they are."


def _size(plan: TrainingPlan, seen: float, start: str) -> str:
    if not seen > 0:
        return "Unknown."
    size = f"The typical cell is {plan.diameter:.0f} px across"
    if plan.any_size:
        return f"{size}; it differs from image to image, so each is scaled to the {seen:.0f} px that the start knows."
    if several := bool(plan.pixel_size and len(set(plan.scales)) > 1):
        size += f" in pixels of {plan.pixel_size:.3g} µm"
    if plan.scale == 1:
        return f"{size}; {'each image is scaled to such' if several else 'images are taken as they are'}."
    how = "each image is scaled by its own pixel size" if several else f"images are scaled by {plan.scale:.2f}"
    chosen = "lets the network see more around a cell for less work" if plan.scale < 1 else "an inside and a rim fit into"
    why = "the start knows" if start else chosen
    return f"{size}; {how}, so that it is {seen:.0f} px, which {why}."


def _slices(plan: TrainingPlan) -> str:
    """Say how z is resampled and pooled."""
    n = plan.network
    taken = f"are resampled by {plan.z_scale:.2f};" if plan.z_scale != 1 else "are taken as they are:"
    thick = f"{plan.aspect:.2g}"
    cube = "as thick as wide" if thick == "1" else f"{thick} times as thick as wide"
    apart = f"Slices are {pixels_apart(plan.slice_distance)} and {taken} a voxel of the network is {cube}"
    others = n.depth - n.flat
    if not n.flat:
        return f"{apart}. {f'All {n.depth} halvings halve' if n.depth > 1 else 'The only halving halves'} z, y and x."
    rest = f", the other {f'{others} halve' if others > 1 else 'one halves'} z too" if others else ""
    return f"{apart}. The first {'halving leaves' if n.flat == 1 else f'{n.flat} halvings leave'} z alone{rest}."


def _brightness(plan: TrainingPlan) -> str:
    n = plan.normalisation
    whose = "of each image by itself" if n.statistics == "image" else "of all training images together"
    return f"The {n.low:g} and {n.high:g} % percentiles {whose} become 0 and 1, over {n.noise:g} times the camera noise at least."


def _classes(plan: TrainingPlan) -> str:
    insides = "inside of a cell" if plan.network.types == 1 else f"inside of a cell of each of {plan.network.types} types"
    return f"Background, {insides}{', rim of a cell' if plan.network.classes > plan.network.types + 1 else ''}."


def _held_out(plan: TrainingPlan, from_trained: bool) -> str:
    new = {image: n for image, n in enumerate(plan.cells) if image not in plan.seen}
    whole = "volume" if plan.network.dimensions == 3 else "series" if plan.n_planes > plan.n_images else "image"
    part = "plane" if whole == "series" else whole
    if from_trained and not new:
        return "Nothing: the start model has learned all of these images, so they cannot judge it. Everything is trained on at once."
    if from_trained:
        halves = (
            "half of the images each"
            if are_folds_whole(new.values())
            else f"the halves of every {part}, for there are fewer than four images with enough cells"
        )
        return f"Two folds ({halves}) judge each other's model for 30 % of the time each, then everything is trained on."
    block = f"a quarter of {'every plane of ' * (whole == 'series')}the {whole}{' with most cells' * (len(new) > 1)}"
    held = "one whole image" if held_out_whole(new) is not None else f"{block}, for there are fewer than three images with enough cells"
    return f"For three quarters of the time {held}; then everything is trained on."


def _time(plan: TrainingPlan) -> str:
    where = f"on the {plan.device_name}"
    if plan.settings.steps:
        return f"{plan.settings.steps} steps {where}."
    return f"About {training_seconds(plan.settings.minutes, plan.pixels):.0f} s {where}."
