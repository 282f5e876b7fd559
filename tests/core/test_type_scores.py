"""Scores of types of cells: by hand, against the plain ones and MONAI, in stacks, and where the types come from."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import TYPED_FOUND, TYPED_TRUTH, picture

from napari_tally.core.matching import THRESHOLDS, Matching
from napari_tally.core.metrics import evaluate
from napari_tally.core.tables import write_table
from napari_tally.core.type_scores import TypeRule, read_types


def of_types(truth, found, types=2, ids_per_type=4, table=None, name="a"):
    scores = evaluate([(name, truth, found)], TypeRule(types, ids_per_type, table)).by_type
    assert scores is not None
    return scores


def test_areas_and_counts_by_hand():
    scores = of_types(TYPED_TRUTH, TYPED_FOUND)
    assert scores.pixels.counts.tolist() == [[12, 0, 0], [0, 4, 4], [2, 0, 2]]
    assert scores.pixels.iou.tolist() == [12 / 14, 4 / 8, 2 / 8]
    assert scores.pixels.dice.tolist() == pytest.approx([24 / 26, 8 / 12, 4 / 10])
    assert scores.pixels.mean_iou == pytest.approx((12 / 14 + 4 / 8 + 2 / 8) / 3)
    assert scores.pixels.mean_dice == pytest.approx((24 / 26 + 8 / 12 + 4 / 10) / 3)
    assert (scores.true_counts.tolist(), scores.predicted_counts.tolist()) == ([2, 2], [1, 2])
    assert scores.as_dict()["classes"][2] == {
        "class": "type 2",
        "iou": 2 / 8,
        "dice": pytest.approx(4 / 10),
        "true_count": 2,
        "predicted_count": 2,
        "bias": 0,
        "matching": [Matching(t, tp=1, fp=1, fn=1).as_dict() for t in THRESHOLDS],
    }
    assert scores.as_dict()["classes"][0] == {
        "class": "background",
        "iou": 12 / 14,
        "dice": pytest.approx(24 / 26),
        "true_count": None,
        "predicted_count": None,
        "bias": None,
        "matching": None,
    }


def test_a_cell_of_the_wrong_type_is_missed_in_its_own_and_false_in_the_other():
    scores = of_types(TYPED_TRUTH, TYPED_FOUND)
    first, second = scores.matchings
    assert first == tuple(Matching(t, tp=1, fp=0, fn=1) for t in THRESHOLDS)  # the second cell is missed
    assert second == tuple(Matching(t, tp=1, fp=1, fn=1) for t in THRESHOLDS)  # and false here, where the fourth is missed
    assert (first[0].ap, first[0].f1, second[0].ap, second[0].f1) == (1 / 2, 2 / 3, 1 / 3, 1 / 2)
    assert scores.bias.tolist() == [-1 / 2, 0]


def test_cells_of_a_type_are_matched_at_each_iou():
    """The pairs of the first type have IoU 4 / 6 and 4 / 4, that of the second 2 / 3."""
    truth = picture("""
        1111..2222
        11........
        .......444
        """)
    found = picture("""
        1111..2222
        ..........
        .......55.
        """)
    first, second = of_types(truth, found).matchings
    assert [(m.tp, m.fp, m.fn) for m in first] == [(2, 0, 0), (2, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)]
    assert [(m.tp, m.fp, m.fn) for m in second] == [(1, 0, 0), (1, 0, 0), (0, 1, 1), (0, 1, 1), (0, 1, 1)]
    assert [m.ap for m in first] == [1, 1, 1 / 3, 1 / 3, 1 / 3]


def test_cells_are_matched_whatever_their_types():
    with_types = evaluate([("a", TYPED_TRUTH, TYPED_FOUND)], TypeRule(2, 4))
    assert with_types.matchings[0].tp == 3
    assert with_types.scores == evaluate([("a", TYPED_TRUTH, TYPED_FOUND)]).scores


def test_images_are_pooled():
    both = evaluate([("a", TYPED_TRUTH, TYPED_FOUND), ("b", TYPED_TRUTH, TYPED_TRUTH)], TypeRule(2, 4)).by_type
    assert both is not None
    assert both.pixels.counts.tolist() == [[24, 0, 0], [0, 12, 4], [2, 0, 6]]
    assert (both.true_counts.tolist(), both.predicted_counts.tolist()) == ([4, 4], [3, 4])
    assert [of_type[0] for of_type in both.matchings] == [Matching(0.5, tp=3, fp=0, fn=1), Matching(0.5, tp=3, fp=1, fn=1)]
    assert both.bias.tolist() == [-1 / 4, 0]


def test_a_type_that_is_nowhere_is_in_no_mean():
    scores = of_types(TYPED_TRUTH, TYPED_TRUTH, types=3)
    np.testing.assert_array_equal(scores.pixels.iou, [1, 1, 1, np.nan])
    assert scores.pixels.mean_iou == scores.pixels.mean_dice == 1
    nowhere = scores.as_dict()["classes"][3]
    assert nowhere["iou"] is nowhere["bias"] is None
    assert nowhere["matching"][0]["ap"] == 1  # as for all cells, where there are none and none are found


def test_what_nobody_annotated_is_of_no_class():
    partly = np.where(np.arange(6) < 3, TYPED_TRUTH, -1)
    scores = of_types(partly, TYPED_FOUND)
    assert scores.pixels.counts.tolist() == [[6, 0, 0], [0, 4, 0], [0, 0, 2]]
    assert (scores.true_counts.tolist(), scores.predicted_counts.tolist()) == ([1, 1], [1, 1])
    assert [of_type[0] for of_type in scores.matchings] == [Matching(0.5, tp=1, fp=0, fn=0)] * 2


def test_planes_of_a_stack_have_numbers_of_their_own():
    """Each plane begins at 1 again: the types are those of the numbers in the file."""
    scores = of_types(np.stack([TYPED_TRUTH, TYPED_TRUTH]), np.stack([TYPED_FOUND, TYPED_FOUND]))
    one = of_types(TYPED_TRUTH, TYPED_FOUND)
    assert scores.pixels.counts.tolist() == (2 * one.pixels.counts).tolist()
    assert scores.true_counts.tolist() == [4, 4]
    assert scores.matched.tolist() == (2 * one.matched).tolist()


def test_types_from_the_table_of_cells(tmp_path):
    """What predicts numbers the cells through, so the numbers do not say the types."""
    path = tmp_path / "cells.csv"
    write_table(path, pd.DataFrame({"image": ["a", "a", "a", "01"], "label": [1, 4, 6, 1], "type": [1, 2, 2, 1]}))
    table = read_types(path)
    assert table is not None
    assert sorted(table) == ["01", "a"]  # names of images are text
    by_table, by_number = (of_types(TYPED_TRUTH, TYPED_FOUND, table=of) for of in (table, None))
    assert by_table.as_dict() == by_number.as_dict()
    with pytest.raises(ValueError, match="b: cell 1 has no type there"):
        of_types(TYPED_TRUTH, TYPED_FOUND, table=table, name="b")
    write_table(path, pd.DataFrame({"image": ["a", "a", "a"], "label": [1, 4, 6], "type": [1, 2, 3]}))
    with pytest.raises(ValueError, match=r"a: cell 6 is of type 3 in the table of cells, and the types are 1 to 2"):
        of_types(TYPED_TRUTH, TYPED_FOUND, table=read_types(path))
    write_table(path, pd.DataFrame({"image": ["a", "a"], "label": [1, 1], "type": [1, 2]}))
    with pytest.raises(ValueError, match="cell 1 of a is there twice"):
        read_types(path)
    write_table(path, pd.DataFrame({"image": ["a"], "label": [1]}))
    assert read_types(path) is None


def test_numbers_that_no_type_has():
    with pytest.raises(ValueError, match="a, truth: a cell has the number 5, so it is of type 3 with 2 numbers a type, and 2 types"):
        of_types(TYPED_TRUTH, 0 * TYPED_FOUND, ids_per_type=2)
    with pytest.raises(ValueError, match="a: a cell has the number 6, so it is of type 4"):
        of_types(np.minimum(TYPED_TRUTH, 1), TYPED_FOUND, ids_per_type=2)


drawn = arrays(np.int8, (6, 7), elements=st.sampled_from([0, 0, 1, 2, 10, 11, 20]))


@given(drawn, drawn)
def test_a_single_type_has_the_plain_scores(truth, found):
    result = evaluate([("a", truth, found)], TypeRule(1, 100))
    assert result.by_type is not None
    assert result.by_type.matchings == [result.matchings]
    np.testing.assert_array_equal(result.by_type.bias, [result.bias])
    assert result.by_type.as_dict()["classes"][1]["matching"] == result.as_dict()["matching"]


@given(drawn, drawn)
def test_each_type_has_the_scores_of_its_cells_alone(truth, found):
    scores = of_types(truth, found, types=3, ids_per_type=10)
    for k in range(3):
        alone = evaluate([("a", *(np.where(a // 10 == k, a, 0) for a in (truth, found)))])
        assert scores.matchings[k] == alone.matchings
        np.testing.assert_array_equal(scores.bias[k], alone.bias)


@settings(max_examples=20)
@given(drawn, drawn)
def test_areas_are_those_of_monai(truth, found):
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    truth[0, :4] = found[0, :4] = 0, 1, 10, 20  # each class is there
    scores = of_types(truth, found, types=3, ids_per_type=10)
    classes = [np.where(a > 0, a // 10 + 1, 0) for a in (found, truth)]
    one_hot = [torch.nn.functional.one_hot(torch.tensor(a, dtype=torch.int64), 4).movedim(-1, 0)[None] for a in classes]
    np.testing.assert_allclose(scores.pixels.iou, metrics.compute_iou(*one_hot)[0], rtol=1e-6)
    np.testing.assert_allclose(scores.pixels.dice, metrics.compute_dice(*one_hot)[0], rtol=1e-6)
    assert scores.pixels.mean_iou == pytest.approx(metrics.compute_iou(*one_hot).mean().item())
    assert scores.pixels.mean_dice == pytest.approx(metrics.compute_dice(*one_hot).mean().item())
