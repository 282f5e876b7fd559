"""Models for other programs: ONNX gives what torch gives, the zoo's own test passes a package, and foreign packages run nothing."""

import json
import os
import socket
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from napari_tally.cli import main
from napari_tally.core.export import bioimageio
from napari_tally.core.export.bioimageio import Description, export_package, import_package
from napari_tally.core.export.onnx import export_onnx
from napari_tally.core.images import as_image
from napari_tally.core.intensity import intensity_window, normalise
from napari_tally.core.model_file import Model, build_network, find_model, load_model
from napari_tally.sample_data import simulate_nuclei
from napari_tally.settings import PAPER_NETWORK, NetworkSettings, NormalisationSettings

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")  # of onnx, bioimageio and xarray

SMALL = NetworkSettings(base_width=4, depth=2)
NUCLEI = as_image(simulate_nuclei(seed=2)[0], name="nuclei")
KINDS = {
    "same": SMALL,
    "paper": replace(PAPER_NETWORK, base_width=4, depth=2),
    "linear": replace(SMALL, upsampling="linear", batch_norm=False),
    "colour": replace(SMALL, channels=3),
    "res-unet": replace(SMALL, architecture="res-unet"),
    "attention-unet": replace(SMALL, architecture="attention-unet"),
    "two types of cells": replace(SMALL, classes=4, types=2),
}


