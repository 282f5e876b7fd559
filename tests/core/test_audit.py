"""The audit: where windows are drawn, which cells belong to them, and the record."""

from dataclasses import replace

import numpy as np
import pytest
from pictures import discs, picture
from studies import study

import napari_tally as nt
from napari_tally.core.audit import StudyImage, Window, draw_audit
from napari_tally.settings import AuditSettings


def test_a_cell_belongs_where_its_middle_lies():
    labels = picture("""
        1122..33
        1122..33
        ....4...
        55..4...
    """)
    audit = draw_audit([StudyImage("drawn", labels)], AuditSettings(window=4))
    assert audit.windows[["top", "left", "bottom", "right", "predicted"]].to_numpy().tolist() == [[0, 0, 4, 4, 3], [0, 4, 4, 8, 2]]


def test_a_middle_on_an_edge_belongs_to_the_neighbour_that_includes_it():
    """Cell 1 lies half and half in the left and the right window: its middle is on the edge between them."""
    labels = picture("""
        ..11....
        ..1111..
        ..1111..
        ....11..
    """)
    assert np.argwhere(labels).mean(0).tolist() == [1.5, 3.5]
    audit = draw_audit([StudyImage("drawn", labels)], AuditSettings(window=4))
    assert audit.windows["predicted"].tolist() == [0, 1]
    left, right = (Window(0, "drawn", 0, 0, side, 4, side + 4) for side in (0, 4))
    assert (left.holds([[1.5, 3.5]]).item(), right.holds([[1.5, 3.5]]).item()) == (False, True)  # a click there likewise
    assert left.holds([[-0.5, -0.5], [-0.6, 0], [3.49, 0], [3.5, 0]]).tolist() == [True, False, True, False]


def test_windows_cover_every_image_once_and_their_counts_add_up():
    images = study()
    audit = draw_audit(images)
    for i, image in enumerate(images):
        seen = np.zeros(image.labels.shape, int)
        mine = audit.windows[audit.windows["image"] == i]
        for row in mine.itertuples():
            seen[row.top : row.bottom, row.left : row.right] += 1
        assert (seen == 1).all()
        assert mine["predicted"].sum() == audit.images[i].predicted == len(np.unique(image.labels)) - 1
    assert sorted(audit.order) == list(range(len(audit.windows)))


def test_hand_and_prediction_estimate_the_same_total():
    """Hand counts by clicks on the middles of the predicted cells are the predicted counts: nothing to correct, at any border."""
    images = study()
    audit = draw_audit(images)
    middles = {image.name: [np.argwhere(image.labels == cell).mean(0) for cell in np.unique(image.labels)[1:]] for image in images}
    for number in range(len(audit.order)):
        assert audit.count_clicks(number, middles[audit.window(number).image]) == audit.windows["predicted"][audit.order[number]]
    total = audit.total()
    assert total.predicted == total.corrected == total.low == total.high == total.clicks == sum(map(len, middles.values()))


