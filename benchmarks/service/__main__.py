"""``python -m benchmarks.service [NAME...]``: run the named benchmarks, or all, and print a table of each."""

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from app.tasks.embedded import EmbeddedRedis
from app.tiny_model import write_tiny_model
from benchmarks.service import http_load, overhead, recovery, store_growth
from testing.service import Service, running_cluster

Rows = list[dict[str, Any]]

ON_THE_SERVICE: dict[str, Callable[[Service], Rows]] = {
    "start": recovery.measure_start,
    "memory": recovery.measure_memory,
    "overhead": overhead.measure,
    "recovery": recovery.measure_kills,
    "http": http_load.measure,
}
ON_REDIS_ALONE: dict[str, Callable[[EmbeddedRedis], Rows]] = {"store": store_growth.measure}


def main() -> None:
    names = [*ON_THE_SERVICE, *ON_REDIS_ALONE]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    arguments = parser.parse_args()
    chosen = arguments.names or names
    if unknown := set(chosen) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(names)}")
    console = Console(width=140)
    memory = psutil.virtual_memory().total / 2**30
    console.print(f"{date.today()}, {platform.machine()}, {psutil.cpu_count()} cores, {memory:.0f} GiB")
    results: dict[str, Rows] = {}

    def report(name: str, rows: Rows) -> None:
        results[name] = rows
        _print(console, name, rows)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")

    with tempfile.TemporaryDirectory(prefix="wan22-bench-") as scratch:
        redis = EmbeddedRedis().start()
        try:
            for name in chosen:
                if name in ON_REDIS_ALONE:
                    report(name, ON_REDIS_ALONE[name](redis))
            if any(name in ON_THE_SERVICE for name in chosen):
                model = write_tiny_model(Path(scratch, "model"))
                with running_cluster(redis, model, Path(scratch, "videos")) as service:
                    for name in chosen:
                        if name in ON_THE_SERVICE:
                            report(name, ON_THE_SERVICE[name](service))
        finally:
            redis.stop()


def _print(console: Console, name: str, rows: Rows) -> None:
    table = Table(title=name, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)


if __name__ == "__main__":
    main()
