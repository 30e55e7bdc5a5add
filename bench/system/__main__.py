"""Measure a whole system, each figure beside its baseline from the same run.

    python -m bench.system [--quick] [--json FILE] [--only isolation,frames,scale,questions,soak] [--soak-minutes N]

The JSON file is whole after each part. docs/system.md says what the figures mean.
"""

import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from bench.report import console, show, write
from bench.system.figures import Table

PARTS = ("isolation", "frames", "scale", "questions", "soak")


def main(
    quick: Annotated[bool, typer.Option(help="Every part small.")] = False,
    only: Annotated[str, typer.Option(help="These parts, with commas between.")] = ",".join(PARTS),
    soak_minutes: Annotated[float | None, typer.Option(help="How long; 60, or 1 with --quick.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print a table for each part."""
    chosen = only.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is ended
    minutes = soak_minutes or (1 if quick else 60)
    result = {}
    for name in chosen:
        began = time.perf_counter()
        tables = part(name)(minutes if name == "soak" else quick)
        for table in tables:
            show(table.title, table.columns, table.rows, table.notes)
        console.print(f"ray {version('ray')}; {name} took {time.perf_counter() - began:.0f} s\n")
        result[name] = [table.as_json() for table in tables]
        write(json_file, result)


def part(name: str) -> Callable[[float], list[Table]]:
    """What measures it; loaded only when asked for, as some need GStreamer."""
    measure: Callable[[float], list[Table]] = getattr(import_module(f"bench.system.{name}"), name)
    return measure


if __name__ == "__main__":
    typer.run(main)