def a_model(settings=SMALL, **more):
    torch.manual_seed(0)
    return Model(build_network(settings).eval(), settings, diameter=20.0, record={"images": ["a"], "cells": 5}, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_gives_what_torch_gives(tmp_path, kind):
    model = a_model(KINDS[kind])
    export_onnx(model, tmp_path / "m.onnx")
    session = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for n, sides in ((1, (64, 64)), (3, (90, 200))):
        height, width = (model.network.input_size(side) for side in sides)
        picture = torch.rand(n, model.settings.channels, height, width)
        with torch.no_grad():
            wanted = model.network(picture).softmax(1).numpy()
        (found,) = session.run(None, {"image": picture.numpy()})
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    header = session.get_modelmeta().custom_metadata_map["napari_tally"]
    assert json.loads(header)["network"]["depth"] == 2


def test_onnx_of_the_shipped_nuclei(tmp_path):
    assert main(["export-model", "nuclei", "--format", "onnx", "--out", str(tmp_path / "m.onnx")]) == 0
    model = find_model("nuclei")
    window = intensity_window(NUCLEI, model.normalisation)
    picture = np.repeat(normalise(NUCLEI.planes, window)[:, :, :256, :256], 3, axis=1)
    with torch.no_grad():
        wanted = model.network(torch.from_numpy(picture)).softmax(1).numpy()
    session = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": picture})[0], wanted, atol=1e-5)
    assert wanted[:, 1].max() > 0.9


@pytest.fixture
def offline(monkeypatch):
    def no(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", no)


def zoo():
    """The zoo's own checker; skips where it is not installed, or does not get on with the pydantic that is."""
    core = pytest.importorskip("bioimageio.core")
    from importlib.metadata import version

    if tuple(map(int, version("pydantic").split(".")[:2])) >= (2, 14) and version("bioimageio.spec") == "0.5.12.0":
        pytest.skip("bioimageio.spec 0.5.12 fails with pydantic 2.14")
    return core


WINDOW = {"window": np.array([[50, 3000]], np.float32), "normalisation": NormalisationSettings(statistics="experiment")}


ZOO = [("same", {"pixel_size": 0.5}), ("paper", {}), ("colour", {"colour": True}), ("same", WINDOW)]
ZOO += [(kind, {}) for kind in ("res-unet", "attention-unet", "two types of cells")]


@pytest.mark.parametrize(("kind", "more"), ZOO)
def test_the_zoo_accepts_the_package(tmp_path, offline, kind, more):
    """Their test: the format, the test output from the test input, and other sizes; with torch and with onnxruntime, offline."""
    check = zoo().test_model
    export_package(a_model(KINDS[kind], **more), tmp_path / "m.zip", NUCLEI)
    for weights in ("pytorch_state_dict", "onnx"):
        summary = check(tmp_path / "m.zip", weight_format=weights, absolute_tolerance=1e-4)
        assert summary.status == "passed", summary.format()


def test_their_preprocessing_is_ours(tmp_path):
    """On an image with signal, from raw intensities: percentiles, range and clipping agree."""
    core = zoo()
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    model = a_model()
    export_package(model, tmp_path / "m.zip", NUCLEI)
    described = load_model_description(tmp_path / "m.zip")
    raw = NUCLEI.planes[:, :, :128, :128].astype(np.float32)
    sample = create_sample_for_model(described, inputs={"image": raw})
    core.create_prediction_pipeline(described).apply_preprocessing(sample)
    found = np.asarray(sample.members["image"].data)
    wanted = normalise(raw, intensity_window(replace(NUCLEI, planes=raw), model.normalisation))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_halo_is_what_the_network_sees(tmp_path):
    """Within the halo of the border the output depends on what lies beyond; inside it does not."""
    import yaml

    export_package(a_model(), tmp_path / "m.zip", NUCLEI)
    with zipfile.ZipFile(tmp_path / "m.zip") as package:
        stated = yaml.safe_load(package.read("rdf.yaml") if "rdf.yaml" in package.namelist() else package.read("bioimageio.yaml"))
    axis = stated["outputs"][0]["axes"][2]
    model = a_model()
    assert axis["halo"] == model.network.margin
    smallest = stated["inputs"][0]["axes"][2]["size"]
    assert smallest["step"] == 4
    assert smallest["min"] > 2 * axis["halo"]
    assert smallest["min"] % 4 == 0


def test_a_package_comes_back_as_the_same_model(tmp_path, capsys):
    model = a_model(scale=0.5, **WINDOW)
    export_package(model, tmp_path / "m.zip", NUCLEI, Description(authors=("A. Tester",), licence="MIT"))
    assert main(["import-model", str(tmp_path / "m.zip"), "--out", str(tmp_path / "m.safetensors")]) == 0
    again = load_model(tmp_path / "m.safetensors")
    ours, theirs = model.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (again.scale, again.diameter, again.counting, again.record) == (0.5, 20, model.counting, model.record)
    np.testing.assert_array_equal(again.window, model.window)


def rebuilt(path, change):
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in change(members).items():
            new.writestr(name, content)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "m.zip"
    export_package(a_model(), path, NUCLEI)
    return path.read_bytes()


def edited(members, change):
    import yaml

    name = next(n for n in members if n in ("rdf.yaml", "bioimageio.yaml"))
    stated = yaml.safe_load(members[name])
    change(stated)
    return members | {name: yaml.safe_dump(stated).encode()}


def test_a_foreign_package_whose_weights_fit(tmp_path, packed):
    """Without our own notes; its Python file, which would run a command, is not even looked at."""
    path = tmp_path / "m.zip"
    path.write_bytes(packed)
    bomb = f"import os\nos.system('touch {tmp_path / 'boom'}')\n".encode()
    rebuilt(path, lambda m: edited(m, lambda s: s.pop("config")) | {"unet.py": bomb})
    found = import_package(path)
    assert found.settings == SMALL
    assert not (tmp_path / "boom").exists()


class Bomb:
    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return os.system, (f"touch {self.where}",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: edited(m, lambda s: s["weights"].pop("pytorch_state_dict")), "holds no PyTorch state dict"),
        (
            lambda m: edited(m, lambda s: s["weights"]["pytorch_state_dict"].update(source="../../etc/passwd")),
            "holds no PyTorch state dict",
        ),
        (lambda m: edited(m, lambda s: s["weights"]["pytorch_state_dict"].update(source="/etc/passwd")), "holds no PyTorch state dict"),
        (lambda m: edited(m, lambda s: s["config"]["napari_tally"]["network"].update(base_width=8)), "those of another network"),
        (lambda m: edited(m, lambda s: s["config"]["napari_tally"].update(scale="large")), "a scale of 'large'"),
        (lambda m: edited(m, lambda s: s.update(config=None) or s["weights"]["pytorch_state_dict"].update(architecture=3)), "no PyTorch"),
        (lambda m: m | {"weights.pt": b"no weights"}, "as weights alone"),
        (lambda m: {n: c for n, c in m.items() if not n.endswith(".yaml")}, "holds no PyTorch state dict"),
        (lambda m: m | {"rdf.yaml": b"!!python/object/apply:os.system ['true']"}, "its text cannot be read"),
        (lambda m: m | {"rdf.yaml": b"[" * 100_000}, "cannot be"),
        (lambda m: m | {"rdf.yaml": b"a: " + b" " * 2**20}, "larger than it may be"),
        (lambda m: m | {"rdf.yaml": b"- " * 1000 + b"1"}, "nested more than 100 times"),
        (lambda m: m | {"rdf.yaml": b"3"}, "describes nothing"),
        (lambda m: m | {"rdf.yaml": b"a: &x [*x]"}, r"the YAML alias \*x; write out what it stands for"),
        (lambda m: m | {"rdf.yaml": b"a: &x " + b"x" * 5000 + b"\nb: [" + b"*x, " * 1000 + b"]"}, r"the YAML alias \*x"),
        (lambda m: m | {"rdf.yaml": b"a: &x [1]\nb: [*x, *x]\nc: *x"}, "holds no PyTorch state dict"),  # plain aliases are welcome
    ],
)
def test_packages_that_cannot_be_used(tmp_path, packed, change, words):
    path = tmp_path / "m.zip"
    path.write_bytes(packed)
    rebuilt(path, lambda m: change({("rdf.yaml" if n == "bioimageio.yaml" else n): c for n, c in m.items()}))
    with pytest.raises(ValueError, match=words) as caught:
        import_package(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_pack_as_no_weights_do_are_not_unfolded(tmp_path, packed, monkeypatch):
    path = tmp_path / "m.zip"
    path.write_bytes(packed)
    monkeypatch.setattr(bioimageio, "_SMALL", 10**5)
    rebuilt(path, lambda m: m | {"weights.pt": bytes(10**6)})
    with pytest.raises(ValueError, match=r"weights.pt is larger than it may be: its \d+ bytes claim to be 1000000"):
        import_package(path)


def test_a_text_that_unfolds_into_gigabytes(tmp_path, packed):
    path = tmp_path / "m.zip"
    path.write_bytes(packed)
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]" for n in range(12)]
    more = "weights: {pytorch_state_dict: {source: weights.pt}}\nconfig: {napari_tally: {format: 3, network: *a11}}"
    rebuilt(path, lambda m: {"weights.pt": b"", "rdf.yaml": "\n".join([*lines, more]).encode()})
    with pytest.raises(ValueError, match=r"m\.zip: the package cannot be used \(its text is too large with the YAML alias \*a"):
        import_package(path)