def test_the_seed_decides_and_any_beginning_of_the_order_goes_through_the_strata_in_turns():
    first, again, other = (draw_audit(study(), AuditSettings(windows=16, seed=seed)) for seed in (5, 5, 6))
    assert first.order == again.order != other.order
    assert first.redrawn(6).order == other.order
    strata = first.windows["stratum"].to_numpy()
    assert len(np.unique(strata)) == 4
    for n in (4, 8, 16):
        assert np.bincount(strata[first.order[:n]]).tolist() == [n // 4] * 4


def test_windows_with_many_predicted_cells_are_drawn_more_often_and_those_with_none_too():
    audit = draw_audit(study(cells=60), AuditSettings(windows=16, window=32))
    drawn = np.zeros(len(audit.windows))
    for seed in range(200):
        drawn[audit.redrawn(seed).order[:16]] += 1
    predicted = audit.windows["predicted"].to_numpy()
    empty, full = drawn[predicted == 0].mean(), drawn[predicted >= np.quantile(predicted, 0.9)].mean()
    assert full > 2 * empty
    assert empty > 200 * 16 / len(predicted) * 0.25


def test_a_crowded_image_has_smaller_windows_and_a_window_is_never_smaller_than_cells():
    images = study(4, cells=5)
    y, x = np.mgrid[2:128:4, 2:160:4].reshape(2, -1)
    crowded = np.zeros((128, 160), np.int32)
    for cell, (a, b) in enumerate(zip(y, x, strict=True), start=1):
        crowded[a - 1 : a + 1, b - 1 : b + 1] = cell
    windows = draw_audit([*images, StudyImage("crowded", crowded)]).windows
    side = windows["bottom"] - windows["top"]
    assert side[windows["image"] == 4].max() < side[windows["image"] == 0].min()
    large = draw_audit([StudyImage("large", discs((200, 200), (50, 50, 20), (130, 120, 20), (60, 150, 20)))]).windows
    assert (large["bottom"] - large["top"]).min() >= 100  # three diameters of 40 px are 120


def test_windows_that_touch_training_annotations_are_left_out_and_said_so():
    images = study()
    known = np.zeros((128, 160), bool)
    known[:3, :3] = True  # touches one window
    plain, audit = draw_audit(images), draw_audit([images[0], replace(images[1], annotated=known), *images[2:]])
    corner = plain.windows.query("image == 1 and top == 0 and left == 0")
    assert len(corner) == 1
    assert len(audit.windows) == len(plain.windows) - 1
    assert audit.left_out == corner["predicted"].item() == audit.images[1].left_out
    assert audit.total().predicted == plain.total().predicted - audit.left_out
    with pytest.raises(ValueError, match="every window touches annotations"):
        draw_audit([replace(image, annotated=np.ones((128, 160), bool)) for image in images])


def test_stacks_are_cut_plane_by_plane():
    stack = np.stack([np.zeros((64, 64), np.int32), discs((64, 64), (20, 20, 6), (44, 40, 6))])
    audit = draw_audit([StudyImage("stack", stack)], AuditSettings(window=32))
    assert audit.windows.groupby("plane")["predicted"].sum().tolist() == [0, 2]
    assert {audit.window(n).plane for n in range(len(audit.order))} == {0, 1}


def test_images_and_groups_have_counts_of_their_own_where_enough_windows_are_counted():
    images = study(6, cells=60)
    audit = draw_audit(images, AuditSettings(windows=40, window=32))
    for number in range(40):
        window = audit.window(number)
        cells = images[int(window.image[2:])].labels
        middles = [np.argwhere(cells == cell).mean(0) for cell in np.unique(cells)[1:]]
        audit.count_clicks(number, [*middles[::2], *middles[::3]])  # another count than the prediction
    groups = audit.by("group")
    assert groups["group"].tolist() == ["a", "b"]
    assert groups["windows"].sum() == 40
    assert (groups["low"] < groups["corrected"]).all()
    assert (groups["corrected"] < groups["high"]).all()
    assert groups["corrected"].sum() == pytest.approx(audit.total().corrected, rel=0.15)
    by_image = audit.by("image")
    assert by_image["clicks"].sum() == audit.total().clicks
    assert np.isnan(by_image["low"][by_image["windows"] < 4]).all()


def test_more_windows_go_on_with_the_same_order():
    audit = draw_audit(study(), AuditSettings(windows=8, window=32))
    for number in range(8):
        audit.count_clicks(number, [])
    assert audit.next_open() is None
    assert audit.add_windows(10) == 18
    assert audit.next_open() == 8
    assert audit.expected_margin() < audit.total().margin
    assert audit.add_windows(10**6) == len(audit.order)


def test_the_same_cells_under_other_numbers_give_the_same_windows():
    images = study()
    audit, other = (
        draw_audit(images),
        draw_audit([replace(image, labels=np.where(image.labels > 0, 1000 - image.labels, 0)) for image in images]),
    )
    assert audit.windows.equals(other.windows)
    assert audit.order == other.order


def test_cells_that_are_true_or_false_are_cells():
    one = [StudyImage(f"im{i}", discs((64, 64), (20 + i, 30, 6))) for i in range(3)]
    audit, other = (draw_audit(images) for images in (one, [replace(image, labels=image.labels > 0) for image in one]))
    assert other.windows.equals(audit.windows)
    assert other.windows["predicted"].sum() == 3
    assert other.images == audit.images


def test_what_cannot_be_audited_is_said():
    with pytest.raises(ValueError, match="there is no image"):
        draw_audit([])
    with pytest.raises(ValueError, match="Two images are called im0"):
        draw_audit([study()[0], study()[0]])
    with pytest.raises(ValueError, match="labels are whole numbers"):
        draw_audit([StudyImage("a", np.zeros((9, 9)))])
    with pytest.raises(ValueError, match="annotations of shape"):
        draw_audit([StudyImage("a", np.zeros((9, 9), int), annotated=np.zeros((8, 9), bool))])
    with pytest.raises(ValueError, match="Windows"):
        draw_audit(study(), AuditSettings(windows=1))


def test_where_something_is_seen_that_is_not_predicted_windows_are_drawn_more_often():
    """Four images with cells, of which the model misses those of the last; the order of drawing knows nothing else."""
    images = []
    for seed in range(4):
        pixels, labels = nt.simulate_nuclei(seed=seed, n=20, diameter=12, shape=(128, 128))
        images.append(StudyImage(f"im{seed}", labels * (seed < 3), image=nt.as_image(pixels)))
    images.append(StudyImage("empty", np.zeros((128, 128), np.int32), image=nt.as_image(np.full((128, 128), 100, np.uint16))))
    settings = AuditSettings(windows=16, window=32)
    share = {}
    for seen in (True, False):
        audit = draw_audit(images if seen else [replace(image, image=None) for image in images], settings)
        drawn = np.concatenate([audit.redrawn(seed).order[:16] for seed in range(100)])
        owner = audit.windows["image"].to_numpy()[drawn]
        share[seen] = (owner == 3).mean(), (owner == 4).mean()
    assert share[True][0] > 1.5 * share[False][0]
    assert share[True][0] > 2 * share[True][1] > 0  # what looks empty is drawn too
    assert audit.windows.columns.tolist() == draw_audit(images, settings).windows.columns.tolist()


def test_a_volume_is_not_checked_in_planes():
    bodies = np.broadcast_to(discs((60, 60), (20, 20, 5), (40, 40, 5)), (6, 60, 60))
    with pytest.raises(
        ValueError, match="its cells go through the slices of a volume.* If these are the frames of a time series, give the images too"
    ):  # labels alone do not tell
        draw_audit([StudyImage("a", np.array(bodies))], AuditSettings())
    film = nt.as_image(np.zeros(bodies.shape, np.uint8), axes="TYX")
    assert draw_audit([StudyImage("a", np.array(bodies), image=film)], AuditSettings()).windows["predicted"].sum() == 12
