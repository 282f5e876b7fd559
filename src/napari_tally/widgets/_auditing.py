"""What the worker thread does for the widget *Check the count*: draw an audit, read one, compare its cells with those of now.

Which layers take part is told before, on the window's thread. Nothing else here touches the window.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels

from napari_tally.core.annotations import known_labels
from napari_tally.core.audit import Audit, StudyImage, comparing_labels, draw_audit
from napari_tally.core.audit_file import read_audit, write_audit
from napari_tally.settings import AuditSettings
from napari_tally.widgets._annotation import region_mask
from napari_tally.widgets._geometry import label_shape
from napari_tally.widgets._layers import annotation_of, image_from_layer, notes_of, region_of


@dataclass(frozen=True, eq=False)
class Part:
    """An image of the viewer that is audited: its layer, its predicted cells, and where no window may lie."""

    image: ImageLayer
    labels: Labels
    closed: Any = None


def part_of(viewer: ViewerModel, image: ImageLayer, labels: Labels) -> Part:
    """Take an image and its cells into an audit."""
    return Part(image, labels, _closed(_annotated(viewer, image), labels))


def _annotated(viewer: ViewerModel, image: ImageLayer) -> Any:
    """Tell where an image is annotated, as training takes it; None where it is not."""
    labels = annotation_of(viewer, image)
    if labels is None or labels.data.shape != label_shape(image):
        return None
    region = region_of(viewer, labels)
    mask = region_mask(region, labels) if region else None
    drawn = np.asarray(labels.data)
    if not (drawn > 0).any() and (mask is None or not mask.any()):
        return None
    return known_labels(drawn, mask) >= 0


def _closed(annotated: Any, labels: Labels) -> Any:
    """Tell where no window may lie: what is annotated, and planes that nobody has counted; None = they may lie anywhere."""
    planes = notes_of(labels).get("planes")
    if planes is None:
        return annotated
    known = np.zeros(labels.data.shape, bool) if annotated is None else annotated
    counted = np.isin(np.arange(int(np.prod(known.shape[:-2]))), planes).reshape(known.shape[:-2])
    return known | ~counted[..., None, None]


def draw(parts: Sequence[Part], settings: AuditSettings, path: Path) -> Generator[None, None, tuple[Audit, Path]]:
    """Draw an audit, and write it."""
    images = []
    for part in parts:
        yield
        image = image_from_layer(part.image)
        fingerprint = "" if image.is_lazy else image.fingerprint
        images.append(StudyImage(part.image.name, np.asarray(part.labels.data), "", part.closed, fingerprint, image))
    audit = draw_audit(images, settings)
    write_audit(path, audit)
    return audit, path


def read(path: Path) -> Generator[None, None, tuple[Audit, Path]]:
    """Read an audit."""
    yield
    return read_audit(path), path


def compare(audit: Audit, cells: Mapping[str, Any]) -> Generator[float, None, list[str]]:
    """Compare cells, by the name of their image, with those of an audit; give the images where they are others."""
    return (yield from comparing_labels(audit, {name: np.asarray(pixels) for name, pixels in cells.items()}))
