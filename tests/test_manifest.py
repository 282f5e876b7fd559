"""What napari reads of the plugin: napari.yaml, found wherever the package is installed from."""

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from napari._app_model.constants import MenuId
from npe2 import PluginManifest

REPOSITORY = Path(__file__).parents[1]
FILES = ["napari.yaml", "py.typed", "settings.py", "core/unet.py", "widgets/train.py"]


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_distribution("napari-tally")


def test_it_is_the_file_at_the_top_of_the_repository(manifest):
    assert manifest == PluginManifest.from_file(REPOSITORY / "napari.yaml")


def test_every_target_can_be_imported(manifest):
    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        assert callable(getattr(import_module(module), name)), command.id


def test_every_menu_exists(manifest):
    own = {submenu.id for submenu in manifest.contributions.submenus}
    assert set(manifest.contributions.menus) <= MenuId.contributables() | own


@pytest.mark.parametrize("key", ["nuclei", "tissue"])
def test_samples_are_layers(manifest, key):
    sample = next(sample for sample in manifest.contributions.sample_data if sample.key == key)
    command = next(command for command in manifest.contributions.commands if command.id == sample.command)
    module, name = command.python_name.split(":")
    for data, options, kind in getattr(import_module(module), name)():
        assert data.ndim >= 2
        assert options["name"]
        assert kind in ("image", "labels")


@pytest.mark.slow
def test_wheel_and_sdist_carry_all_that_is_needed(tmp_path):
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)  # an sdist, and a wheel from that sdist
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")

    weights = [path.relative_to(REPOSITORY / "src").as_posix() for path in REPOSITORY.glob("src/napari_tally/weights/*")]
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
        assert archive.read("napari_tally/napari.yaml") == (REPOSITORY / "napari.yaml").read_bytes()
    assert {*(f"napari_tally/{name}" for name in FILES), *weights} <= set(inside)
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    assert not [name for name in inside if name.startswith("tests") or "__pycache__" in name]

    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"napari.yaml", "LICENSE", "README.md", "hatch_build.py", "Makefile", "tests/test_manifest.py"} <= inside

    # Installed by itself, away from the working tree, npe2 finds it.
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True
    )
    code = "import napari_tally, npe2; print(napari_tally.__file__, npe2.PluginManifest.from_distribution('napari-tally').name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout.split() == [str(tmp_path / "site" / "napari_tally" / "__init__.py"), "napari-tally"]
