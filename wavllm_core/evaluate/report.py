"""Figures to Markdown and JSON, with the trivial baseline beside each."""

from __future__ import annotations

import json
from pathlib import Path

from wavllm_core.evaluate.metrics import NORMALISER, Share

BASELINES = {
    "digits, transcribed": "10.0 (any one digit)",
    "digits, answered": "10.0 (any one digit)",
    "wake phrases, transcribed": "19 (the most frequent)",
    "wake phrases, answered": "19 (the most frequent)",
    "digits answered from an order in the history": "0 (no history)",
    "typed questions about the history": "58 (the most frequent reply)",
    "coffee orders, all slots right": "0 (the most frequent order)",
    "read sentences, WER %": "100 (no words)",
    "same speaker or not, EER %": "50 (chance)",
}


def markdown(figures: dict[str, object], title: str) -> str:
    """A table, best read in the model card."""
    lines = [
        f"### {title}",
        "",
        "| dev | % | 95 % interval | clips | baseline |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, value in figures.items():
        baseline = BASELINES.get(name, "")
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
