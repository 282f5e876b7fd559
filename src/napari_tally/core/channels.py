"""Which channels of an image a network looks at, and in which order.

::

    "3 1"  ──▶  ChannelChoice(order=(3, 1), of=3)       the plan asks the images how many channels they have
                        │
                        ▼   pick_channels
    image of 3 channels ──▶ its third, then its first
    image of 2 channels ──▶ as it is: somebody has taken them out already

The choice is stored with the model, so that training, window, command line and Python pick alike.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from napari_tally.core.images import Image, describe_channels

MOST = 64
"""Channels that a network takes at most."""


@dataclass(frozen=True)
class ChannelChoice:
    """Some of the channels of an image, in an order.

    Attributes
    ----------
    order : tuple of int
        Counted from 1, as Fiji shows them.
    of : int
        How many channels the images have that they are picked from.
    colour : bool
        These are red, green and blue. A grey image has the same in each.
    """

    order: tuple[int, ...]
    of: int
    colour: bool = False

    def __str__(self) -> str:
        """Say it in words: "channels 3 and 1 of 3, in this order"."""
        *first, last = map(str, self.order)
        if not first:
            return f"channel {last} of {self.of}"
        sorted_already = list(self.order) == sorted(self.order)
        return f"channels {', '.join(first)} and {last} of {self.of}{'' if sorted_already else ', in this order'}"

    def takes(self, image: Image) -> bool:
        """Whether an image has as many channels as they are picked from, or just those."""
        return image.channels in (self.of, len(self.order)) or (self.colour and image.channels == 1)

    def as_dict(self) -> dict[str, Any]:
        """Give JSON values; :func:`parse_choice` reads them."""
        return {"order": list(self.order), "of": self.of, "colour": self.colour}


def pick_channels(choice: ChannelChoice | None, image: Image) -> Image:
    """Give the image with the chosen channels alone; None = all of them. To be asked once: a second time may change the order again.

    An image that has just as many channels as are chosen is taken as it is.
    """
    if choice is None or image.channels == len(choice.order) != choice.of:
        return image
    if image.channels == choice.of:
        return image.with_channels([n - 1 for n in choice.order])
    assert choice.takes(image), "the caller asks first"  # so it is grey
    return image.with_channels([0] * len(choice.order))


def choose_channels(text: str, images: Sequence[Image], known: ChannelChoice | None = None) -> ChannelChoice | None:
    """Turn the wish of the user into a choice.

    Parameters
    ----------
    text : str
        As in :attr:`napari_tally.settings.TrainingSettings.channels`: "3 1", counted from 1; "" = as `known`, else all.
    images : sequence of Image
        At least one.
    known : ChannelChoice, optional
        That of the model to start from. It holds where these images have such channels.

    Returns
    -------
    ChannelChoice or None
        None = all channels, in the order of the file.

    Raises
    ------
    ValueError
        If a channel is not there or named twice, or the images have different channels.
    """
    order = parse_order(text)
    if known and order in ((), known.order) and all(known.takes(image) for image in images):
        return known
    if not order:
        return None
    most = max(images, key=lambda image: image.channels)
    if absent := [n for n in order if not 1 <= n <= most.channels]:
        has = f"{most.name} has {describe_channels(most)}, counted from 1"
        raise ValueError(f"Channel {absent[0]} is asked for and {has}. Name some that are there, or leave the channels empty: all.")
    choice = ChannelChoice(order, most.channels, most.colour)
    for image in images:
        if not choice.takes(image):
            raise ValueError(
                f"{image.name} has {describe_channels(image)} and {most.name} {describe_channels(most)}, so {choice} cannot be picked "
                "from both; the images that train one model need the same channels."
            )
    return None if order == tuple(range(1, most.channels + 1)) else choice


def parse_order(text: str) -> tuple[int, ...]:
    """Read numbers of channels: "3 1" or "3, 1"; () = all.

    Raises
    ------
    ValueError
        If there is anything but numbers, or one of them twice.
    """
    if not re.fullmatch(r"[0-9, ]{0,300}", text):
        raise ValueError(f"The channels are {text[:40]!r}; numbers counted from 1 are wanted, such as 3 1, or nothing for all of them.")
    order = tuple(int(n[:9]) for n in re.findall(r"[0-9]+", text))
    if twice := [n for n in order if order.count(n) > 1]:
        raise ValueError(f"Channel {twice[0]} is named twice in {text[:40]!r}; name each channel once.")
    return order


def parse_choice(value: Any) -> ChannelChoice | None:
    """Read what :meth:`ChannelChoice.as_dict` gave and somebody may have changed; None = all channels.

    Raises
    ------
    ValueError
        If it is no choice.
    """
    if value is None:
        return None
    try:
        if not isinstance(value, Mapping) or not isinstance(value["order"], list):
            raise ValueError
        numbers = [*value["order"], value["of"]]
        if any(type(n) is not int or not 1 <= n <= value["of"] for n in numbers) or not 1 <= len(set(value["order"])) == len(numbers) - 1:
            raise ValueError
        if type(value["colour"]) is not bool or len(numbers) - 1 > MOST:
            raise ValueError
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError("channels that are no choice of channels") from error
    return ChannelChoice(tuple(value["order"]), value["of"], value["colour"])
