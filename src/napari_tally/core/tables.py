"""Tables in files: CSV as it is written here, and as spreadsheets of any country give it back."""

import csv
import io
import reprlib
from collections.abc import Collection, Generator
from pathlib import Path

import numpy as np
import pandas as pd

from napari_tally.core.events import run_to_end
from napari_tally.core.files import require_file, whole_file

_ROWS = 20_000
"""Rows that are written between two moments at which a caller may walk away."""
_WORDS = ("image", "group", "region", "rule", "what", "name")
"""Columns of words: an image may be called 001, or NA."""


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table as CSV (UTF-8, decimal points, 10 significant digits), whole or not at all."""
    run_to_end(writing_table(path, table))


def writing_table(path: str | Path, table: pd.DataFrame) -> Generator[float, None, None]:
    """Do :func:`write_table`; yield the fraction that is done."""
    # A name that is no text, of a file on Linux, is written with escapes.
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        for first in range(0, max(1, len(table)), _ROWS):
            table.iloc[first : first + _ROWS].to_csv(file, index=False, header=first == 0, float_format="%.10g")
            yield min(1.0, (first + _ROWS) / max(1, len(table)))


def read_table(source: str | Path | io.StringIO, wanted: Collection[str] = (), numbers: Collection[str] = ()) -> pd.DataFrame:
    """Read a table of comma-separated values, or with semicolons or tabs and decimal commas.

    Parameters
    ----------
    source : str, Path or io.StringIO
        The file, or its text.
    wanted : collection of str
        Columns that must be there.
    numbers : collection of str
        Columns that hold finite numbers, where they are there; an empty field is NaN.

    Returns
    -------
    pandas.DataFrame
        Names of images, groups and regions are text, however much they look like a number.

    Raises
    ------
    ValueError
        If the file cannot be read, a wanted column is missing or there twice, or one of numbers holds something else.
    """
    name = "The table" if isinstance(source, io.StringIO) else source
    try:
        if not isinstance(source, io.StringIO):
            require_file(Path(source))
        text = source if isinstance(source, io.StringIO) else io.StringIO(_text_of(Path(source).read_bytes()))
        head = text.readline()
        if head.lower().startswith("sep="):  # Excel's own note of what stands between the fields
            head = text.readline()
            text = io.StringIO(head + text.read())
        text.seek(0)
        between = max(",;\t", key=head.count)
        words = {"dtype": dict.fromkeys((*_WORDS, *numbers), str), "keep_default_na": False, "na_values": [""]}
        rows = (row for row in csv.reader(text, delimiter=between) if row)
        names, first = next(rows, []), next(rows, [])
        if numbers and len(first) > len(names):  # pandas would take the first fields for names of rows, and move all others
            raise ValueError(
                f"the first row has {len(first)} fields, the head {len(names)}; with decimal commas, put semicolons between them"
            )
        text.seek(0)
        table = pd.read_csv(text, sep=between, decimal="." if between == "," else ",", **words)
    except (OSError, ValueError, csv.Error) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{name}: this is no table of comma-separated values ({error}).") from error
    if missing := [column for column in wanted if column not in table]:
        have = ", ".join(map(str, table))
        raise ValueError(f"{name}: the column {missing[0]!r} is missing; wanted are {', '.join(wanted)}, here are {have}.")
    if twice := [column for column in (*wanted, *numbers) if names.count(column) > 1]:
        raise ValueError(f"{name}: the column {twice[0]!r} is there twice; take one of them out.")
    return table.assign(**{column: _numbers(table, column, name, between) for column in numbers if column in table})


def _numbers(table: pd.DataFrame, column: str, name: object, between: str) -> "pd.Series[float]":
    """Turn a column of text into numbers; `name` is that of the table, `between` what stands between its fields."""
    text = table[column].str.strip()
    text = text if between == "," else text.str.replace(",", ".")
    found = pd.to_numeric(text.mask(text == ""), errors="coerce")
    if (odd := table[text.fillna("").ne("") & ~np.isfinite(found)]).size:
        value, row = reprlib.repr(odd[column].iloc[0]), f"{odd.columns[0]} {odd.iloc[0, 0]}"
        raise ValueError(f"{name}: the column {column!r} holds something that is no number: {value}, in the row of {row}. Write a number.")
    return found


def _text_of(content: bytes) -> str:
    """Decode what a spreadsheet writes: UTF-8, UTF-16 with its mark, else the letters of Windows in western countries."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")
