"""One page that says it all: the counts, what was found drawn on the images, how it was done, a paragraph for the paper.

The page is one HTML file without scripts and without anything from elsewhere, so it can be mailed, archived and printed. It is made of the
folder of results alone (core/results.py); images are shown where they are still at the place that the record names.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image as Pillow

import napari_tally
from napari_tally.core.audit import Audit
from napari_tally.core.corrected_count import Corrected
from napari_tally.core.files import whole_file
from napari_tally.core.image_files import decode, read_image
from napari_tally.core.overlay import overlay
from napari_tally.core.record import BY_HAND, changed_labels, read_record
from napari_tally.core.results import few
from napari_tally.core.tables import read_table
from napari_tally.core.words import number
from napari_tally.settings import RuleSettings, from_dict

NAME = "report.html"
_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_THUMBNAILS, _SIDE = 9, 300
_WIDTH, _HEIGHT = 420, 180
"""Of a plot, in pixels."""
_SQUARE, _EDGE = 260, 10
"""Side of the plot of hand against predicted counts, and how far its corners are inside, in pixels."""
_TRUE = ("true", "1", "1.0", "yes", "wahr", "vrai", "verdadero", "verdadeiro", "vero", "waar")
"""How spreadsheets write that a cell counts."""


@dataclass(frozen=True)
class Bar:
    """A bar of a plot, in pixels of the plot, with what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    says: str


@dataclass(frozen=True)
class Dot:
    """A dot of a plot, in pixels of the plot, with what it says when pointed at."""

    x: float
    y: float
    radius: float
    says: str


@dataclass(frozen=True, eq=False)
class Checked:
    """What an audit says of a folder of results.

    Attributes
    ----------
    count : Corrected
    windows : pandas.DataFrame
        The windows counted by hand, :meth:`napari_tally.core.audit.Audit.compared`.
    scope : str
        The cells that the corrected count is of, in words, where they are not those that the results count; "" where they are the same,
        so that it may stand in the place of their number.
    """

    count: Corrected
    windows: pd.DataFrame
    scope: str = ""

    @classmethod
    def by(cls, audit: Audit, record: dict[str, Any]) -> "Checked":
        """Compare what an audit covers with what the run record says was counted."""
        return cls(audit.total(), audit.compared(), _scope(audit, record))


def write_report(folder: str | Path, title: str = "", audit: Audit | None = None) -> Path:
    """Write report.html into a folder of results.

    Parameters
    ----------
    folder : str or Path
        What ``predict`` wrote, or *Save* in the window.
    title : str
        Left out: the name of the folder.
    audit : Audit, optional
        An audit of the labels of these results, with windows enough for an interval. Its corrected count becomes that of the page if it is
        of the same cells; else it is shown beside the number of cells, and the page says what it is of.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ValueError
        If the folder holds no results.
    """
    folder = Path(folder)
    tables = {name: _read(folder / f"{name}.csv") for name in ("counts", "cells", "regions", "groups")}
    if tables["counts"] is None or tables["cells"] is None:
        raise ValueError(
            f"{folder}: there are no results in this folder; counts.csv and cells.csv are wanted. 'napari-tally predict' writes them."
        )
    counts, cells, record = tables["counts"], tables["cells"], read_record(folder).content
    checked = Checked.by(audit, record) if audit else None
    counted = cells[_truth(cells["counted"])]
    many = counts["plane"].groupby(counts["image"]).transform("max") > 0
    counts = counts.assign(name=counts["image"].astype(str) + np.where(many, ", plane " + counts["plane"].astype(str), ""))
    known = bool(counts["cells_per_mm2"].notna().all())
    sizes = np.sqrt(4 / np.pi * counted["area_um2" if known else "area_px"].to_numpy(float))
    density = counts["cells_per_mm2"] if known else counts["count"]
    page = (
        _environment()
        .get_template(_TEMPLATE.name)
        .render(
            title=title or folder.resolve().name,
            total=int(counts["count"].sum()),
            images=counts["image"].nunique(),
            checked=checked,
            counts=counts.to_dict("records"),
            regions=_rows(tables["regions"]),
            groups=_rows(tables["groups"]),
            rule=counts["rule"].iloc[0],
            known=known,
            sizes=_histogram(sizes),
            size_range=(float(sizes.min()), float(np.median(sizes)), float(sizes.max())) if len(sizes) else None,
            densities=_bars(density.to_numpy(float), counts["name"].tolist()),
            density_top=float(density.max()),
            plot=(_WIDTH, _HEIGHT),
            dots=_dots(checked.windows) if checked else [],
            square=_SQUARE,
            most=int(checked.windows.to_numpy().max(initial=1)) if checked else 0,
            thumbnails=_thumbnails(folder, record),
            changed=say_changed(changed_labels(folder)),
            failed=say_failed([entry["name"] for entry in record.get("failed", [])], len(record["images"])),
            remarks=[(entry["name"], remark) for entry in record["images"] for remark in entry.get("remarks", [])],
            record=record,
            methods=methods(record, counts, checked),
            version=napari_tally.__version__,
        )
    )
    with whole_file(folder / NAME) as partial:
        partial.write_text(page, encoding="utf-8")
    return folder / NAME


