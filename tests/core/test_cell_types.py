"""Several kinds of cells: from the numbers in the labels to counts of each kind."""

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from pictures import discs, picture

import napari_tally as nt
from napari_tally.cli import main
from napari_tally.core.cell_types import (
    decide,
    merge_layers,
    require_types,
    shares,
    together,
    typed,
    types_by_number,
    types_of_cells,
    types_of_ids,
    with_types,
)
from napari_tally.core.counting import measure_cells, summarise
from napari_tally.core.events import run_to_end
from napari_tally.core.find import find_cells
from napari_tally.core.images import as_image
from napari_tally.core.model_file import Model, build_network, load_model, save_model
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import PatchSampler, TrainingPair, class_map, prepare_planes
from napari_tally.core.train import train
from napari_tally.settings import AugmentationSettings, NetworkSettings, NormalisationSettings, PredictionSettings, TrainingSettings

SHAPE = (96, 128)
PLACES = [(y, x, 8) for y in (16, 48, 80) for x in (16, 40, 64, 88, 112)]
DIM, BRIGHT = discs(SHAPE, *PLACES[::2]), discs(SHAPE, *PLACES[1::2])
LABELS = merge_layers([DIM, BRIGHT], 1000)
"""Eight dim cells (1 to 8) and seven bright ones (1000 to 1006)."""


@pytest.fixture
def pair(rng):
    return TrainingPair(as_image(100 + 400 * (DIM > 0) + 1200 * (BRIGHT > 0) + rng.normal(0, 10, SHAPE), name="mixed"), LABELS)


def test_the_number_tells_the_kind():
    assert np.unique(LABELS).tolist() == [*range(9), *range(1000, 1007)]
    assert types_of_ids(np.unique(LABELS)[1:], 1000).tolist() == [1] * 8 + [2] * 7


def test_layers_become_one_label_image():
    first, second = picture("11..2??"), picture(".3....7")
    assert merge_layers([first, second], 10).tolist() == [[1, 10, 0, 0, 2, -1, 11]]
    with pytest.raises(ValueError, match="2 cells are drawn in one layer, and there are 1 numbers a type"):
        merge_layers([first, second], 2)


def test_class_map_of_two_kinds():
    labels = picture("""
        1111..2222
        1111..2222
        1111..2222
        ????......
        """)
    kinds = np.array([0, 1, 2])
    np.testing.assert_array_equal(
        typed(class_map(labels, 3), labels, kinds, 2),
        picture("""
            1113..3222
            1113..3222
            ???3..3333
            ????......
            """),
    )


def test_patches_hold_both_kinds(pair, rng):
    planes = prepare_planes([pair], 1, 1.0, NormalisationSettings(), 10, 5, ids_per_type=1000)
    sampler = PatchSampler(planes, 4, 0.0, AugmentationSettings(), types=2)
    seen = {int(c) for _ in range(5) for c in sampler.draw(rng, 96)[1].unique()}
    assert seen == {0, 1, 2, 3}


def test_kinds_together(rng):
    p = rng.random((2, 5, 4, 4))
    assert together(p, 1) is p
    three = together(p, 3)
    np.testing.assert_allclose(three, np.stack([p[:, 0], p[:, 1:4].sum(1), p[:, 4]], axis=1))
    assert together(p[:, :4], 3).shape == (2, 2, 4, 4)  # without a rim


def test_a_cell_is_of_the_kind_that_most_of_it_is():
    labels = picture("111.22")
    p = np.zeros((4, 1, 6))
    p[1] = [0.5, 0.5, 0.1, 0, 0.3, 0.3]
    p[2] = [0.3, 0.3, 0.4, 0, 0.4, 0.4]
    assert types_of_cells(p[None], labels[None], 2).tolist() == [0, 1, 2]
    assert types_of_cells(p[None], 0 * labels[None], 2).tolist() == [0]


def test_kinds_are_gathered_piece_by_piece():
    """Hills of two pieces that are one cell, and a hill that is none."""
    first = shares(np.array([[[0.0, 0.0]], [[0.9, 0.2]], [[0.0, 0.3]]]), np.array([[1, 2]]), 2)
    second = shares(np.array([[[0.0, 0.0]], [[0.0, 0.9]], [[1.0, 0.0]]]), np.array([[1, 2]]), 2)
    assert first.tolist() == [[0, 0], [0.9, 0], [0.2, 0.3]]
    assert decide(first).tolist() == [0, 1, 2]
    cell = np.stack([0 * first[0], first[1] + first[2] + second[1]])
    assert decide(cell).tolist() == [0, 2]


