"""Tables go into files and come back, from spreadsheets too."""

import io

import numpy as np
import pandas as pd
import pytest

from napari_tally.core.tables import read_table, write_table

CELLS = pd.DataFrame(
    {"image": ["001", "NA", "well A1"], "area_px": [5, 6, 7], "eccentricity": [0.5, np.nan, 1 / 3], "group": ["1e5", "", "a;b"]}
)


def test_written_whole(tmp_path):
    write_table(tmp_path / "cells.csv", CELLS)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.csv"]
    assert (tmp_path / "cells.csv").read_text().splitlines()[1:] == ["001,5,0.5,1e5", "NA,6,,", "well A1,7,0.3333333333,a;b"]


def test_names_come_back_as_they_were(tmp_path):
    write_table(tmp_path / "cells.csv", CELLS)
    again = read_table(tmp_path / "cells.csv")
    assert again["image"].tolist() == ["001", "NA", "well A1"]
    assert again["group"].fillna("").tolist() == ["1e5", "", "a;b"]
    assert again["eccentricity"].round(4).tolist()[::2] == [0.5, 0.3333]


@pytest.mark.parametrize(
    "text",
    ["image,y,x\n001,1.5,2\n", "\ufeffimage;y;x\n001;1,5;2\n", "image\ty\tx\n001\t1,5\t2\n", "image;y;x\n001;1.5;2\n"],
    ids=["commas", "semicolons and decimal commas, with a mark", "tabs", "semicolons and decimal points"],
)
def test_a_table_of_any_country(tmp_path, text):
    (tmp_path / "points.csv").write_bytes(text.encode())
    table = read_table(tmp_path / "points.csv", ["image", "y", "x"], ["y", "x"])
    assert table.to_dict("list") == {"image": ["001"], "y": [1.5], "x": [2]}


@pytest.mark.parametrize("letters", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_letters_of_any_spreadsheet(tmp_path, letters):
    (tmp_path / "groups.csv").write_bytes("sep=;\r\nimage;group\r\n001;Ödem\r\n".encode(letters))
    assert read_table(tmp_path / "groups.csv").to_dict("list") == {"image": ["001"], "group": ["Ödem"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "this is no table of comma-separated values \\(No columns"),
        (b"\xff\xfe\x00", "this is no table of comma-separated values \\('utf-16"),
        (b"\x81\x8d", "this is no table of comma-separated values \\('charmap"),
        (b"image,hand\na,1\nb,2,3\n", "this is no table of comma-separated values \\(Error tokenizing"),
        (b"picture,hand\na,1\n", "the column 'image' is missing; wanted are image, here are picture, hand."),
        (b"image,hand\na,1\nb,many\n", "the column 'hand' holds something that is no number: 'many', in the row of image b."),
        (b'image,hand\na,"3,5"\n', "the column 'hand' holds something that is no number: '3,5', in the row of image a."),
        (b"image,hand\na,True\n", "the column 'hand' holds something that is no number: 'True', in the row of image a."),
        (b"image,hand\na,inf\n", "the column 'hand' holds something that is no number: 'inf', in the row of image a."),
        (b"image,hand\na,1e999\n", "the column 'hand' holds something that is no number: '1e999', in the row of image a."),
        (b"image,hand,hand\na,1,2\n", "the column 'hand' is there twice; take one of them out."),
        (
            b"image,hand\na,3,5\n",
            "this is no table of comma-separated values \\(the first row has 3 fields, the head 2; with decimal commas",
        ),
    ],
)
def test_what_is_no_such_table(tmp_path, text, says):
    (tmp_path / "bad.csv").write_bytes(text)
    with pytest.raises(ValueError, match=f"bad.csv: {says}"):
        read_table(tmp_path / "bad.csv", ["image"], ["hand"])


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(ValueError, match="none.csv: this is no table of comma-separated values"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="The table: this is no table"):
        read_table(io.StringIO(""))
