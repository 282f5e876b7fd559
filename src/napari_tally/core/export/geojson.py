"""GeoJSON (RFC 7946) as QuPath reads it: a detection a cell, corners (x, y) at corners of pixels of the full resolution."""

import json
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.outlines import Ring, cell_outlines, pieces


def to_geojson(stack: NDArray[np.integer], name: str) -> bytes:
    """Write the cells of a stack (P, Y, X) as a feature collection; `name` makes the ids of the cells unlike those of other images."""
    features = [
        {
            "type": "Feature",
            "id": str(uuid5(NAMESPACE_OID, f"{name}/{p}/{cell}")),
            "geometry": _geometry(outer, holes) | ({"plane": {"c": -1, "z": p, "t": 0}} if len(stack) > 1 else {}),
            "properties": {"objectType": "detection", "name": str(cell)},
        }
        for p, plane in enumerate(stack)
        for cell, outer, holes in cell_outlines(plane)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":")).encode()


def _geometry(outer: list[Ring], holes: list[Ring]) -> dict[str, Any]:
    """Make a polygon, or of several pieces a multi-polygon, each with its own holes."""
    coordinates = [[_closed(ring) for ring in piece] for piece in pieces(outer, holes)]
    return {"type": "MultiPolygon", "coordinates": coordinates} if len(outer) > 1 else {"type": "Polygon", "coordinates": coordinates[0]}


def _closed(ring: Ring) -> list[list[int]]:
    """Give (x, y), the first corner again at the end, anticlockwise for an outline with y upwards, as RFC 7946 wants."""
    return [[int(x), int(y)] for y, x in [*ring, ring[0]]]
