"""The check of a count in the real window, from a shipped model to the interval: the tour of the documentation, with fewer windows."""

from tours import tour_of

from napari_tally.core.audit_file import read_audit


def test_the_interval_holds_the_truth_after_a_check_with_mouse_and_keyboard(make_napari_viewer, tmp_path):
    viewer = make_napari_viewer(show=True)
    seen = []
    clicks, true = tour_of("audit_tour")(viewer, seen.append, tmp_path / "audit.json", windows=16)
    assert seen == ["check", "checked"]
    audit = read_audit(tmp_path / "audit.json")
    total = audit.total()
    assert (total.windows, total.clicks) == (16, clicks)
    assert clicks > 30
    assert {image.name for image in audit.images} == {"control", "crowded", "dim"}
    assert total.predicted == sum(len(viewer.layers[f"{image.name} labels"].features) for image in audit.images)
    assert total.low <= true <= total.high < 1.3 * true  # the seeds are fixed: this is one of the 95 %
