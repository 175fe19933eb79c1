"""What every benchmark does with its figures: says where they come from, writes them down, draws them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from wavllm_core.evaluate.plots import line_chart

RUNS = Path("runs/bench")
PACK = "PACK, a tar of recordings with a manifest.csv"


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest rank of so large a share of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile."""
    return {name: round(percentile(values, share), 3) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the options that all benchmarks have."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--out", type=Path, default=RUNS, help="folder for JSON and plot")
    options.add_argument("--threads", type=int, default=1, help="of the model")
    return options


def require(data: object, what: str) -> None:
    """Without data that no machine has by itself, say so and end well: `make bench` goes on to the next."""
    if not data:
        print(f"nothing is measured without {what}; see --help")
        raise SystemExit(0)


def machine() -> dict[str, Any]:
    """Where this runs; the load of others is part of it."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if "transformers" in sys.modules:
        versions["transformers"] = sys.modules["transformers"].__version__
    return {
        "command": "python " + " ".join(sys.argv),
        "when": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "versions": versions,
    }


def announce(where: Mapping[str, Any]) -> None:
    """The lines above a table."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    load = " ".join(str(value) for value in where["load_average"])
    print(f"$ {where['command']}\n{where['when']}, {where['cpu']}, {where['cores']} cores, load {load}; {versions}\n")


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Markdown."""
    print("| " + " | ".join(heads) + " |")
    print("| " + " | ".join("---" for _ in heads) + " |")
    for row in rows:
        print("| " + " | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    print()


def save(folder: Path, name: str, where: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Write NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**where, **figures}, indent=2) + "\n")


def plot(
    folder: Path, name: str, title: str, axes: tuple[str, str], lines: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """Write NAME.svg: one line of (x, y) for each name, both axes from 0."""
    line_chart(folder / f"{name}.svg", title, axes, lines)
