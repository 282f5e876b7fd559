"""``napari-tally audit``: check a count by hand in random windows, and correct it."""

import argparse
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_tally.cli._parts import Commands, add_settings, settings_from
from napari_tally.cli._results import say_others
from napari_tally.core import words
from napari_tally.settings import AuditSettings

if TYPE_CHECKING:
    import pandas as pd

    from napari_tally.core.audit import Audit, Window
    from napari_tally.core.corrected_count import Corrected

_PLACE = ["plane", "top", "left", "bottom", "right"]
_TABLE = ["window", "image", *_PLACE, "hand"]
_NUMBERS = ["window", *_PLACE, "hand"]
_ROUNDED = 0.005
"""By what part a spreadsheet changes a large number that it saves as it shows it: 1.23E+06."""


def register(command: Commands) -> None:
    """Add the command with its three steps."""
    parser = command("audit", run, "Check a count by hand in random windows: draw them, count in them, and get the corrected count.")
    steps = parser.add_subparsers(title="steps", required=True, metavar="STEP", dest="step")
    draw = steps.add_parser("draw", help="draw counting windows over all images", formatter_class=parser.formatter_class)
    draw.add_argument("--labels", type=Path, required=True, metavar="DIR", help="the results of 'predict', or a folder of label images")
    draw.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the images, by stem: they show where cells may be missed, and windows become pictures",
    )
    draw.add_argument("--trained", type=Path, metavar="DIR", help="label images used in training: what is annotated there is not drawn")
    draw.add_argument("--groups", type=Path, metavar="CSV", help="a table with the columns image (stem) and group")
    draw.add_argument("--out", type=Path, required=True, metavar="STUDY", help="folder that gets audit.json, windows.csv and windows/")
    add_settings(draw, AuditSettings)
    more = steps.add_parser("more", help="add windows to an audit", formatter_class=parser.formatter_class)
    more.add_argument("study", type=Path, metavar="STUDY")
    more.add_argument("--windows", type=int, default=10, metavar="INT", help="how many more")
    more.add_argument("--images", type=Path, metavar="DIR", help="the images, for pictures of the new windows")
    report = steps.add_parser("report", help="correct the count by the hand counts", formatter_class=parser.formatter_class)
    report.add_argument("study", type=Path, metavar="STUDY")
    points = "clicks instead of windows.csv: columns image, y, x and, where there are stacks, plane; all windows count as done"
    report.add_argument("--points", type=Path, metavar="CSV", help=points)


def run(arguments: argparse.Namespace) -> None:
    """Run a step."""
    {"draw": _draw, "more": _more, "report": _report}[arguments.step](arguments)


def _draw(arguments: argparse.Namespace) -> None:
    from napari_tally.core.annotations import known_labels, require_ids
    from napari_tally.core.audit import StudyImage, draw_audit
    from napari_tally.core.audit_file import write_audit
    from napari_tally.core.image_files import list_images, read_image
    from napari_tally.core.label_files import read_labels
    from napari_tally.core.record import recorded_labels
    from napari_tally.core.results import few, read_groups
    from napari_tally.core.tables import read_table

    settings = settings_from(AuditSettings, arguments)
    out: Path = arguments.out
    table = out / "windows.csv"
    if (out / "audit.json").exists():
        raise ValueError(f"{out} holds an audit already; name another folder, or add windows with: napari-tally audit more {out}")
    if table.exists() and read_table(table, ["hand"], ["hand"])["hand"].notna().any():
        raise ValueError(f"{table} holds hand counts, and the audit.json that they belong to is gone; name another folder for this audit.")
    labels, others = recorded_labels(arguments.labels)
    say_others(others)
    pictures = list_images(arguments.images) if arguments.images else {}
    _require_pictures(arguments.images, pictures, labels)
    trained = list_images(arguments.trained) if arguments.trained else {}
    if trained:
        _compare_stems(arguments.trained, trained, labels)
    groups = read_groups(arguments.groups) if arguments.groups else {}
    if groups and (without := [stem for stem in labels if stem not in groups]):
        print(f"Note: the table of groups does not name {few(without)}.")

    def study() -> "Iterator[StudyImage]":
        for stem, path in labels.items():
            cells = require_ids(read_labels(path), path)
            known = known_labels(read_labels(trained[stem])) >= 0 if stem in trained else None
            image = read_image(pictures[stem]) if stem in pictures else None
            yield StudyImage(stem, cells, groups.get(stem, ""), known, image.fingerprint if image else "", image)

    audit = draw_audit(study(), settings)
    out.mkdir(parents=True, exist_ok=True)
    # Pictures take long and may be stopped; whoever counts without them must have the audit too.
    _write_windows(table, audit)
    write_audit(out / "audit.json", audit)
    _write_pictures(out / "windows", audit, 0, pictures)
    total = audit.total()
    where = words.number(len(audit.images), "image")
    print(f"Drew {audit.wanted} windows of {len(audit.windows)} in {where} with {total.predicted:.0f} predicted cells.")
    if audit.left_out:
        print(f"Note: windows that touch training annotations are left out, with {audit.left_out} predicted cells in them.")
    if not pictures:
        print("Note: with --images, windows go by what is seen in the images too: the interval is narrower where cells are missed.")
    print(f"Write the number of cells of each window into the column 'hand' of {table}: those whose middle lies in the window.")
    print(f"Then: napari-tally audit report {out}")


