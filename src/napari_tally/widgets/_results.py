"""The part of the widget *Predict and count* that says which cells count, and hands the results on.

::

    cells as measured ──▶ rule, regions ──▶ table, count, plots      at once, on the window's thread: a table is small
                                      └───▶ Save, Export             on a worker thread: files, shapes of cells, the report
"""

from collections.abc import Generator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Labels
from napari.utils import CyclicLabelColormap, DirectLabelColormap
from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QFormLayout, QMenu, QVBoxLayout, QWidget

from napari_tally.core.counting import apply_rules, pixel_remark, summarise
from napari_tally.core.events import saying
from napari_tally.core.export import FORMATS, Format, export, file_name
from napari_tally.core.label_files import writing_labels
from napari_tally.core.lazy import write_tiff_in_pieces
from napari_tally.core.regions import Region
from napari_tally.core.results import Results, few
from napari_tally.core.words import number
from napari_tally.settings import RuleSettings
from napari_tally.widgets._form import SettingsForm
from napari_tally.widgets._job import Job, sentence
from napari_tally.widgets._layer_combo import LayerCombo
from napari_tally.widgets._layers import notes_of
from napari_tally.widgets._parts import ask_for_folder, button, group, note, say, unless_there
from napari_tally.widgets._plots import Plots
from napari_tally.widgets._regions import is_regions, regions_from_shapes
from napari_tally.widgets._stacked import theme_colours

if TYPE_CHECKING:
    from napari_tally.widgets._counting import Counted

_BUSY = "The results of before are still being written. Once it says here that they are saved, try again."
_SAVED = ("counts.csv", "cells.csv", "record.json", "report.html")
_PATIENCE = 200
"""Milliseconds without a change of the regions after which the cells are counted anew."""
_LINES = 8
_GREY, _NEW = np.array([0.5, 0.5, 0.5, 0.6]), np.ones(4)
"""Colours of cells that do not count, and of those that are drawn later."""
MANY_COLOURS = 20_000
"""The largest number of a cell for which there is a table of colours; napari needs a fifth of a second for so many."""


