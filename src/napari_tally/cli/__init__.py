"""The command line: the same engine and settings as the window. Only this package prints; one file, one command.

Exit codes: 0 = done, 1 = `replay` found a difference, 2 = bad input (one line on stderr says what, and what to do), 130 = interrupted.
"""

import argparse
import io
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from napari_tally import __version__
from napari_tally.cli import (
    audit,
    compare,
    convert,
    count,
    demo,
    evaluate,
    export,
    export_model,
    info,
    next_image,
    plan,
    predict,
    replay,
    report,
    train,
)
from napari_tally.cli._parts import plain
from napari_tally.core.events import OUT_OF_MEMORY, is_out_of_memory

_COMMANDS = (demo, plan, train, predict, count, audit, report, export, next_image, evaluate, compare, replay, info, export_model, convert)
"""In the order of the help text."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``napari-tally``; give the exit code."""
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold what the terminal cannot show
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said once, in one line
    warnings.filterwarnings("ignore", module="PIL")
    try:
        return int(arguments.run(arguments) or 0)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"napari-tally: {OUT_OF_MEMORY}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:  # what a user did: bad input, a full or read-only disk
        said = f"{error.filename}: {error.strerror}." if isinstance(error, OSError) and error.filename else error
        print(f"napari-tally: {' '.join(plain(said).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("napari-tally: interrupted.", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Help(argparse.HelpFormatter):
    """Shows the defaults that there are, in words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default, text = action.default, action.help or ""
        flag = action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)
        if flag or default in (None, "", argparse.SUPPRESS) or not action.option_strings or "(default" in text:
            return text
        if isinstance(default, bool):
            default = "yes" if default else "no"
        elif isinstance(default, float):
            default = f"{default:g}"
        words = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{text} (default: {words.replace('%', '%%')})"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="napari-tally", description="Count cells with a U-Net that learns from a handful of annotated images.")
    parser.add_argument("--version", action="version", version=f"napari-tally {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=_Help)
        sub.set_defaults(run=run)
        return sub

    for module in _COMMANDS:
        module.register(command)
    return parser
