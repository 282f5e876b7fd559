"""The tables of a study: regions, groups, and nothing of an earlier run."""

import numpy as np
import pandas as pd
import pytest
from pictures import picture

from napari_tally.core.events import run_to_end
from napari_tally.core.images import as_image
from napari_tally.core.regions import Region
from napari_tally.core.results import Results, by_group, group_of, read_groups
from napari_tally.settings import RuleSettings

LABELS = picture("""
    1.....
    ..22..
    ..22.3
    """)
LEFT = Region("left", (np.array([[-0.5, -0.5], [-0.5, 2.5], [2.5, 2.5], [2.5, -0.5]]),))  # columns 0 to 2; cell 2 lies on its edge


def image(name="a", pixel_size=(10.0, 10.0)):
    return as_image(LABELS * 10, name=name, pixel_size=pixel_size)


def results(rules=None, **more):
    made = Results(rules or RuleSettings())
    made.add(LABELS, image(), **more)
    return made


def test_a_row_a_region_and_one_for_the_rest():
    regions = results(regions=[LEFT, Region("empty", (LEFT.outlines[0] + (0, 100),))]).tables()["regions"]
    assert regions["region"].tolist() == ["left", "empty", "outside"]
    assert regions["count"].tolist() == [2, 0, 1]
    assert regions["area_px"].tolist() == [9, 0, 9]
    np.testing.assert_allclose(regions["cells_per_mm2"], [2 / 900e-6, np.nan, 1 / 900e-6])
    np.testing.assert_allclose(regions["covered_percent"], [500 / 9, np.nan, 100 / 9])


def test_the_rule_applies_in_regions_too_and_is_written():
    tables = results(RuleSettings(border="frame", smallest=2), regions=[LEFT]).tables()
    assert tables["counts"]["count"].tolist() == [1]
    assert tables["counts"]["found"].tolist() == [3]
    assert tables["regions"]["count"].tolist() == [1, 0]
    words = "unbiased frame: cells that do not touch the top or left edge, of at least 2 px"
    assert {*tables["counts"]["rule"], *tables["regions"]["rule"]} == {words}


@pytest.mark.parametrize("types", [None, np.array([0, 2, 1, 2], np.uint8)])
def test_cells_that_are_measured_are_counted_by_other_rules(types):
    how = {"types": types, "n_types": 3}
    rules = RuleSettings(border="frame", smallest=2)
    measured, *_ = run_to_end(Results().measuring(LABELS, image("a"), [LEFT], "x", **how))
    for regions, group in (([LEFT], "y"), (None, "")):
        wanted = run_to_end(Results(rules).measuring(LABELS, image("a"), regions, group, **how))
        made = Results(rules).by_rules(measured, image("a"), regions, group, 3)
        for one, other in zip(made, wanted, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                pd.testing.assert_frame_equal(one, other)


def test_groups_are_compared_by_image_not_by_plane():
    made = Results()
    made.add(LABELS, image("a"), group="control")
    made.add(np.zeros_like(LABELS), image("b"), group="control")
    made.add(np.stack([LABELS, LABELS]), as_image(np.stack([LABELS] * 2), name="c", pixel_size=(10.0, 10.0)), group="drug")
    groups = made.tables()["groups"].set_index("group")
    assert groups["images"].to_dict() == {"control": 2, "drug": 1}
    assert groups["count"].to_dict() == {"control": 3, "drug": 6}
    assert groups["mean_count"].to_dict() == {"control": 1.5, "drug": 6}
    assert groups.loc["control", "sd_count"] == pytest.approx(np.std([3, 0], ddof=1))
    assert np.isnan(groups.loc["drug", "sd_count"])
    assert groups.loc["control", "cells_per_mm2"] == pytest.approx(3 / 3600e-6)
    assert groups.loc["drug", "cells_per_mm2"] == pytest.approx(6 / 3600e-6)
    assert made.tables()["cells"]["group"].tolist() == ["control"] * 3 + ["drug"] * 6


def test_a_group_with_an_unknown_pixel_size_has_no_density():
    made = Results()
    made.add(LABELS, image("a"), group="x")
    made.add(LABELS, image("b", None), group="x")
    (row,) = by_group(made.tables()["counts"]).to_dict("records")
    assert row["count"] == 6
    assert np.isnan([row["area_mm2"], row["cells_per_mm2"], row["mean_cells_per_mm2"]]).all()


def test_tables_are_written_anew_and_old_ones_go(tmp_path):
    results(regions=[LEFT], group="x").write(tmp_path)
    names = {"cells.csv", "counts.csv", "regions.csv", "groups.csv"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    results().write(tmp_path)
    assert {path.name for path in tmp_path.glob("*.csv")} == {"cells.csv", "counts.csv"}
    assert len(pd.read_csv(tmp_path / "cells.csv")) == 3


def test_parquet_where_it_can_be(tmp_path):
    written = results().write(tmp_path)
    assert [path.name for path in written] == ["cells.csv", "cells.parquet", "counts.csv", "counts.parquet"]
    assert pd.read_parquet(tmp_path / "cells.parquet")["area_px"].tolist() == [1, 4, 1]


@pytest.mark.parametrize("text", ["image,group\na.tif,x\nb,y\n", "\ufeffimage;group\na;x\nb;y\n", "group\timage\nx\ta.tif\ny\tb.png\n"])
def test_a_table_of_groups_as_spreadsheets_write_it(tmp_path, text):
    (tmp_path / "groups.csv").write_text(text, encoding="utf-8")
    groups = read_groups(tmp_path / "groups.csv")
    assert groups == {"a": "x", "b": "y"}
    assert group_of(tmp_path / "a.tif", groups) == "x"
    assert group_of(tmp_path / "drug" / "c.tif", None) == "drug"
    with pytest.raises(ValueError, match="c.tif has no group; add a line for c"):
        group_of(tmp_path / "c.tif", groups)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,kind\na,b\n", "here are name, kind"),
        ("image,group\na,x\na,y\n", "an image belongs to one"),
        ("image,group\na,x\nb,\n", "the line of b names no group"),
    ],
)
def test_a_table_of_groups_that_cannot_be_used(tmp_path, text, says):
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_groups(tmp_path / "groups.csv")


def test_names_with_dots_numbers_and_links(tmp_path):
    (tmp_path / "groups.csv").write_text("image,group\nexp1.5um,A\n001,B\nx.tif,NA\n")
    assert read_groups(tmp_path / "groups.csv") == {"exp1.5um": "A", "001": "B", "x": "NA"}
    for name in ("raw", "treated"):
        (tmp_path / name).mkdir()
    (tmp_path / "raw" / "x.tif").touch()
    (tmp_path / "treated" / "x.tif").symlink_to(tmp_path / "raw" / "x.tif")
    assert group_of(tmp_path / "treated" / "x.tif", None) == "treated"  # a study that is sorted by links