class ResultsPart(QWidget):
    """Rules, regions, plots and exports.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel

    Attributes
    ----------
    changed : Qt signal ()
        Other cells count.
    said : Qt signal (str)
        A sentence for the user.
    """

    changed = Signal()
    said = Signal(str)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer, self._watched = viewer, None
        self._shown: list[Counted] = []
        self._writing = Job(self)
        self._writing.returned.connect(self.said.emit)
        self._writing.failed.connect(self._tell)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_PATIENCE)
        self._later.timeout.connect(self.changed.emit)
        self.form = SettingsForm(RuleSettings)
        self.form.changed.connect(self._tell_of_change)
        self.region_choice = LayerCombo(viewer, is_regions, extra="No regions")
        self.region_choice.setToolTip(
            "A Shapes layer: the cells in each of its shapes are counted by themselves. A cell belongs where its centroid lies. "
            "Names come from the column 'name' of the layer's features."
        )
        self.region_choice.changed.connect(self._watch)
        self.region_text = note()
        self.plot_button = button("▸ Plots", "How large the cells are, and how many there are in each image.", self._fold, checkable=True)
        self.plots = Plots(*theme_colours(getattr(viewer, "theme", "dark")))
        self.export_button = button("Export…", "Write the cells for other programs: Fiji, QuPath, napari.")
        menu = QMenu(self)
        for kind, text in FORMATS.items():
            menu.addAction(text).setData(kind)
        menu.triggered.connect(self._ask_where)
        self.export_button.setMenu(menu)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        choices = QFormLayout()
        choices.addRow("Regions", self.region_choice)
        column.addWidget(group("Which cells count?", self.form.native, choices, self.region_text))
        column.addWidget(self.plot_button)
        column.addWidget(self.plots)
        self._kind: Format = "imagej"
        self._fold()
        self._watch(self.region_choice.layer)
        if hasattr(viewer.events, "theme"):
            viewer.events.theme.connect(self._follow_theme)
        say(self.region_text, "")

    # What counts

    def cells(self, found: "Counted") -> pd.DataFrame:
        """Give the table of cells by the rule."""
        return self._by_rule(found)[0]

    def summary(self, found: "Counted") -> pd.DataFrame:
        """Give the table of planes by the rule."""
        cells, rules, _ = self._by_rule(found)
        return found.only(summarise(cells, found.image, rules))

    def _by_rule(self, found: "Counted") -> tuple[pd.DataFrame, RuleSettings, list[Region]]:
        rules, regions = self.form.value, self._regions(found)
        if rules.unit == "um2" and not found.image.calibrated(rules.pixel_size).pixel_size:  # cannot be: `show_results` says so
            rules = RuleSettings(border=rules.border)
        return apply_rules(found.cells, found.image, rules, regions), rules, regions

    def _regions(self, found: "Counted") -> list[Region]:
        shapes = self.region_choice.layer
        return regions_from_shapes(shapes, found.layer) if shapes is not None else []

    def show_results(self, shown: Sequence["Counted"]) -> None:
        """Show plots and regions of these images."""
        self._shown = list(shown)
        self.export_button.setEnabled(bool(shown))
        lines, wish = [], self.form.value
        for found in self._shown:
            cells, rules, regions = self._by_rule(found)
            if rules != wish and wish.smallest:
                lines.append(escape(f"{found.image.name}: all sizes count, for the pixel size is not known. State it, or the area in px."))
            if remark := pixel_remark(found.image, wish):
                lines.append(escape(f"{found.image.name}: {remark}"))
            if regions:
                rows = found.only(summarise(cells, found.image, rules, regions))
                for row in rows.itertuples():
                    density = f", {row.cells_per_mm2:,.0f}/mm²" if np.isfinite(row.cells_per_mm2) else ""
                    which = f"{found.image.name}, " if len(self._shown) > 1 else ""
                    which += f"plane {row.plane}, " if rows["plane"].nunique() > 1 else ""
                    lines.append(escape(f"{which}{row.region}: {number(row.count, 'cell')}{density}"))
        more = [f"… and {len(lines) - _LINES} more; Save writes them all"] if len(lines) > _LINES else []
        say(self.region_text, "<br>".join(lines[:_LINES] + more))
        if self.plot_button.isChecked():
            self._draw()

    def _draw(self) -> None:
        tables = [self._by_rule(found) for found in self._shown]
        rows = [self.summary(found) for found in self._shown]
        counts = pd.concat(rows) if rows else pd.DataFrame({"count": [], "cells_per_mm2": []})
        known = bool(len(counts)) and bool(counts["cells_per_mm2"].notna().all())
        areas = [cells.loc[cells["counted"], "area_um2" if known else "area_px"].to_numpy(float) for cells, _, _ in tables]
        diameters = np.sqrt(4 / np.pi * np.concatenate([*areas, []]))
        values = counts["cells_per_mm2" if known else "count"].tolist()
        self.plots.draw(diameters, "µm" if known else "px", values, "cells/mm²" if known else "cells")

    def _fold(self) -> None:
        unfolded = self.plot_button.isChecked()
        self.plot_button.setText(f"{'▾' if unfolded else '▸'} Plots")
        self.plots.setVisible(unfolded)
        if unfolded:
            self._draw()

    def _watch(self, layer: Any) -> None:
        """Follow the shapes of the chosen layer, and their names."""
        for name in ("data", "features"):
            if self._watched is not None:
                self._watched.events[name].disconnect(self._count_later)
            if layer is not None:
                layer.events[name].connect(self._count_later)
        self._watched = layer
        self.changed.emit()

    def _count_later(self, event: object = None) -> None:
        self._later.start()

    def _tell_of_change(self, rules: RuleSettings) -> None:
        self.said.emit("")  # what was saved is by another rule
        self.changed.emit()

    def _tell(self, error: Exception) -> None:
        self.said.emit(sentence(error) + " Choose another folder." * isinstance(error, OSError))

    def _follow_theme(self, event: object = None) -> None:
        self.plots.set_colours(*theme_colours(self._viewer.theme))

    # What is written

    @property
    def is_writing(self) -> bool:
        """Whether files are being written."""
        return self._writing.is_active

    def files(self) -> list[str]:
        """Name the files that :meth:`save` writes."""
        return [*_SAVED, *(f"labels/{name}.tif" for name in _file_names(self._shown))]

    def save(self, folder: str | Path) -> None:
        """Write tables, labels, record and report of the images that are shown, as the command line does."""
        if self.is_writing:
            self.said.emit(_BUSY)
        elif self._shown:
            items = [(found, self._regions(found)) for found in self._shown]
            rules = self.form.value
            self._writing.start(lambda: _save(Path(folder), items, rules), description="Saving results")

    def export(self, folder: str | Path, kind: Format) -> None:
        """Write the cells of the images that are shown for another program."""
        if self.is_writing:
            self.said.emit(_BUSY)
        elif self._shown:
            shown, rules = list(self._shown), self.form.value
            self._writing.start(lambda: _export(Path(folder), shown, kind, rules), description="Exporting cells")

    def _ask_where(self, action: QAction) -> None:
        self._kind = action.data()
        ask_for_folder(self, f"A folder for: {FORMATS[self._kind]}", self._export_there)

    def _export_there(self, folder: str) -> None:
        files = [f"{self._kind}/{file_name(name, self._kind)}" for name in _file_names(self._shown)]
        unless_there(self, folder, files, partial(self.export, folder, self._kind))


