"""What stands in a JSON file of ours, which may have been changed by hand: is it there, and of the right kind?"""

import reprlib
from collections.abc import Mapping
from typing import Any


def require(part: Any, fields: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Give a part of a file as it is, or raise a ``ValueError`` if a field is absent or of another kind.

    Parameters
    ----------
    part : object
        As read from JSON.
    fields : dict
        Names and types, as :func:`isinstance` takes them. True and False are no whole numbers.
    what : str
        What to call it.
    """
    if not isinstance(part, dict):
        raise ValueError(f"{what} that is {reprlib.repr(part)}")
    for name, kind in fields.items():
        if name not in part:
            raise ValueError(f"{what} without {name}")
        if not isinstance(part[name], kind) or (isinstance(part[name], bool) and kind is int):
            raise ValueError(f"{what} whose {name} is {reprlib.repr(part[name])}")
    return part
