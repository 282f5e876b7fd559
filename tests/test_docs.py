"""The pages: the site builds without a warning, and lists what is installed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "load_checkpoint" in (tmp_path / "reference.html").read_text(encoding="utf-8")


def names(requirements):
    return {re.split(r"[\[<>=!;~ ]", requirement)[0].lower() for requirement in requirements} - {"napari-tally"}


def test_every_dependency_has_its_licence_and_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]
    base = {row[0]: row for row in rows if len(row) == 3}
    extras = {row[0]: names(row[1].split(", ")) for row in rows if len(row) == 4}
    assert set(base) - {"package"} == names(project["dependencies"])
    assert all(row[1] and row[2] for row in base.values())
    for name, requirements in project["optional-dependencies"].items():
        if name != "dev":
            assert extras[name] == names(requirements)


def test_every_page_is_in_the_navigation():
    told = set(re.findall(r"(\w+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert told == {path.name for path in (ROOT / "docs").glob("*.md")}
