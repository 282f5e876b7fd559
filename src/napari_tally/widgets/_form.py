"""Settings as a form: a frozen dataclass of :mod:`napari_tally.settings` in, one of the same class out.

Labels, bounds, steps and tooltips come from the ``Annotated`` metadata of the fields, so a setting is
described once. The law of the form is ``SettingsForm(s).value == s``: a spin box shows a rounded
number, so a number that the user has not touched is given back as it came, not as it is shown.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from magicgui.widgets import create_widget
from psygnal import Signal
from qtpy.QtCore import QRegularExpression
from qtpy.QtGui import QRegularExpressionValidator
from qtpy.QtWidgets import QDoubleSpinBox, QFormLayout, QLabel, QWidget

from napari_tally.settings import fields_of


class SettingsForm:
    """A form for a settings class.

    Parameters
    ----------
    cls : type
        A frozen dataclass of :mod:`napari_tally.settings`.
    value : object of `cls`, optional
        What to show; left out, the defaults.
    fields : tuple of str, optional
        Names of the fields to show, in this order; left out, all. The others keep the value given.

    Attributes
    ----------
    native : QWidget
        A label and a field in each row.
    changed : psygnal signal
        Emits the new settings when one is changed, by the user or by code.

    Examples
    --------
    >>> form = SettingsForm(CountingSettings, fields=("seed_threshold",))  # doctest: +SKIP
    >>> form.value.seed_threshold  # doctest: +SKIP
    0.6
    """

    changed = Signal(object)

    def __init__(self, cls: type, value: Any = None, fields: tuple[str, ...] | None = None) -> None:
        described = fields_of(cls)
        self._whole = {name for name, (kind, _) in described.items() if kind is int}
        self._marks = {name: [meta[key] for key in ("min", "max", "step") if key in meta] for name, (_, meta) in described.items()}
        self._widgets: dict[str, Any] = {}
        self.native = QWidget()
        rows = QFormLayout(self.native)
        rows.setContentsMargins(0, 0, 0, 0)
        for name in described if fields is None else fields:
            kind, meta = described[name]
            zero = meta.get("zero", "")
            options = {"step": 1} | meta if zero and kind is int else dict(meta)
            pattern = options.pop("pattern", "")
            for ours in ("zero", "wanted"):
                options.pop(ours, None)
            # magicgui's box for whole numbers can show no word, so such a field is one for numbers with no decimals
            box = "FloatSpinBox" if zero and kind is not str else None
            widget: Any = create_widget(name=name, annotation=kind, widget_type=box, options=options)
            if kind is str:
                widget.native.setPlaceholderText(zero)
                widget.native.setValidator(QRegularExpressionValidator(QRegularExpression(pattern), widget.native))
            elif kind is bool:
                widget.native.setText("")  # the label says it
            elif zero:
                widget.native.setSpecialValueText(zero)
            label = QLabel(meta.get("label", name))
            label.setToolTip(meta.get("tooltip", ""))
            rows.addRow(label, widget.native)
            self._widgets[name] = widget
        self._showing = False
        self.value = cls() if value is None else value
        for widget in self._widgets.values():
            widget.changed.connect(self._tell)

    def __getitem__(self, field: str) -> Any:
        """Give the magicgui widget of a field."""
        return self._widgets[field]

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the fields."""
        return iter(self._widgets)

    @property
    def value(self) -> Any:
        """The settings as the form shows them."""
        edited = {
            name: int(w.value) if name in self._whole else w.value for name, w in self._widgets.items() if w.value != self._shown[name]
        }
        return dataclasses.replace(self._given, **edited)

    @value.setter
    def value(self, settings: Any) -> None:
        self._given, self._showing = settings, True
        for name, widget in self._widgets.items():
            number = getattr(settings, name)
            if isinstance(box := widget.native, QDoubleSpinBox):
                box.setDecimals(0 if name in self._whole else _decimals(number, *self._marks[name]))
            widget.value = number
        self._shown = {name: widget.value for name, widget in self._widgets.items()}
        self._showing = False
        self.changed.emit(settings)

    def _tell(self) -> None:
        if not self._showing:
            self.changed.emit(self.value)


def _decimals(*numbers: float) -> int:
    """How many decimals show all these numbers to a thousandth of themselves."""
    return next((d for d in range(1, 12) if all(math.isclose(round(n, d), n, rel_tol=1e-3) for n in numbers)), 12)