def shade(labels: Labels, cells: pd.DataFrame) -> None:
    """Show the cells that do not count in grey; without any, the layer has its own colours again.

    Parameters
    ----------
    labels : napari.layers.Labels
    cells : pandas.DataFrame
        From :func:`napari_tally.core.counting.apply_rules`. A number that comes in several planes is grey where it counts in none.
    """
    notes = notes_of(labels)
    own = notes.get("colours", labels.colormap)
    counts = cells.groupby("label")["counted"].any()
    if counts.all() or counts.index.max() > MANY_COLOURS or not isinstance(own, CyclicLabelColormap):
        if "colours" in notes:
            labels.colormap = notes.pop("colours")
        return
    colours = own.map(counts.index.to_numpy())
    colours[~counts.to_numpy(bool)] = _GREY
    of_id = dict(zip(counts.index.tolist(), colours, strict=True))
    notes["colours"], labels.colormap = own, DirectLabelColormap(color_dict={None: _NEW, 0: np.zeros(4)} | of_id)


def _save(folder: Path, items: Sequence[tuple["Counted", list[Region]]], rules: RuleSettings) -> Generator[None, None, str]:
    """Write the folder of results on the worker thread; give what to say."""
    from napari_tally.core.record import RunRecord
    from napari_tally.core.report import write_report

    first = items[0][0]
    ways = {(id(one.run.model), one.run.settings, one.counting) for one, _ in items}
    if len(ways) > 1:
        raise ValueError("These images were counted with different models or settings. Count all with one, or save them one by one.")
    (folder / "labels").mkdir(exist_ok=True)
    results = Results(rules)
    record = RunRecord.begin(first.run.model, first.run.source, first.run.settings, first.counting, rules)
    names = _file_names([found for found, _ in items])
    for (found, regions), name in zip(items, names, strict=True):
        made = yield from saying(results.measuring(found.found.labels, found.image, regions, "", *found.found.kinds), None)
        results.take(*(None if table is None else found.only(table) for table in made))
        labels, image = found.found.labels, found.image.calibrated(rules.pixel_size)
        if isinstance(labels, np.ndarray):
            yield from writing_labels(folder / "labels" / f"{name}.tif", labels, image.pixel_size)
        else:
            target = folder / "labels" / f"{name}.tif"
            writing = write_tiff_in_pieces(target, labels, image.shape, "uint32", image.pixel_size)
            yield from saying(writing, None)
        remarks = [
            *found.remarks,
            pixel_remark(found.image, rules),
            "Cells were corrected by hand after they were counted." * found.is_mended,
        ]
        if found.planes is not None:
            remarks.append(f"Only plane {few([str(plane) for plane in found.planes])} was looked at; the others are not counted.")
        record.add(image, found.layer.source.path, found.found, f"labels/{name}.tif", tuple(remarks))
        yield
    yield from saying(results.writing(folder), None)
    record.write(folder)
    yield
    write_report(folder)
    return f"Saved tables, labels, record.json and report.html in {folder}."


def _export(folder: Path, shown: Sequence["Counted"], kind: Format, rules: RuleSettings) -> Generator[None, None, str]:
    """Write one format on the worker thread; give what to say."""
    for found, name in zip(shown, _file_names(shown), strict=True):
        labels = found.found.labels
        if not isinstance(labels, np.ndarray):
            labels = np.stack([labels[p, : labels.shape[1], : labels.shape[2]] for p in range(labels.shape[0])]).astype(np.int32)
        image = found.image.calibrated(rules.pixel_size)
        slices = image.slices if "volume_vx" in found.cells else 1
        export(labels, name, folder, [kind], image.pixel_size, slices)
        yield
    return f"Exported {number(len(shown), 'image')} to {folder / kind}."


def _file_names(shown: Sequence["Counted"]) -> list[str]:
    """Turn the names of layers into those of files, no two alike."""
    names: dict[str, str] = {}
    for found in shown:
        plain = made = "".join("_" if c in '/\\:*?"<>|' else c for c in found.image.name).strip(". ") or "image"
        number = 1
        while made.lower() in names:
            number += 1
            made = f"{plain} {number}"
        names[made.lower()] = made
    return list(names.values())
