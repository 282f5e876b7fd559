"""Dots as annotation: discs to train on, dots of what is found."""

import numpy as np
import pytest
import tifffile
from pictures import picture

import napari_tally as nt
from napari_tally.cli import main
from napari_tally.core.export.points import to_points
from napari_tally.core.points import discs, read_points


def test_discs_share_what_lies_between_them():
    np.testing.assert_array_equal(
        discs(np.array([[2.0, 2], [2, 5]]), (5, 9), 2),
        picture("""
            ..1..2...
            .111222..
            11112222.
            .111222..
            ..1..2...
            """),
    )


def test_every_point_has_a_pixel():
    assert discs(np.array([[0.4, 0.4], [3.0, 3.0]]), (4, 4), 0.1).tolist() == [[1, 0, 0, 0], [0] * 4, [0] * 4, [0, 0, 0, 2]]
    assert not discs(np.empty((0, 2)), (4, 4), 3).any()


def test_points_of_a_stack_stay_in_their_plane():
    labels = discs(np.array([[0.0, 2, 2], [2, 2, 2]]), (3, 5, 5), 1)
    assert [np.unique(plane).tolist() for plane in labels] == [[0, 1], [0], [0, 2]]


def test_points_that_cannot_be():
    with pytest.raises(ValueError, match="The points have 3 coordinates and the image has 2 axes"):
        discs(np.zeros((1, 3)), (5, 5), 2)
    with pytest.raises(ValueError, match="1 of 2 points lie outside the image of 5 x 6 pixels"):
        discs(np.array([[1, 1], [1, 6]]), (5, 6), 2)


def test_files_as_napari_writes_them_and_simpler_ones(tmp_path):
    (tmp_path / "a.csv").write_text("index,axis-0,axis-1,axis-2\n0,1,2.5,3\n1,0,7,8\n")
    assert read_points(tmp_path / "a.csv").tolist() == [[1, 2.5, 3], [0, 7, 8]]
    (tmp_path / "b.csv").write_text("name,x,y\na,3,4\n")
    assert read_points(tmp_path / "b.csv").tolist() == [[4, 3]]


@pytest.mark.parametrize(
    ("text", "says"),
    [("a,b\n1,2\n", "the columns are a, b"), ("y,x\n1,\n", "1 of 1 rows hold no numbers"), ("", "this is no table")],
)
def test_files_without_points(tmp_path, text, says):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_points(tmp_path / "a.csv")


def test_what_export_writes_is_read(tmp_path):
    labels = nt.simulate_nuclei(seed=0)[1]
    (tmp_path / "a.csv").write_bytes(to_points(labels[None]))
    assert discs(read_points(tmp_path / "a.csv"), labels.shape, 3).max() == labels.max()


def test_training_on_points_from_the_command_line(tmp_path, capsys):
    image, labels = nt.simulate_nuclei(seed=0)
    for folder in ("images", "points"):
        (tmp_path / folder).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", image)
    (tmp_path / "points" / "a.csv").write_bytes(to_points(labels[None]))
    paths = ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "points"), "--out", str(tmp_path / "m.safetensors")]
    assert main(["train", *paths, "--radius", "5", "--steps", "2", "--patch", "32", "--start", "none"]) == 0
    assert f"1 image with {labels.max()} cells, 1" in capsys.readouterr().out  # the discs are about 10 px wide
    capsys.readouterr()
    assert main(["train", *paths, "--radius", "-1"]) == 2
    assert "--radius is -1" in capsys.readouterr().err
    (tmp_path / "points" / "a.csv").unlink()
    assert main(["train", *paths, "--radius", "5"]) == 2
    assert "this is no table" in capsys.readouterr().err
