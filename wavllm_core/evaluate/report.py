"""Figures to Markdown and JSON, with the trivial baseline beside each."""

from __future__ import annotations

import json
from pathlib import Path

from wavllm_core.evaluate.metrics import NORMALISER, Share


def markdown(figures: dict[str, object], baselines: dict[str, str], title: str) -> str:
    """A table, best read in the model card."""
    lines = [
        f"### {title}",
        "",
        "| dev | % | 95 % interval | clips | baseline |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, value in figures.items():
        baseline = baselines.get(name, "")
        if isinstance(value, Share):
            low, high = value.interval()
            lines.append(f"| {name} | {value.percent:.1f} | {low:.1f}-{high:.1f} | {value.total} | {baseline} |")
        else:
            lines.append(f"| {name} | {value:.2f} | | | {baseline} |")
    return "\n".join([*lines, "", f"Words are compared after: {NORMALISER}.", ""])


def write_json(figures: dict[str, object], path: Path) -> None:
    """The same for machines."""
    table = {
        name: {"right": value.right, "total": value.total} if isinstance(value, Share) else value
        for name, value in figures.items()
    }
    path.write_text(json.dumps(table, indent=2) + "\n")
