"""Pickled files: weights come out, and nothing ever runs."""

import io
import os
import pickle
import zipfile

import pytest
import torch

from napari_tally.core.model_file import load_model
from napari_tally.core.pickled import read_state_dict

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return os.system, (f"touch {self.where}",)


def refuses(path, words="can run any program"):
    with pytest.raises(ValueError, match=words) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [lambda w: w, lambda w: {"epoch": 3, "state_dict": w}, lambda w: w | {"mask_values": [0, 1]}, lambda w: {"model": {"state_dict": w}}],
)
def test_weights_are_read(tmp_path, wrap):
    torch.save(wrap(WEIGHTS), tmp_path / "a.pt")
    seen = {}
    found = read_state_dict(tmp_path / "a.pt", fits=seen.update)
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)
    assert {name: tensor.device.type for name, tensor in seen.items()} == {"a.weight": "meta", "n": "meta"}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("hidden", [lambda bomb: bomb, lambda bomb: WEIGHTS | {"b": bomb}, lambda bomb: {"state_dict": [bomb]}])
def test_a_bomb_does_not_go_off(tmp_path, legacy, hidden):
    torch.save(hidden(Bomb(tmp_path / "boom")), tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    refuses(tmp_path / "a.pt", "PyTorch 1.6" if legacy else "can run any program")
    assert not (tmp_path / "boom").exists()


def test_bare_pickles_and_whole_modules_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    refuses(tmp_path / "a.pkl", "PyTorch 1.6")
    torch.save(torch.nn.Conv2d(1, 1, 3), tmp_path / "b.pth")
    refuses(tmp_path / "b.pth")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("what", [3, [torch.zeros(2)], {}, {"a": 1}, {3: torch.zeros(2)}])
def test_what_is_no_state_dict(tmp_path, what):
    torch.save(what, tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", "no weights by name")


def test_tensors_of_other_kinds(tmp_path):
    for odd in (torch.eye(3).to_sparse(), torch.zeros(2, dtype=torch.complex64)):
        torch.save({"a": odd}, tmp_path / "a.pt")
        refuses(tmp_path / "a.pt", "plain numbers are wanted|as weights alone")


def test_weights_that_are_no_numbers(tmp_path):
    torch.save(WEIGHTS | {"a.weight": torch.full((2, 3), float("nan"))}, tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", "a.weight holds values that are not finite")


def test_a_small_file_that_claims_a_trillion_numbers(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 2000
    refuses(tmp_path / "a.pt", "does not hold so many numbers")


def rebuilt(path, change, **packing):
    """Pack the records of a file again."""
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **packing) as new:
        for name, content in change(records).items():
            new.writestr(name, content)
    path.write_bytes(buffer.getvalue())


def test_a_decompression_bomb(tmp_path):
    torch.save({"a": torch.zeros(10)}, tmp_path / "a.pt")
    zeros = bytes(50 * 2**20)
    rebuilt(tmp_path / "a.pt", lambda r: {n: zeros if "/data/" in n else c for n, c in r.items()}, compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "a.pt").stat().st_size < 100_000
    refuses(tmp_path / "a.pt", "it is not opened")


def test_a_storage_that_is_cut_short(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    rebuilt(tmp_path / "a.pt", lambda r: {n: c[:40] if "/data/" in n else c for n, c in r.items()})
    refuses(tmp_path / "a.pt", "hold so many|as weights alone")


def test_a_caller_that_does_not_want_them_is_asked_before_the_numbers_are_read(tmp_path, monkeypatch):
    torch.save(WEIGHTS, tmp_path / "a.pt")
    devices, real = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: devices.append(k["map_location"]) or real(*a, **k))

    def no(weights):
        raise ValueError("not these")

    with pytest.raises(ValueError, match="not these"):
        read_state_dict(tmp_path / "a.pt", fits=no)
    assert devices == ["meta"]


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.ckpt", "renamed.safetensors"])
def test_no_pickle_is_a_model(tmp_path, name):
    torch.save(Bomb(tmp_path / "boom"), tmp_path / name)
    with pytest.raises(ValueError, match="but a pickled file, as PyTorch writes them; such a file can run any program"):
        load_model(tmp_path / name)
    assert not (tmp_path / "boom").exists()


def test_absent(tmp_path):
    refuses(tmp_path / "a.pt", "there is no such file")
