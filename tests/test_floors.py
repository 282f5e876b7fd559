"""The floors of the house, seen from outside: what an import brings in with it.

The linters read the source (``make lint``); this asks the interpreter, so that a library in between cannot hide it.
"""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(find_spec("napari_tally").submodule_search_locations[0])
WINDOW = {"napari", "qtpy", "magicgui", "superqt", "psygnal", "pyqtgraph", "PySide6", "PyQt6"}


def modules(*below: str) -> list[str]:
    """Name the modules of the package under one of `below`."""
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")]
    return [name.removesuffix(".__init__") for name in sorted(names) if name.startswith(below)]


def brought_in(code: str) -> set[str]:
    """Run `code` in a fresh interpreter and name the top-level modules that it imported."""
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('brought in', *{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("brought in")[-1].split())


def test_opening_a_widget_does_not_wait_for_torch():
    found = modules("napari_tally.widgets")
    assert len(found) > 3
    assert "torch" not in brought_in(f"import {', '.join(found)}")


def test_help_needs_neither_torch_nor_a_window():
    assert not brought_in("from napari_tally.cli import main; main(['--help'])") & {"torch", *WINDOW}


def test_what_computes_runs_where_there_is_no_window():
    found = modules(*(f"napari_tally.{floor}" for floor in ("core", "api", "cli", "sample_data", "demo_data", "settings")))
    assert len(found) > 15
    assert not brought_in(f"import {', '.join(found)}") & WINDOW


def test_the_reading_order_of_the_core_names_every_module():
    order = (PACKAGE / "core" / "__init__.py").read_text(encoding="utf-8")
    assert not [path.stem for path in (PACKAGE / "core").glob("[!_]*.py") if f":mod:`~napari_tally.core.{path.stem}`" not in order]


def test_the_network_is_one_file_that_imports_only_torch():
    tree = ast.parse((PACKAGE / "core" / "unet.py").read_text(encoding="utf-8"))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} - sys.stdlib_module_names == {"torch"}
