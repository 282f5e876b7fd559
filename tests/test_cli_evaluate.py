"""The command `evaluate`: every line that it prints, of pictures worked out by hand."""

import json

import numpy as np
import pytest
import tifffile
from pictures import FOUND, TRUTH, TYPED_FOUND, TYPED_TRUTH

from napari_tally.cli import main
from napari_tally.core.metrics import evaluate
from napari_tally.core.overlap import overlap
from napari_tally.core.pixel_metrics import partition, rand_error, warping_error


@pytest.fixture
def compare(tmp_path, capsys):
    """Give a function that writes label images, compares them and gives the lines that are printed."""

    def compare(truth: dict[str, np.ndarray], found: dict[str, np.ndarray], *more: object) -> list[str]:
        for folder, images in (("truth", truth), ("labels", found)):
            (tmp_path / folder).mkdir(exist_ok=True)
            for name, labels in images.items():
                tifffile.imwrite(tmp_path / folder / f"{name}.tif", labels.astype(np.int32))
        command = ["evaluate", "--predicted", tmp_path / "labels", "--truth", tmp_path / "truth", *more]
        capsys.readouterr()
        assert main([str(a) for a in command]) == 0
        return capsys.readouterr().out.splitlines()

    return compare


def test_every_line_of_the_scores(compare, tmp_path):
    """By hand in tests/core/test_metrics.py; of 40 pixels 11 are cell in both, 17 in the truth and 14 in the prediction."""
    lines = compare({"a": TRUTH}, {"a": FOUND}, "--json", tmp_path / "scores.json")
    shared = overlap(TRUTH, FOUND)
    within = partition(shared)
    assert lines == [
        "   IoU      AP      F1  precision  recall  found  false  missed",
        "   0.5   0.400   0.571      0.500   0.667      2      2       1",
        "   0.6   0.400   0.571      0.500   0.667      2      2       1",
        "   0.7   0.167   0.286      0.250   0.333      1      3       2",
        "   0.8   0.000   0.000      0.000   0.000      0      4       3",
        "   0.9   0.000   0.000      0.000   0.000      0      4       3",
        "Counted 4 cells, true 3 (+33.3 %), in 1 image; mean absolute error 1.00 cells an image.",
        "",
        f"panoptic quality      {(6 / 8 + 3 / 5) / 3.5:.3f}",
        f"SEG                   {(6 / 8 + 3 / 5) / 3:.3f}",
        f"pixel IoU             {11 / 20:.3f}",
        f"mean IoU              {(11 / 20 + 20 / 29) / 2:.3f}",
        f"Dice                  {22 / 31:.3f}",
        f"Rand score            {within.rand:.3f}",
        f"information score     {within.information:.3f}",
        f"Rand error          {rand_error(shared):7.3g}",
        f"warping error       {warping_error(TRUTH, FOUND):7.3g}",
    ]
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert scores == pytest.approx(evaluate([("a", TRUTH, FOUND)]).scores)


def test_a_small_error_is_not_nought(compare):
    """One false cell of one pixel in 90,000."""
    truth = np.zeros((300, 300), int)
    truth[20:40, 20:40] = 1
    found = truth.copy()
    found[100, 100] = 2
    lines = compare({"a": truth}, {"a": found})
    n, background = 300**2, 300**2 - 400
    assert f"Rand error          {2 * (background - 1) / (n * (n - 1)):7.3g}" in lines
    assert lines[-2:] == ["Rand error          2.21e-05", "warping error       1.11e-05"]
    assert compare({"a": truth}, {"a": truth})[-2:] == ["Rand error                0", "warping error             0"]


def test_every_line_of_the_types(compare, tmp_path):
    """By hand in tests/core/test_type_scores.py."""
    wish = "--types", 2, "--ids-per-type", 4, "--json", tmp_path / "scores.json"
    table = [
        "",
        "class            IoU    Dice    true  counted      bias",
        "background     0.857   0.923",
        "type 1         0.500   0.667       2        1   -50.0 %",
        "type 2         0.250   0.400       2        2    +0.0 %",
        "mean           0.536   0.663",
        "",
        "              AP 0.5  AP 0.6  AP 0.7  AP 0.8  AP 0.9  F1 0.5  F1 0.6  F1 0.7  F1 0.8  F1 0.9",
        "type 1      " + 5 * "   0.500" + 5 * "   0.667",
        "type 2      " + 5 * "   0.333" + 5 * "   0.500",
    ]
    by_number = compare({"a": TYPED_TRUTH}, {"a": TYPED_FOUND}, *wish)
    assert by_number[-11:] == [*table, "Types of the predicted cells are told by their numbers, 4 a type."]
    lines = compare({"a": TYPED_TRUTH}, {"a": TYPED_FOUND}, "--types", 3, "--ids-per-type", 4)
    assert "type 3           nan     nan       0        0         -" in lines
    written = json.loads((tmp_path / "scores.json").read_text())["types"]
    assert written["mean_iou"] == pytest.approx((12 / 14 + 4 / 8 + 2 / 8) / 3)
    assert [(c["class"], c["true_count"], c["predicted_count"]) for c in written["classes"]] == [
        ("background", None, None),
        ("type 1", 2, 1),
        ("type 2", 2, 2),
    ]
    assert [(c["bias"], c["matching"][0]["ap"], c["matching"][0]["f1"]) for c in written["classes"][1:]] == [
        (-1 / 2, 1 / 2, 2 / 3),
        (0, 1 / 3, 1 / 2),
    ]
    assert compare({"a": TYPED_TRUTH}, {"a": TYPED_FOUND}) == by_number[:-11]  # without types, there is no such table
    (tmp_path / "cells.csv").write_text("image,label,type\na,1,1\na,2,2\na,3,2\n")
    numbered_through = np.searchsorted([0, 1, 4, 6], TYPED_FOUND)
    assert compare({"a": TYPED_TRUTH}, {"a": numbered_through}, *wish)[-11:] == [
        *table,
        f"Types of the predicted cells are from {tmp_path / 'cells.csv'}.",
    ]


def test_types_that_there_are_none_of_are_one_line(tmp_path, capsys):
    for folder in ("truth", "labels"):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", TRUTH.astype(np.int32))
    command = ["evaluate", "--predicted", str(tmp_path / "labels"), "--truth", str(tmp_path / "truth"), "--types", "2"]
    assert main([*command, "--ids-per-type", "1"]) == 2
    assert "Numbers per type (ids_per_type) is 1; it must lie between 2 and 10000000." in capsys.readouterr().err
    assert main([*command[:-1], "2", "--ids-per-type", "2"]) == 0
    assert main([*command[:-1], "-1"]) == 2
    assert "Cell types (types) is -1; it must lie between 0 and 32." in capsys.readouterr().err
    (tmp_path / "cells.csv").write_text("image,label,type\na,1,1\n")
    assert main(command) == 2
    assert "a: cell 2 has no type there. Ask for as many types" in capsys.readouterr().err
