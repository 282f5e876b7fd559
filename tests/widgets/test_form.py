"""The law of the form: it gives back what it was given."""

import dataclasses
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_tally import settings as all_settings
from napari_tally.settings import AuditSettings, AugmentationSettings, CountingSettings, TrainingSettings, check, fields_of
from napari_tally.widgets._form import SettingsForm

CLASSES = [c for c in vars(all_settings).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]


def values_of(kind, meta):
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is bool:
        return st.booleans()
    if kind is str:
        return st.from_regex(meta["pattern"], fullmatch=True)
    bounds = {"min_value": meta["min"], "max_value": meta["max"]}
    return st.integers(**bounds) if kind is int else st.floats(**bounds)


def any_settings(cls):
    return st.builds(cls, **{name: values_of(kind, meta) for name, (kind, meta) in fields_of(cls).items()})


@pytest.fixture(scope="module")
def forms(qapp):
    """One form of each class, used again and again: showing a value must not depend on the one before."""
    made = {cls: SettingsForm(cls) for cls in CLASSES}
    yield made
    for form in made.values():
        form.native.close()


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_come_back(cls, forms):
    assert forms[cls].value == cls()


@pytest.mark.parametrize("cls", CLASSES)
def test_any_valid_settings_come_back_exactly(cls, forms):
    @settings(max_examples=40, deadline=None)
    @given(any_settings(cls))
    def law(wish):
        form = forms[cls]
        form.value = wish
        assert form.value == wish

    law()


@pytest.mark.parametrize("cls", CLASSES)
def test_what_the_user_can_enter_is_valid(cls, forms):
    """Turning every spin box to its ends gives settings that pass their own check."""
    form = forms[cls]
    for end in ("minimum", "maximum"):
        form.value = cls()
        for name, (kind, _) in fields_of(cls).items():
            if kind in (int, float):
                box = form[name].native
                box.setValue(getattr(box, end)())
        check(form.value)


def test_a_small_number_is_visible(qtbot):
    form = SettingsForm(TrainingSettings, TrainingSettings(learning_rate=3e-6))
    qtbot.addWidget(form.native)
    assert float(form["learning_rate"].native.text()) == 3e-6


def test_a_zero_that_means_something_is_a_word(qtbot):
    form = SettingsForm(AuditSettings)
    qtbot.addWidget(form.native)
    side = form["window"].native
    assert side.text() == "automatic"
    side.setValue(40)
    assert (side.text(), form.value.window) == ("40", 40)
    side.setValue(0)
    assert (side.text(), form.value) == ("automatic", AuditSettings())


def test_an_edit_changes_its_field_only(qtbot):
    given_ = TrainingSettings(learning_rate=1.23456789e-7, minutes=3.3333333)
    form = SettingsForm(TrainingSettings, given_, fields=("minutes", "steps"))
    qtbot.addWidget(form.native)
    seen = []
    form.changed.connect(seen.append)
    form["steps"].native.setValue(7)
    assert form.value == dataclasses.replace(given_, steps=7)
    assert seen == [form.value]


def test_tooltips_and_labels_are_there(forms):
    for name, (_, meta) in fields_of(AugmentationSettings).items():
        field = forms[AugmentationSettings][name].native
        label = forms[AugmentationSettings].native.layout().labelForField(field)
        assert label.text() == meta["label"]
        assert label.toolTip() == field.toolTip() == meta["tooltip"]


def test_fields_come_in_the_order_asked_for(qtbot):
    form = SettingsForm(CountingSettings, fields=("min_area", "seed_threshold"))
    qtbot.addWidget(form.native)
    assert list(form) == ["min_area", "seed_threshold"]
