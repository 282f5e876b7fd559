"""``napari-tally info``: what a model is and how it was trained."""

import argparse
import textwrap

from napari_tally.cli._parts import Commands, plain
from napari_tally.core.words import number


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("info", run, "Show what a model is and how it was trained.")
    parser.add_argument("model", metavar="MODEL")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from napari_tally.core.architectures import ARCHITECTURES
    from napari_tally.core.model_file import find_model

    model = find_model(arguments.model)
    n = model.settings
    record = model.record
    images = record.get("images", [])
    made_of = images[0] if record.get("name") and images else number(len(images), "image")  # a shipped model, or one of the user's
    insides = ["inside of a cell"] if n.types == 1 else [f"inside of a cell of type {k}" for k in range(1, n.types + 1)]
    parameters = sum(p.numel() for p in model.network.parameters())
    rows = {
        "Network": f"{ARCHITECTURES[n.architecture].title}, depth {n.depth}, base width {n.base_width}, padding {n.padding}, "
        f"{parameters / 1e6:.1f} M parameters",
        "Images": ("volumes, " if n.dimensions == 3 else "") + ("colour (RGB)" if model.colour else f"{n.channels} channel(s)"),
        **({"Channels": f"{model.channels}; of images with just {len(model.channels.order)}, all"} if model.channels else {}),
        "Classes": ", ".join(["background", *insides, *["rim of a cell"] * (n.classes > n.types + 1)]),
        "Cell diameter": f"{model.diameter:.0f} px, seen by the network at {model.scale:.2f} of the size",
        **({"Slices": f"{model.slice_distance:.3g} px apart; {n.flat} of {n.depth} halvings leave z alone"} if n.dimensions == 3 else {}),
        "Receptive margin": f"{model.network.margin} px{'' if model.network.exact else '; approximate and blended where tiles meet'}",
        "Thresholds": f"seed {model.counting.seed_threshold}, valley {model.counting.valley}, edge {model.counting.edge_threshold}, "
        f"smallest {model.counting.min_area:.0f} px",
        **({"Kept": f"{record.get('start')}, which the training below did not make better"} if record.get("start_kept") else {}),
        "Trained": f"{record.get('trained', 'never')}, {record.get('steps', 0)} steps in {record.get('seconds', 0)} s "
        f"on {made_of} with {record.get('cells', 0)} cells",
        "Started from": record.get("start", "unknown"),
        "Licence": record.get("licence") or "that of the images it was trained on",
        "Data": record.get("data") or "unknown",
        "Device": record.get("device", "unknown"),
        "Versions": ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items()) or "unknown",
    }
    for name, text in rows.items():
        print(f"{name + ':':18}{plain(text)}")
    if planned := record.get("plan"):
        print("How its training was planned:")
        for line in filter(str.strip, planned):
            topic, colon, text = plain(line).partition(": ")
            row = f"  {topic + ':':16}{text}" if colon else " " * 18 + topic
            print(textwrap.fill(row, 100, subsequent_indent=" " * 18))
