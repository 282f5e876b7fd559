"""Settings: defaults are legal, dictionaries come back as they went, and errors name the field."""

import json
import math
import re
from dataclasses import FrozenInstanceError, fields
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_tally import settings
from napari_tally.settings import PAPER_NETWORK, CountingSettings, NetworkSettings, TrainingSettings, check, fields_of, from_dict, to_dict

CLASSES = [value for name, value in vars(settings).items() if name.endswith("Settings")]


def values_of(kind, meta):
    """Every value that a field allows."""
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is bool:
        return st.booleans()
    if kind is str:
        return st.from_regex(meta["pattern"], fullmatch=True)
    return {int: st.integers, float: st.floats}[kind](meta["min"], meta["max"])


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_are_legal(cls):
    check(cls())


def test_the_paper_is_legal():
    check(PAPER_NETWORK)


@pytest.mark.parametrize("cls", CLASSES)
@given(data=st.data())
def test_dictionaries_come_back_as_they_went(cls, data):
    wish = cls(**{name: data.draw(values_of(*field), label=name) for name, field in fields_of(cls).items()})
    assert from_dict(cls, json.loads(json.dumps(to_dict(wish)))) == wish


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_described(cls):
    for name, (kind, meta) in fields_of(cls).items():
        assert meta["label"], name
        assert meta["tooltip"].endswith((".", ")")), name
        if kind in (int, float):
            assert meta["min"] < meta["max"], name
            assert bool(re.search(r"(^|\. )0 = ", meta["tooltip"])) == ("zero" in meta), name
            assert "zero" not in meta or meta["min"] == 0, name


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_checked(cls):
    for name, (kind, meta) in fields_of(cls).items():
        wrong = ["no such thing", None, [1]]
        if kind in (int, float):
            wrong += [meta["max"] + 1, meta["min"] - 1, True, math.inf, math.nan]
        for value in wrong:
            with pytest.raises(ValueError, match=rf"\({name}\) is "):
                from_dict(cls, {name: value})


def test_messages_say_what_is_wanted():
    with pytest.raises(ValueError, match=r"Minutes \(minutes\) is 0.0; it must lie between 0.05 and 10000.0\."):
        from_dict(TrainingSettings, {"minutes": 0.0})
    with pytest.raises(ValueError, match=r"Device \(device\) is 'gpu'; choose one of auto, cpu, cuda, mps\."):
        from_dict(TrainingSettings, {"device": "gpu"})
    with pytest.raises(ValueError, match="CountingSettings has no setting 'treshold'; it has edge_threshold, min_area, .*seed_threshold"):
        from_dict(CountingSettings, {"treshold": 0.5})


def test_whole_numbers_pass_for_decimals_but_not_the_other_way():
    assert from_dict(TrainingSettings, {"minutes": 2}).minutes == 2
    with pytest.raises(ValueError, match=r"\(depth\) is 2.0"):
        from_dict(NetworkSettings, {"depth": 2.0})


@pytest.mark.parametrize("cls", CLASSES)
def test_settings_are_frozen(cls):
    with pytest.raises(FrozenInstanceError):
        setattr(cls(), fields(cls)[0].name, 1)
