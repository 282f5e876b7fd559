"""Sentences with numbers in them."""


def number(n: int | str, what: str, plural: str = "s") -> str:
    """Say how many there are of something.

    Examples
    --------
    >>> number(1, "cell"), number(2, "patch", "es"), number("0.5", "pixel")
    ('1 cell', '2 patches', '0.5 pixels')
    """
    return f"{n} {what}{'' if str(n) == '1' else plural}"
