"""Model files: equal to the bit when they are ours, one sentence when they are not."""

import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import bright_is_cell
from safetensors.torch import load_file, save_file

from napari_tally.core import model_file
from napari_tally.core.model_file import FORMAT, Model, build_network, find_model, load_model, save_model
from napari_tally.settings import CountingSettings, NetworkSettings, NormalisationSettings

SMALL = NetworkSettings(base_width=2, depth=1)


@pytest.fixture
def model():
    return Model(
        build_network(SMALL).eval(),
        SMALL,
        scale=0.5,
        diameter=12.5,
        pixel_size=0.25,
        normalisation=NormalisationSettings(low=2),
        counting=CountingSettings(min_area=3),
        record={"steps": 7, "images": ["Zellkörper"]},
    )


@pytest.fixture
def path(model, tmp_path):
    save_model(model, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def rewrite(path, header=None, tensors=None, **changes):
    """Write the model file again with a changed header or changed tensors."""
    tensors = load_file(path) if tensors is None else tensors
    if header is None:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(json.loads(file.read(size))["__metadata__"]["napari_tally"])
    save_file(tensors, path, metadata={"napari_tally": json.dumps({**header, **changes})})


def refuses(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_in_16_bits_a_file_is_half_as_large_and_weights_are_rounded(tmp_path, model):
    wide = replace(model.settings, base_width=16, batch_norm=False)
    model = replace(model, network=build_network(wide).eval(), settings=wide)
    save_model(model, tmp_path / "whole.safetensors")
    save_model(model, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    found = load_model(tmp_path / "half.safetensors")
    assert found.record == model.record
    for name, tensor in model.network.state_dict().items():
        near = found.network.state_dict()[name]
        assert near.dtype == tensor.dtype == torch.float32
        assert (near - tensor).abs().max() <= tensor.abs().max() / 2048
        assert torch.equal(near, tensor.half().float())


def test_a_weight_too_large_for_16_bits_is_not_written(tmp_path, model):
    with torch.no_grad():
        model.network.head.bias[0] = 70_000
    with pytest.raises(ValueError, match=r"head.bias has a weight beyond 65504"):
        save_model(model, tmp_path / "half.safetensors", half=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [SMALL, replace(SMALL, padding="valid", batch_norm=False, dropout=0.5, classes=2, channels=3)])
def test_round_trip_is_equal_to_the_bit(tmp_path, model, settings):
    model = replace(model, network=build_network(settings).eval(), settings=settings, colour=settings.channels == 3)
    save_model(model, tmp_path / "new" / "folder" / "a.safetensors")
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["a.safetensors"]
    again = load_model(tmp_path / "new" / "folder" / "a.safetensors")
    ours, theirs = model.network.state_dict(), again.network.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert replace(again, network=model.network) == model
    assert not again.network.training


def test_unknown_diameter(tmp_path, model):
    save_model(replace(model, diameter=math.nan), tmp_path / "a.safetensors")
    assert math.isnan(load_model(tmp_path / "a.safetensors").diameter)


def test_a_copy_is_independent(model):
    copy = model.copy()
    copy.network.head.bias.data += 1
    copy.record["steps"] = 8
    assert not torch.equal(copy.network.head.bias, model.network.head.bias)
    assert model.record["steps"] == 7


def test_an_existing_file_is_replaced(path, model):
    save_model(replace(model, scale=2.0), path)
    assert load_model(path).scale == 2


def test_unwritable(tmp_path, model):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        save_model(model, tmp_path / "file" / "a.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x04N.", b"PK\x03\x04", bytes(1000), struct.pack("<Q", 2**62) + b"{}"])
def test_not_a_model_file(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    refuses(tmp_path / "a.safetensors", "this is not a model file of napari-tally")


def test_a_pickled_model_is_refused(tmp_path, model):
    torch.save(model.network.state_dict(), tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", "this is not a model file of napari-tally but a pickled file")


def test_no_file(tmp_path):
    refuses(tmp_path / "absent.safetensors", "there is no such model file")
    refuses(tmp_path, "there is no such model file")


def test_foreign_safetensors(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    refuses(tmp_path / "a.safetensors", "this safetensors file is not a model of napari-tally")
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    refuses(tmp_path / "a.safetensors", "this safetensors file is not a model of napari-tally")


def test_truncated(path):
    whole = path.read_bytes()
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refuses(path, "this is not a model file of napari-tally")


def test_wrong_tensors(path):
    tensors = load_file(path)
    rewrite(path, tensors={**tensors, "head.bias": torch.zeros(4)})
    refuses(path, r"head.bias is F32 \[4\]; \(3,\) is wanted")
    rewrite(path, tensors={**tensors, "head.bias": torch.zeros(3, dtype=torch.float64)})
    refuses(path, r"head.bias is F64 \[3\]; \(3,\) is wanted")
    rewrite(path, tensors={**tensors, "extra": torch.zeros(3)})
    refuses(path, "the tensors in the file are not those of the network")
    rewrite(path, tensors={name: tensor for name, tensor in tensors.items() if name != "head.bias"})
    refuses(path, "the tensors in the file are not those of the network")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(path, value):
    """They would count nothing, and say nothing."""
    tensors = load_file(path)
    tensors["head.bias"][1] = value
    rewrite(path, tensors=tensors)
    refuses(path, r"head.bias holds values that are not finite \(NaN or infinite\).*Take another copy")


def test_what_is_not_the_fault_of_the_file(path, monkeypatch):
    def fail(_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(model_file, "build_network", fail)
    refuses(path, r"the model cannot be loaded here \(No usable temporary directory found\)")


def test_a_header_that_claims_a_huge_network(path):
    """The largest network that the settings allow would take 31 GB; the file is refused before anything is built."""
    huge = {"channels": 64, "classes": 3, "depth": 6, "base_width": 128, "padding": "same", "batch_norm": True}
    rewrite(path, network=huge)
    refuses(path, "the tensors in the file are not those of the network")
    rewrite(path, network={**huge, "depth": 1})
    refuses(path, "is wanted")


def test_the_window_of_an_experiment_comes_back(path, model):
    window = np.array([[3.5, 700]], np.float32)
    save_model(replace(model, window=window, normalisation=NormalisationSettings(statistics="experiment")), path)
    again = load_model(path)
    np.testing.assert_array_equal(again.window, window)
    assert again.normalisation.statistics == "experiment"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": FORMAT + 1}, f"it has format {FORMAT + 1}, this version reads up to {FORMAT}; update napari-tally"),
        ({"format": "new"}, "no format number"),
        ({"network": {"depth": 99}}, r"Depth \(depth\) is 99; it must lie between 1 and 6"),
        ({"network": {"depth": 1.5}}, r"Depth \(depth\) is 1.5; a whole number is wanted"),
        ({"network": {"padding": "reflect"}}, "choose one of same, valid"),
        ({"network": {"width": 3}}, "NetworkSettings has no setting 'width'"),
        ({"network": 3}, "is damaged"),
        ({"normalisation": {"low": -1}}, r"\(low\) is -1"),
        ({"counting": {"seed_threshold": "high"}}, r"\(seed_threshold\) is 'high'"),
        ({"scale": 0}, "a scale of 0"),
        ({"scale": math.nan}, "a scale of nan"),
        ({"scale": None}, "is damaged"),
        ({"diameter": "large"}, "is damaged"),
        ({"pixel_size": "small"}, "is damaged"),
        ({"window": [[1, 0]]}, "an intensity window of"),
        ({"window": [[0, 1], [0, 1]]}, "an intensity window of"),
        ({"normalisation": {"statistics": "experiment"}}, "no intensity window of the experiment"),
        ({"record": []}, "no record"),
        ({"format": True}, "no format number"),
        ({"format": 0}, "no format number"),
        ({"colour": "no"}, "colour is 'no', no true or false"),
        ({"any_size": 1}, "any_size is 1, no true or false"),
        ({"scale": "0.5"}, "a scale of '0.5'"),
        ({"scale": 10**400}, "a scale of 1000"),
        ({"diameter": -1}, "a diameter of -1"),
        ({"diameter": math.inf}, "a diameter of inf"),
        ({"pixel_size": True}, "a pixel size of True"),
        ({"window": [["0", "1"]]}, "an intensity of '0'"),
        ({"window": [[0, 1e300]]}, "an intensity of 1e"),
        ({"window": {"0": 1}}, "an intensity window of"),
        ({"network": ["depth"]}, r"network is \['depth'\], no group of settings"),
        ({"network": {"padding": "x" * 10**6}}, r"is 'x{100}x*\.\.\.\)"),
        ({"record": {"images": [1]}}, r"the record says \[1\] for images"),
        ({"record": {"images": "a.tif"}}, "the record says 'a.tif' for images"),
        ({"record": {"versions": {"torch": 2}}}, "for versions"),
        ({"record": {"steps": "many"}}, "the record says 'many' for steps"),
        ({"record": {"seconds": None}}, "the record says None for seconds"),
        ({"record": {"licence": ["MIT"]}}, "for licence"),
        ({"record": {"comparison": 3}}, "for comparison"),
    ],
)
def test_damaged_headers(path, changes, message):
    rewrite(path, **changes)
    refuses(path, message)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"format": 1}'])
def test_headers_that_are_no_header(path, text):
    save_file(load_file(path), path, metadata={"napari_tally": text})
    refuses(path, "the header of the model file is damaged")


@pytest.mark.parametrize("name", ["network", "colour", "scale", "diameter", "any_size", "pixel_size", "window", "counting", "record"])
def test_a_field_that_is_absent_is_named(path, name):
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(json.loads(file.read(size))["__metadata__"]["napari_tally"])
    del header[name]
    rewrite(path, header=header)
    refuses(path, f"no {name}")


def test_a_file_of_the_first_format_is_still_read(tmp_path):
    """A header as the first version wrote it, by hand: later fields are absent."""
    tensors = build_network(SMALL).state_dict()
    header = """{"format": 1, "network": {"channels": 1, "classes": 3, "depth": 1, "base_width": 2, "padding": "same", "batch_norm": true,
        "upsampling": "transposed", "dropout": 0.0}, "colour": false, "scale": 0.5, "diameter": 31.5,
        "normalisation": {"low": 1.0, "high": 99.8}, "counting": {"seed_threshold": 0.5, "min_area": 20}, "record": {"steps": 3}}"""
    save_file(tensors, tmp_path / "old.safetensors", metadata={"napari_tally": header})
    model = load_model(tmp_path / "old.safetensors")
    assert (model.any_size, model.pixel_size, model.window) == (False, None, None)
    assert (model.diameter, model.counting.seed_threshold, model.record) == (31.5, 0.5, {"steps": 3})
    save_model(model, tmp_path / "new.safetensors")
    again = load_model(tmp_path / "new.safetensors")
    assert replace(again, network=model.network) == model
    assert model_file.migrate({"format": FORMAT, "x": 1}) == {"format": FORMAT, "x": 1}


def test_each_format_has_a_way_to_the_next():
    assert set(model_file._MIGRATIONS) == set(range(1, FORMAT))


def test_memory_is_taken_only_after_the_tensors_are_known_to_fit(path, monkeypatch):
    built = []
    real = model_file.build_network

    def build(settings):
        network = real(settings)
        built.append(network.head.weight.device.type)
        return network

    monkeypatch.setattr(model_file, "build_network", build)
    rewrite(path, network={"base_width": 128, "depth": 6})
    refuses(path, "the tensors in the file")
    assert built == ["meta"]


def test_a_header_that_claims_to_be_long(path):
    path.write_bytes(struct.pack("<Q", 2**26) + b"{" * 100)
    refuses(path, "its header would be larger than 16 MB")


def test_a_model_that_could_not_be_read_again_is_not_written(tmp_path, model):
    with pytest.raises(ValueError, match="for steps"):
        save_model(replace(model, record={"steps": "many"}), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_stays_what_records_know():
    """A setting that is new must not change the fingerprints of models without it."""
    assert bright_is_cell().fingerprint == "04aff42e883aaab8"


def test_a_folder_does_not_hide_a_shipped_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei").mkdir()
    assert find_model("nuclei").fingerprint == load_model(model_file.shipped_models()["nuclei"]).fingerprint


def test_a_huge_value_is_not_written_out_for_a_sentence():
    shared = ["x"] * 10
    for _ in range(30):
        shared = [shared] * 10
    assert len(model_file._short(shared)) <= 60
