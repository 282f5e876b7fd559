"""Lays napari.yaml, which lives at the top of the repository, inside the package, where napari looks for it.

A link, so that edits count at once in an editable install; a copy where links are refused (Windows).
"""

import os
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LayManifest(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        real = Path(self.root, "napari.yaml")
        inside = Path(self.root, "src", "napari_tally", "napari.yaml")
        if inside.is_symlink() and inside.resolve() == real.resolve():
            return
        inside.unlink(missing_ok=True)
        try:
            inside.symlink_to(os.path.relpath(real, inside.parent))
        except OSError:
            shutil.copyfile(real, inside)