def _require_pictures(folder: Path, pictures: Collection[str], names: Iterable[str]) -> None:
    if pictures and (missing := [stem for stem in names if stem not in pictures]):
        raise ValueError(f"{folder}: no image belongs to the labels {', '.join(missing[:3])}. Name images and labels alike.")


def _compare_stems(folder: Path, trained: Collection[str], labels: Collection[str]) -> None:
    """Say which training labels belong to no image of the study: windows would be drawn in what the model has learnt from."""
    from napari_tally.core.results import few

    strangers = [stem for stem in trained if stem not in labels]
    if len(strangers) == len(trained):
        raise ValueError(
            f"{folder}: no training label image ({few(strangers, 3)}) is called as an image that is counted ({few(list(labels), 3)}). "
            "Name them alike, or leave --trained out if the model was trained on none of these images."
        )
    if strangers:
        print(f"Note: {len(strangers)} of {len(trained)} training labels belong to no image that is counted: {few(strangers)}.")


def _more(arguments: argparse.Namespace) -> None:
    from napari_tally.core.audit_file import read_audit, write_audit
    from napari_tally.core.image_files import list_images
    from napari_tally.core.tables import read_table

    if arguments.windows < 1:
        raise ValueError(f"--windows is {arguments.windows}; a number from 1 on is wanted.")
    audit = read_audit(arguments.study / "audit.json")
    pictures = list_images(arguments.images) if arguments.images else {}
    before = audit.wanted
    added = audit.add_windows(arguments.windows) - before
    _require_pictures(arguments.images, pictures, dict.fromkeys(audit.window(n).image for n in range(before, audit.wanted)))
    # First the table, which may be open in a spreadsheet: windows that only the audit knows would never be counted.
    table = arguments.study / "windows.csv"
    _write_windows(table, audit, read_table(table, _TABLE, _NUMBERS) if table.exists() else None)
    write_audit(arguments.study / "audit.json", audit)
    _write_pictures(arguments.study / "windows", audit, before, pictures)
    print(f"Added {added} windows to {arguments.study / 'windows.csv'}; there are {audit.wanted} now.")


