"""Sentences with numbers in them, and names that may be no text."""


def number(n: int | str, what: str, plural: str = "s") -> str:
    """Say how many there are of something.

    Examples
    --------
    >>> number(1, "cell"), number(2, "patch", "es"), number("0.5", "pixel")
    ('1 cell', '2 patches', '0.5 pixels')
    """
    return f"{n} {what}{'' if str(n) == '1' else plural}"


def as_text(name: str) -> str:
    r"""Give a file name as every table can hold it: bytes that are no text are written out.

    Examples
    --------
    >>> print(as_text("a.tif"), as_text("\udcff.tif"))
    a.tif \udcff.tif
    """
    return name.encode("utf-8", "backslashreplace").decode()
