"""Keys that a layer hears while it is active, for methods of a widget that may be gone by then."""

from collections.abc import Callable, Mapping
from weakref import WeakMethod

from napari.layers import Layer


def bind_keys(layer: Layer, methods: Mapping[str, WeakMethod]) -> None:
    """Call methods by key. The layer does not keep their widget alive, and a key whose method is gone does nothing."""
    for key, method in methods.items():
        layer.bind_key(key, _calling(method), overwrite=True)


def _calling(method: WeakMethod) -> Callable[[Layer], None]:
    def call(layer: Layer) -> None:
        alive = method()
        if alive:
            alive()

    return call
