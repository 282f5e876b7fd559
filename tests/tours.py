"""The tours of the documentation, which tests take too."""

import importlib.util
from pathlib import Path
from typing import Any


def tour_of(name: str) -> Any:
    """Give the function `name` of docs/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)
