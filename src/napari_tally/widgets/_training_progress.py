"""The part of the widget *Train* that shows how a training goes: how far it is, the curves, and how good the model is."""

import time
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_tally.core.words import number
from napari_tally.widgets._curves import Curves
from napari_tally.widgets._parts import note, say
from napari_tally.widgets._stacked import theme_colours

if TYPE_CHECKING:
    from napari_tally.core.judge import Comparison
    from napari_tally.core.plan import TrainingPlan
    from napari_tally.core.train import Finished, Step, Validation

_DRAW_SECONDS = 1.0
"""Seconds between two paintings: see :meth:`Curves.draw`."""
_PAUSED = " · paused"


class TrainingProgress(QWidget):
    """Shows the news of a training; hidden where there is none.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._device = ""
        self._drawn = 0.0  # when it was painted
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setFormat("%p %")
        self.status = note()
        self.curves = Curves(*theme_colours(viewer.theme))
        self.quality = note()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        for part in (self.bar, self.status, self.curves, self.quality):
            column.addWidget(part)
        viewer.events.theme.connect(self._follow_theme)
        self.clear()

    def clear(self) -> None:
        """Show nothing."""
        self.hide()
        self.curves.clear_curves()
        self._show_fraction(0)
        say(self.status, "")
        say(self.quality, "")

    def begin(self, status: str) -> None:
        """Show that a training begins."""
        self.clear()
        say(self.status, status)
        self.show()

    def show_plan(self, plan: "TrainingPlan") -> None:
        """Say where it will be computed."""
        self._device = plan.device_name
        say(self.status, f"{self._device} · getting ready …")

    def mark_paused(self, paused: bool) -> None:
        """Say that it is paused, or no longer."""
        say(self.status, f"{self.status.text()}{_PAUSED}" if paused else self.status.text().removesuffix(_PAUSED))

    def hold_off(self) -> None:
        """Paint another time: something else was painted just now, and together they take long."""
        self._drawn = time.monotonic()

    def show_step(self, event: "Step", paused: bool) -> None:
        """Draw the loss on, and say how long it will take."""
        self.curves.add_loss(event.step, event.loss)
        if time.monotonic() - self._drawn < _DRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        self.curves.draw()
        self._show_fraction(event.fraction)
        say(self.status, f"{self._device} · step {event.step} · {duration(event.seconds_left)} left{_PAUSED * paused}")

    def show_validation(self, event: "Validation") -> None:
        """Say how good the model is now."""
        s = event.score
        self.curves.add_validation(event.step, s.loss, s.f1)
        say(self.quality, f"On held-out cells: finds {s.predicted_count} where {s.true_count} are drawn; agreement F1 = {s.f1:.2f}.")

    def show_comparison(self, event: "Comparison") -> None:
        """Show whether training helped, as a small table."""
        cells = "".join(
            f"<tr><td>{escape(what)}</td><td align=right>&nbsp;{before}</td><td align=right>&nbsp;<b>{after}</b></td></tr>"
            for what, before, after in event.rows()
        )
        head = "<tr><td></td><td align=right>&nbsp;start</td><td align=right>&nbsp;<b>trained</b></td></tr>"
        self.quality.setToolTip("F1: of cells found with at least half of their area. Average precision: also how true the outlines are.")
        say(self.quality, f"<b>{escape(event.verdict)}</b><table cellspacing=2>{head}{cells}</table>")

    def show_finished(self, event: "Finished") -> None:
        """Show the end of a training that nobody has stopped."""
        self.curves.draw()
        self._show_fraction(1)
        say(self.status, f"Done: {number(event.step, 'step')} in {duration(event.seconds)}.")
        if event.validation is None:
            say(self.quality, "No cells were held out to judge by. Compare with your own eyes in “3 Predict and count”.")

    def _show_fraction(self, fraction: float) -> None:
        self.bar.setUpdatesEnabled(False)  # else setValue paints at once, and what changes with it once more
        self.bar.setValue(round(1000 * fraction))
        self.bar.setUpdatesEnabled(True)

    def _follow_theme(self, event: object = None) -> None:
        self.curves.set_colours(*theme_colours(self._viewer.theme))


def duration(seconds: float) -> str:
    """Say how long: "3 min 6 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "0 s"