def _report(arguments: argparse.Namespace) -> None:
    from napari_tally.core.audit_file import read_audit, write_audit
    from napari_tally.core.tables import read_table, write_table

    out: Path = arguments.study
    audit = read_audit(out / "audit.json")
    if arguments.points:
        _take_points(audit, read_table(arguments.points, ["image", "y", "x"], ["plane", "y", "x"]))
    elif (out / "windows.csv").exists():
        _take_counts(audit, _counts_in(read_table(out / "windows.csv", ["window", "hand"], _NUMBERS), audit))
    if not audit.counts:
        where, how = out / "windows.csv", "write the number of cells of each into the column 'hand'"
        if not where.exists():
            where, how = out / "audit.json", "count some with '4 Check the count' in napari"
        raise ValueError(f"{where}: no window is counted yet; {how}.")
    write_audit(out / "audit.json", audit)
    total, table = audit.total(), audit.table()
    write_table(out / "corrected.csv", table)
    print(describe(total))
    gaps = [str(n + 1) for n in range(max(audit.counts)) if n not in audit.counts]
    if gaps:
        which, them = ("windows {} are", "them") if len(gaps) > 1 else ("window {} is", "it")
        which = which.format(", ".join(gaps))
        print(f"Note: {which} passed over. Count {them} too: leaving out what is hard to count spoils the interval.")
    margin = audit.expected_margin(10)
    if margin == margin:  # not NaN
        print(f"Ten more windows would narrow it to about ±{margin:,.0f}.")
    if audit.left_out:
        print(f"Not contained: {audit.left_out} predicted cells in windows that touch training annotations.")
    for row in table[table["what"] == "group"].itertuples():
        known = (
            f"corrected {row.corrected:,.0f} ({row.low:,.0f} to {row.high:,.0f})" if row.low == row.low else "too few windows to correct"
        )
        print(f"  {row.name}: predicted {row.predicted:,.0f}, {known}, {_windows(row.windows)}")
    print(f"Every image: {out / 'corrected.csv'}")


def describe(total: "Corrected") -> str:
    """Say the corrected count in a line."""
    if not total.windows:
        return f"Predicted {total.predicted:,.0f}; no window is counted yet."
    by_hand = f"from {_windows(total.windows)}, {total.clicks} cell{'s' * (total.clicks != 1)} counted by hand."
    if total.corrected != total.corrected:  # NaN
        return f"Predicted {total.predicted:,.0f}; too few windows to correct it, {by_hand}"
    interval = f"({total.low:,.0f} to {total.high:,.0f}, 95 % interval)" if total.known else "(too few windows for an interval)"
    return f"Predicted {total.predicted:,.0f}, corrected {total.corrected:,.0f} {interval}, {by_hand}"


def _windows(n: int) -> str:
    return f"{n} window{'s' * (n != 1)}"


def _write_windows(path: Path, audit: "Audit", before: "pd.DataFrame | None" = None) -> None:
    """Write the table of windows to fill in; what is in the one before stays, windows that it lacks are added.

    The predicted count of a window is not in it: who knows it counts otherwise. Nor are counts by clicks, which may change in the window,
    nor what stood in rows that were taken out.
    """
    import pandas as pd

    from napari_tally.core.tables import write_table

    there = set() if before is None else set(before["window"])
    rows = []
    for number in range(audit.wanted):
        if number + 1 not in there:
            w = audit.window(number)
            hand = audit.counts.get(number) if before is None and number not in audit.clicks else None
            rows.append([number + 1, w.image, w.plane, w.top, w.left, w.bottom, w.right, hand])
    table = pd.DataFrame(rows, columns=_TABLE)
    table["hand"] = table["hand"].astype("Int64")
    if before is not None:
        table = pd.concat([before, table], ignore_index=True) if rows else before
    write_table(path, table)


def _write_pictures(folder: Path, audit: "Audit", first: int, pictures: dict[str, Path]) -> None:
    """Write the windows from a position of the order on as pictures to count in, where there are images."""
    if not pictures:
        return
    from PIL import Image as Pillow

    from napari_tally.core.files import fitting_name
    from napari_tally.core.image_files import read_image
    from napari_tally.core.overlay import frame_picture

    folder.mkdir(exist_ok=True)
    for number in range(first, audit.wanted):
        window = audit.window(number)
        picture = Pillow.fromarray(frame_picture(read_image(pictures[window.image]), window))
        picture.save(folder / fitting_name(f"{number + 1:03d}_{window.image}", ".png"))


