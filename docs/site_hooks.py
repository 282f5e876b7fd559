"""For the site: links to files of the repository become plain names there, and a link to a file that is not there is an error."""

import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    def name(found: re.Match[str]) -> str:
        if not (_ROOT / "docs" / found[2]).exists():
            raise FileNotFoundError(f"{page.file.src_path} links to {found[2]}, which does not exist")
        return found[1]

    return _OUTSIDE.sub(name, markdown)