def test_training_tells_the_kinds_apart(pair, tmp_path, capsys):
    """Dim and bright discs; a small network learns them in some seconds."""
    settings = TrainingSettings(steps=120, patch=64, types=2, depth=2, base_width=8, learning_rate=1e-2, device="cpu")
    plan = plan_training([pair], settings)
    assert (plan.network.types, plan.network.classes) == (2, 4)
    model = new_model(plan)
    run_to_end(train(model, [pair], plan))
    save_model(model, tmp_path / "two.safetensors")
    model = load_model(tmp_path / "two.safetensors")
    found = run_to_end(find_cells(model, pair.image))
    np.testing.assert_array_equal(types_of_cells(found.probabilities, found.labels[None], 2), found.types)
    by_tiles = run_to_end(find_cells(model, pair.image, PredictionSettings(tile=40)))
    np.testing.assert_array_equal(by_tiles.labels, found.labels)
    np.testing.assert_array_equal(by_tiles.types, found.types)
    cells = with_types(measure_cells(found.labels, pair.image), found.types, found.n_types)
    counts = summarise(cells, pair.image).iloc[0]
    assert (counts["count"], counts["count_type_1"], counts["count_type_2"]) == (15, 8, 7)
    at = cells[["y", "x"]].round().astype(int).to_numpy()
    assert (cells["type"].to_numpy() == types_of_ids(LABELS[at[:, 0], at[:, 1]], 1000)).all()
    # The same with files: the labels are numbered through, and the types are in the table beside them.
    (tmp_path / "truth").mkdir()
    tifffile.imwrite(tmp_path / "truth" / "mixed.tif", LABELS.astype(np.uint16))
    tifffile.imwrite(tmp_path / "mixed.tif", pair.image.planes[0, 0].astype(np.float32))
    out = tmp_path / "out"
    assert main([*map(str, ("predict", "--model", tmp_path / "two.safetensors", "--out", out, tmp_path / "mixed.tif"))]) == 0
    capsys.readouterr()
    assert main([*map(str, ("evaluate", "--predicted", out / "labels", "--truth", tmp_path / "truth", "--types", 2))]) == 0
    *_, first, second, _, _, _, first_found, second_found, source = capsys.readouterr().out.splitlines()
    assert first_found.split()[2] == second_found.split()[2] == "1.000"  # AP at IoU 0.5
    assert (first.split()[4:6], second.split()[4:6]) == (["8", "8"], ["7", "7"])
    assert float(first.split()[2]) > 0.8
    assert float(second.split()[2]) > 0.8
    assert source == f"Types of the predicted cells are from {out / 'cells.csv'}."


def test_a_model_of_one_kind_serves_as_start(pair):
    """Before training it says what it said, and gives each kind an equal share."""
    torch.manual_seed(0)
    settings = NetworkSettings(depth=2, base_width=4)
    start = Model(build_network(settings).eval(), settings)
    model = new_model(plan_training([pair], TrainingSettings(types=2), start), start)
    picture_ = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        old, new = start.network(picture_).softmax(1), model.network(picture_).softmax(1)
    torch.testing.assert_close(torch.stack([new[:, 0], new[:, 1] + new[:, 2], new[:, 3]], 1), old)
    torch.testing.assert_close(new[:, 1], new[:, 2])


def test_the_kinds_of_the_start_are_kept(pair):
    settings = NetworkSettings(depth=2, base_width=4, types=2, classes=4)
    start = Model(build_network(settings).eval(), settings)
    assert plan_training([pair], TrainingSettings(), start).network == settings
    with pytest.raises(ValueError, match="tells 2 types of cells apart and 3 are asked for"):
        plan_training([pair], TrainingSettings(types=3), start)


def test_numbers_that_do_not_fit():
    with pytest.raises(ValueError, match="the number 1006, so it is of type 11 with 100 numbers a type, and 2 types are asked for"):
        require_types([LABELS], 2, 100)
    with pytest.raises(ValueError, match="No cell of type 3 is drawn; its numbers are 2000 to 2999"):
        require_types([LABELS], 3, 1000)
    with pytest.raises(ValueError, match=r"2 cell type\(s\) make 3 classes, or 4 with the rim, not 2"):
        build_network(NetworkSettings(types=2, classes=2))


def test_one_kind_needs_no_column(pair):
    cells = with_types(nt.count(LABELS, pair.image), None, 1)
    assert "type" not in cells
    assert "count_type_1" not in summarise(cells, pair.image)


def test_files_hold_the_kinds(pair, tmp_path):
    """Through the batch that window and command line stand on, in memory and read in pieces."""
    torch.manual_seed(0)
    settings = NetworkSettings(depth=2, base_width=4, types=2, classes=4)
    model = Model(build_network(settings).eval(), settings)
    tifffile.imwrite(tmp_path / "a.tif", pair.image.planes[0, 0])
    save_model(model, tmp_path / "m.safetensors")
    for form in ("tiff", "ome-zarr"):
        out = tmp_path / form
        command = ["predict", "--model", tmp_path / "m.safetensors", "--out", out, "--format", form, "--seed-threshold", 0.1]
        assert main([*map(str, command), "--valley", "0.01", "--edge-threshold", "0.1", "--min-area", "0", str(tmp_path / "a.tif")]) == 0
        cells, counts = pd.read_csv(out / "cells.csv"), pd.read_csv(out / "counts.csv")
        assert set(cells["type"]) <= {1, 2}
        assert counts["count_type_1"].tolist() == [(cells["type"] == 1).sum()]
        assert counts["count"].tolist() == (counts["count_type_1"] + counts["count_type_2"]).tolist() == [len(cells)]
        assert len(cells) > 0


def test_an_empty_plane_has_its_columns(pair):
    cells = with_types(measure_cells(0 * LABELS, pair.image), np.zeros(1, np.uint8), 2)
    assert len(cells) == 0
    assert summarise(cells, pair.image)["count_type_2"].tolist() == [0]


def test_a_cell_that_the_table_does_not_know_is_of_no_kind():
    """7 was drawn by hand after the others were found."""
    table = pd.DataFrame({"label": [1, 2, 4], "type": pd.array([2, 1, None], "Int64")})
    kinds = types_by_number(table, 7)
    assert kinds.tolist() == [0, 2, 1, 0, 0, 0, 0, 0]
    now = with_types(pd.DataFrame({"label": [2, 7]}), kinds, 2)
    assert now["type"].cat.codes.tolist() == [0, -1]
    assert types_by_number(table[["label"]], 7) is None