def _counts_in(table: "pd.DataFrame", audit: "Audit") -> dict[int, int]:
    """Give the hand counts of the table by the position of their window, where there is one."""
    names = {image.name for image in audit.images}
    listed, counts = set(), {}
    for row in table.dropna(subset=["window", "hand"], how="all").to_dict("records"):
        number, hand = row["window"], row["hand"]
        if number != number:  # NaN
            raise ValueError(f"windows.csv: a row has the hand count {hand:g} and no window; write its window, or take the row out.")
        if number not in range(1, audit.wanted + 1):
            raise ValueError(f"windows.csv: there is no window {number:g} in this audit; its windows are 1 to {audit.wanted}.")
        if number in listed:
            raise ValueError(f"windows.csv: window {number:g} is listed twice; keep one of its rows.")
        listed.add(number)
        window = audit.window(int(number) - 1)
        if not _is_of(row, window, names):
            raise ValueError(
                f"windows.csv: the row of window {number:g} is of another place; this window lies on {window.image}, plane {window.plane}, "
                f"rows {window.top} to {window.bottom}, columns {window.left} to {window.right}. Sort whole rows, not one column."
            )
        if hand == hand:
            if not (0 <= hand <= window.pixels and hand % 1 == 0):
                wanted = f"a whole number from 0 to {window.pixels}, a cell a pixel, is wanted"
                raise ValueError(f"windows.csv: window {number:g} has the hand count {hand:g}; {wanted}.")
            counts[int(number) - 1] = int(hand)
    return counts


def _is_of(row: Mapping[str, Any], window: "Window", names: Collection[str]) -> bool:
    """Whether a row is of a window, by what it says of its place.

    It may say nothing, and a spreadsheet may have rounded a number or changed a name (001 to 1), but not to that of another image.
    """
    places = [(row[name], getattr(window, name)) for name in _PLACE if name in row and row[name] == row[name]]
    near = all(math.isclose(here, there, rel_tol=_ROUNDED, abs_tol=0.5) for here, there in places)
    return near and (row.get("image") == window.image or row.get("image") not in names)


def _take_counts(audit: "Audit", counts: Mapping[int, int]) -> None:
    """Take the numbers of the table; a count that it has not stays only where the window was counted by clicks."""
    for number in set(audit.counts) - set(counts):
        _forget_number(audit, number)
    differs = [
        str(number + 1)
        for number, hand in sorted(counts.items())
        if (clicked := audit.clicks.get(number)) and audit.window(number).holds(clicked).sum() != hand
    ]
    audit.counts |= counts
    if counts and len(audit.counts) > len(counts):
        print(f"Windows counted: {len(counts)} in windows.csv, {len(audit.counts) - len(counts)} more by clicks.")
    if differs:
        which = f"window{'s' * (len(differs) > 1)} {', '.join(differs)}"
        print(f"Note: the clicks in {which} are not as many as windows.csv says; the number in the table is taken.")


def _forget_number(audit: "Audit", number: int) -> None:
    """Drop the count of a window that has none in the table, unless it was counted by clicks (none, where there is no cell)."""
    if clicks := audit.clicks.get(number):
        audit.count_clicks(number, clicks)  # the table may have said another number before
    elif clicks is None or audit.counts[number]:
        del audit.counts[number]


def _take_points(audit: "Audit", table: "pd.DataFrame") -> None:
    names = table["image"].astype(str)
    if unknown := sorted(set(names) - {image.name for image in audit.images}):
        raise ValueError(f"The points name images that are not in the audit: {', '.join(unknown[:3])}.")
    if "plane" not in table and (audit.windows["plane"] > 0).any():
        raise ValueError(
            "The points have no column 'plane', but there are stacks among the images of the audit. Add it: 0 = the first plane of a stack."
        )
    planes = table["plane"] if "plane" in table else 0 * table["y"]
    clicks = []
    for number in range(audit.wanted):
        window = audit.window(number)
        here = table[(names == window.image) & (planes == window.plane)]
        clicks.append([place for place in zip(here["y"], here["x"], strict=True) if window.holds([place]).item()])
    inside = sum(map(len, clicks))
    if not inside:
        raise ValueError(f"None of the {len(table)} points lies in a window of the audit; y and x in pixels of the images are wanted.")
    if inside < len(table):
        print(f"Note: {len(table) - inside} of {len(table)} points lie in no window and are left out.")
    for number, places in enumerate(clicks):
        audit.count_clicks(number, places)