def say_changed(names: Sequence[str]) -> str:
    """Say that labels are others than those that were counted; "" where none are."""
    text = f"The labels of {few(names)} were changed after they were counted, so the numbers are those of the labels as they were before."
    return f"{text} Count them anew with 'napari-tally count'." if names else ""


def say_failed(names: Sequence[str], counted: int) -> str:
    """Say that images could not be counted, beside those that were; "" where there are none."""
    what = f"{len(names)} of {len(names) + counted} images could not be counted, so they are in none of the numbers"
    return f"{what}: {few(names)}. The table failed.csv says why." if names else ""


def methods(record: dict[str, Any], counts: pd.DataFrame, checked: Checked | None = None) -> str:
    """Write the paragraph for the section "Methods" of a paper, in plain text.

    Parameters
    ----------
    record : dict
        The content of the run record.
    counts : pandas.DataFrame
        The table of images.
    checked : Checked, optional
    """
    settings, n = record["settings"], counts["image"].nunique()
    program = f"with napari-tally {record['versions']['napari-tally']}"
    where = number(n, "image")
    if record["model"]:
        how = f"PyTorch {record['versions']['torch']}, {record['device']}"
        network = record["model"].get("network", "U-Net (Ronneberger et al. 2015)")
        sentences = [f"Cells were counted in {where} {program} ({how}), in the way of Falk et al. 2019. The network is: {network}."]
        sentences += _how_found(record["model"], settings["counting"])
    else:
        sentences = [f"The cells of {where} were counted from label images {program}."]
    sentences.append(f"Counting rule: {counts['rule'].iloc[0]}.")
    if settings["rules"]["border"] == "frame":
        sentences.append(
            "This is the unbiased counting frame (Gundersen 1977), with the area of the image without its first row and column."
        )
    if settings.get("prediction", {}).get("diameter"):
        sentences.append(f"The diameter of the cells was stated as {settings['prediction']['diameter']:g} px.")
    if mended := sum(BY_HAND in " ".join(entry.get("remarks", [])) for entry in record["images"]):
        sentences.append(f"In {number(mended, 'image')} cells were then corrected by hand.")
    sentences.append(f"In all, {int(counts['count'].sum()):,} cells were counted.")
    sentences.append(_how_checked(checked) if checked else "The count was not checked against hand counts.")
    return " ".join(sentences)


def _how_checked(checked: Checked) -> str:
    count = checked.count
    by = f"by {count.clicks:,} cells counted by hand in {count.windows} randomly placed windows"
    result = f"{count.corrected:,.0f} (95 % confidence interval {count.low:,.0f} to {count.high:,.0f})"
    if not checked.scope:
        return f"The count was corrected {by}: {result}."
    return (
        f"This number is not corrected. The predictions were checked {by}; the corrected count is of {checked.scope}: "
        f"{result}, where {count.predicted:,.0f} cells were predicted."
    )


def _scope(audit: Audit, record: dict[str, Any]) -> str:
    """Say which cells an audit is of, where they are not those that were counted; "" where they are.

    An audit covers every cell whose middle lies in one of its windows, whatever the rule of the results says of it.
    """
    rules = from_dict(RuleSettings, record["settings"]["rules"])
    counted, audited = {entry["name"] for entry in record["images"]}, {image.name for image in audit.images}
    annotated = _leaves_out(audit)
    others = ["those at the border"] * (rules.border != "all") + ["small ones"] * (rules.smallest > 0)
    if not (others or annotated or counted != audited):
        return ""
    text = "all cells" + (f" ({' and '.join(others)} included)" if others else "")
    text += f" in {len(counted & audited)} of {number(len(counted), 'image')}"
    if more := len(audited - counted):
        text += f" and in {more} that {'is' if more == 1 else 'are'} not among them"
    return text + (f", without the windows that touch training annotations ({audit.left_out:,} predicted cells)" if annotated else "")


def _leaves_out(audit: Audit) -> bool:
    """Tell whether windows could not be drawn; there may be cells in them even where none is predicted."""
    w = audit.windows
    drawable = int(((w["bottom"] - w["top"]) * (w["right"] - w["left"])).sum())
    return audit.left_out > 0 or drawable < sum(int(np.prod(image.shape)) for image in audit.images)


