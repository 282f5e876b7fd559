"""``napari-tally train``: from folders of images and labels to a model file."""

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_tally.cli._parts import Commands, Progress, add_data, read_data, settings_from
from napari_tally.core.words import number
from napari_tally.settings import TrainingSettings

if TYPE_CHECKING:
    from napari_tally.core.checkpoint import Checkpoint
    from napari_tally.core.judge import Comparison
    from napari_tally.core.model_file import Model
    from napari_tally.core.samples import TrainingPair


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("train", run, "Train a model on annotated images.")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL.safetensors", help="the model file to write")
    add_data(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the training that was interrupted (by a crash, a power cut, Ctrl-C), with the settings that it began with; "
        "needs --images, --labels and --out as they were",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    settings = settings_from(TrainingSettings, arguments)
    if arguments.out.is_dir():
        raise ValueError(f"{arguments.out} is a folder; --out wants a file name such as model.safetensors.")
    pairs, validation = read_data(arguments)
    resume = None
    if arguments.resume:
        from napari_tally.core.checkpoint import load_checkpoint

        resume = load_checkpoint(unfinished_of(arguments.out))
        settings = resume.plan.settings
    from napari_tally.core.start import choose_start

    start = None if resume else choose_start(arguments.start, pairs, settings)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=arguments.out.parent).close()  # fail now rather than after the training
    fit(pairs, settings, arguments.out, start, validation, resume)
    print(f"The model is in {arguments.out}.")


def unfinished_of(out: Path) -> Path:
    """Name the file that keeps a training until its model is written: beside the model."""
    return out.with_name(out.name + ".unfinished")


def fit(
    pairs: "list[TrainingPair]",
    settings: TrainingSettings,
    out: Path,
    start: "Model | None" = None,
    validation: Sequence[Any] = (),
    resume: "Checkpoint | None" = None,
) -> "Model":
    """Train and save; an interrupt saves what there is, and what is needed to go on is kept beside it."""
    from napari_tally.core.checkpoint import EVERY, Checkpoint, save_checkpoint
    from napari_tally.core.files import remove_leftovers
    from napari_tally.core.plan import new_model, plan_training
    from napari_tally.core.train import Comparison, Finished, Step, Trouble, Validation, train

    unfinished = unfinished_of(out)
    if resume:
        start, plan, model = resume.start, resume.plan_here(), resume.model()
    else:
        plan = plan_training(pairs, settings, start)
        model = new_model(plan, start)
    what = number(plan.n_images, "volume" if plan.slices else "image")
    print(f"Training on {what} with {number(plan.n_cells, 'cell')}, {plan.diameter:.0f} px wide, on the {plan.device_name}.")
    name = start.record.get("name") or "a trained model" if start else "random weights"
    takes = number(settings.steps, "step") if settings.steps else f"about {settings.minutes:g} min"
    print(f"Starts from {name}; takes {takes} and {plan.memory / 1e9:.1f} GB.")
    if resume:
        print(f"Goes on after step {resume.step}, at {resume.fraction:.0%}, with the settings that it began with.")
    elif unfinished.exists():
        print(f"Note: {unfinished} holds an interrupted training. This new one will take its place; to go on with that one: --resume")
    for note in plan.notes:
        print(f"Note: {note}")
    learned = bool(resume)
    trouble = False
    with Progress("training") as progress:
        try:
            for event in train(
                model, pairs, plan, resume.augmentation if resume else None, validation, checkpoint_seconds=EVERY, resume=resume
            ):
                if isinstance(event, Step):
                    learned = True
                    progress.show(event.fraction, f"loss {event.loss:.3f}, {event.seconds_left:.0f} s left")
                elif isinstance(event, Checkpoint):
                    try:
                        save_checkpoint(event, unfinished)
                    except OSError as error:  # a full disk: the training itself goes on in memory
                        if not trouble:
                            progress.say(f"Note: {error} If the training is interrupted now, it cannot go on.")
                        trouble = True
                elif isinstance(event, Trouble):
                    progress.say(f"Step {event.step}: {event.message}")
                elif isinstance(event, Validation):
                    held = event.score
                    progress.say(
                        f"Step {event.step}: on held-out cells F1 {held.f1:.2f}, counted {held.predicted_count}, true {held.true_count}",
                        only_terminal=True,
                    )
                elif isinstance(event, Comparison):
                    progress.say(_comparison(event))
                elif isinstance(event, Finished):
                    if event.start_kept:
                        progress.say("The start model is kept: training did not make it better (--insist keeps the trained one).")
                    if event.validation is None:
                        progress.say("No cells were held out to judge by: too few are drawn, or all in one place. Compare by eye.")
                    progress.say(f"{number(event.step, 'step')} in {event.seconds:.0f} s.")
        except (KeyboardInterrupt, ValueError, RuntimeError, MemoryError, OSError):
            if learned:
                kept = out.with_name(f"{out.stem}.interrupted{out.suffix}") if out.exists() else out  # the model of before may be better
                kept = _save(model, kept)
                progress.say(f"Stopped; the model as it was then is in {kept}.{' To go on: --resume' * unfinished.exists()}")
            raise
    _save(model, out)
    unfinished.unlink(missing_ok=True)
    for path in (out, unfinished):
        remove_leftovers(path)
    return model


def _save(model: "Model", out: Path) -> Path:
    """Save a model where it shall go, or where there is room: what was learned is not to be lost for a full disk. Gives the place."""
    from napari_tally.core.files import state_folder
    from napari_tally.core.model_file import save_model

    try:
        save_model(model, out)
    except OSError as error:
        for folder in (state_folder() / "models", Path.cwd()):
            place = folder / f"{out.stem}.rescued-{os.getpid()}{out.suffix}"
            with suppress(OSError):
                save_model(model, place)
                raise ValueError(f"{out}: {error.strerror or error}. Until then the model is in {place}.") from error
        raise
    return out


def _comparison(event: "Comparison") -> str:
    """Lay out the start and the trained model side by side."""
    lines = [f"{'On cells that neither has seen':36} {'start':>14} {'trained':>14}"]
    lines += [f"{what:36} {before:>14} {after:>14}" for what, before, after in event.rows()]
    return "\n".join([*lines, event.verdict])