def test_a_pickle_bomb_in_a_package(tmp_path, packed):
    path = tmp_path / "m.zip"
    path.write_bytes(packed)
    torch.save(Bomb(tmp_path / "boom"), tmp_path / "bomb.pt")
    rebuilt(path, lambda m: m | {"weights.pt": (tmp_path / "bomb.pt").read_bytes()})
    with pytest.raises(ValueError, match=r"m\.zip, weights: the file cannot be read as weights alone"):
        import_package(path)
    assert not (tmp_path / "boom").exists()


def test_names_that_climb_out_of_the_package_write_nothing(tmp_path, packed):
    path = tmp_path / "in" / "m.zip"
    path.parent.mkdir()
    path.write_bytes(packed)
    rebuilt(path, lambda m: m | {"../../climbed.txt": b"x", "/tmp/climbed-napari-tally.txt": b"x"})
    import_package(path)
    assert [p.name for p in path.parent.iterdir()] == ["m.zip"]
    assert not (tmp_path / "climbed.txt").exists()
    assert not os.path.exists("/tmp/climbed-napari-tally.txt")


def test_what_is_no_package(tmp_path, capsys):
    (tmp_path / "m.zip").write_bytes(b"no zip")
    assert main(["import-model", str(tmp_path / "m.zip"), "--out", str(tmp_path / "m.safetensors")]) == 2
    assert "this is no package of the BioImage Model Zoo" in capsys.readouterr().err


def test_an_image_and_a_title_of_ones_own(tmp_path, capsys):
    Picture.fromarray(simulate_nuclei(seed=3)[0][:200, :150]).save(tmp_path / "a.png")
    export = ["export-model", "nuclei", "--out", str(tmp_path / "m.zip"), "--image", str(tmp_path / "a.png")]
    assert main([*export, "--title", "My nuclei", "--author", "B. Tester", "--licence", "CC0-1.0"]) == 0
    with zipfile.ZipFile(tmp_path / "m.zip") as package:
        text = package.read(next(n for n in package.namelist() if n.endswith(".yaml"))).decode()
    assert all(word in text for word in ("My nuclei", "B. Tester", "CC0-1.0"))
    assert main([*export, "--licence", "whatever"]) == 2
    assert "is no SPDX identifier" in capsys.readouterr().err


def test_a_network_of_another_package_goes_as_onnx_alone(tmp_path):
    with pytest.raises(ValueError, match="needs the package monai"):
        export_package(replace(a_model(), settings=replace(SMALL, architecture="unet++", depth=4)), tmp_path / "m.zip", NUCLEI)


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert main(["export-model", "nuclei", "--format", "onnx", "--out", str(tmp_path / "m.onnx")]) == 2
    assert 'pip install "napari-tally[zoo]"' in capsys.readouterr().err