def _how_found(model: dict[str, Any], found: dict[str, Any]) -> list[str]:
    training = model.get("training", {})
    origin = (
        f"started from {training['start']} and was trained for {training['steps']} steps"
        if "start" in training and training.get("steps")
        else "was used as it is"
    )
    if training.get("start_kept"):
        origin = f"is {training['start']}, which {training['steps']} steps of training on annotated images did not make better"
    if training.get("name"):
        origin = f"comes with the program ('{training['name']}')"
    thresholds = (
        f"seed threshold {found['seed_threshold']:g}, valley {found['valley']:g}, edge threshold {found['edge_threshold']:g}, "
        f"smoothing {found['smoothing']:g} px, smallest cell {found['min_area']:g} px"
    )
    return [
        f"The model (fingerprint {model['fingerprint']}) {origin}.",
        f"Cells were separated at the valleys of the predicted probability ({thresholds}).",
    ]


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["whole"] = lambda value: "–" if pd.isna(value) else f"{value:,.0f}"
    made.filters["short"] = lambda value: "–" if pd.isna(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return made


def _read(path: Path) -> pd.DataFrame | None:
    return read_table(path) if path.exists() else None


def _truth(column: pd.Series) -> pd.Series:
    """Read yes and no as spreadsheets of several languages write them; text would all be true to Python."""
    return column.astype(str).str.strip().str.lower().isin(_TRUE)


def _rows(table: pd.DataFrame | None) -> list[dict[Any, Any]]:
    return [] if table is None else table.to_dict("records")


def _histogram(values: np.ndarray) -> list[Bar]:
    """Draw a histogram; the bins follow Freedman and Diaconis, at most 40 of them."""
    if not len(values):
        return []
    bins = min(40, max(5, len(np.histogram_bin_edges(values, "fd")) - 1)) if np.ptp(values) else 1
    numbers, edges = np.histogram(values, bins)
    says = [f"{low:.3g} to {high:.3g}: {n}" for n, low, high in zip(numbers, edges, edges[1:], strict=False)]
    return _bars(numbers.astype(float), says, labelled=False)


def _bars(values: np.ndarray, says: Sequence[str], labelled: bool = True) -> list[Bar]:
    """Lay bars side by side, the largest as high as the plot."""
    top, step = max(np.nan_to_num(values).max(initial=0.0), 1e-12), _WIDTH / max(1, len(values))
    return [
        Bar(
            round(i * step, 2),
            round(_HEIGHT * (1 - v / top), 2),
            round(0.9 * step, 2),
            round(_HEIGHT * v / top, 2),
            f"{say}: {v:,.4g}" if labelled else say,
        )
        for i, (v, say) in enumerate(zip(np.nan_to_num(values), says, strict=True))
    ]


def _dots(windows: pd.DataFrame) -> list[Dot]:
    """Place a dot for the windows of each pair of counts, larger where there are several."""
    times = windows.value_counts(["predicted", "hand"], sort=False)
    most = max(1, int(windows.to_numpy().max(initial=1)))
    dots = []
    for (predicted, hand), n in times.items():
        x, y = (_EDGE + (_SQUARE - 2 * _EDGE) * value / most for value in (predicted, most - hand))
        says = f"{number(n, 'window')}: predicted {predicted}, counted {hand}"
        dots.append(Dot(round(x, 2), round(y, 2), round(min(3.5 * n**0.5, _EDGE), 2), says))
    return dots


def _thumbnails(folder: Path, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Give (caption, data URL) of up to nine images, spread over the study, with the outlines of the cells."""
    there = [
        entry
        for entry in record["images"]
        if entry.get("path") and Path(entry["path"]).exists() and entry.get("labels") and (folder / entry["labels"]).exists()
    ]
    chosen = [there[i] for i in np.unique(np.linspace(0, len(there) - 1, min(_THUMBNAILS, len(there))).astype(int))] if there else []
    made = []
    for entry in chosen:
        try:
            image, labels = read_image(entry["path"]), decode(folder / entry["labels"], palette=False).pixels
        except ValueError:  # the page has to do without what is no longer as it was
            continue
        if labels.shape[-2:] != image.shape[-2:]:
            continue
        plane = len(image.planes) // 2
        picture = Pillow.fromarray(overlay(image, labels, plane=plane))
        factor = _SIDE / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        content = io.BytesIO()
        picture.resize(size, Pillow.Resampling.LANCZOS if factor < 1 else Pillow.Resampling.NEAREST).save(content, "JPEG", quality=82)
        url = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
        shown = f", of which plane {plane} of {len(image.planes)} is shown (counted from 0)" if len(image.planes) > 1 else ""
        made.append((f"{entry['name']}: {entry['found']} cells found{shown}", url))
    return made
