"""What every bench prints and writes: its table, under the machine, the versions and the date."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(highlight=False, width=200)  # a terminal folds what is wider; rich would cut it


def machine() -> dict[str, str]:
    """Where and with what a figure was measured."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{platform.machine()}, {device}, Python {platform.python_version()}",
        "versions": f"torch {version('torch')}, transformers {version('transformers')}",
    }


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], notes: Sequence[str] = ()) -> None:
    """Print a table with where it was measured."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)
    for note in (*notes, "  ".join(machine().values())):
        console.print(note)


def write(file: Path | None, result: dict[str, Any]) -> None:
    """Write the figures as JSON, where asked to."""
    if file:
        file.write_text(json.dumps(machine() | result, indent=1) + "\n")
