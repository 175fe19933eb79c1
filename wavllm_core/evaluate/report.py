"""Figures to Markdown and JSON, with the trivial baseline beside each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from wavllm_core.evaluate.metrics import NORMALISER, Estimate, Share

DEV = ("dev", "clips")
WORDS_COMPARED = f"Words are compared after: {NORMALISER}."


def markdown(
    figures: Mapping[str, object],
    baselines: Mapping[str, str],
    title: str,
    heads: tuple[str, str] = DEV,
    notes: Sequence[str] = (WORDS_COMPARED,),
) -> str:
    """A table, best read in the model card, and below it what one must know to read it."""
    lines = [
        f"### {title}",
        "",
        f"| {heads[0]} | % | 95 % interval | {heads[1]} | baseline |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, value in figures.items():
        baseline = baselines.get(name, "")
        if isinstance(value, Share):
            low, high = value.interval()
            lines.append(f"| {name} | {value.percent:.1f} | {low:.1f}-{high:.1f} | {value.total} | {baseline} |")
        elif isinstance(value, Estimate):
            interval = f"{value.low:.1f}-{value.high:.1f}"
            lines.append(f"| {name} | {value.value:.1f} | {interval} | {value.items} | {baseline} |")
        else:
            lines.append(f"| {name} | {value:.2f} | | | {baseline} |")
    return "\n".join([*lines, "", *notes, ""])


def write_json(figures: Mapping[str, object], path: Path, **more: object) -> None:
    """The same for machines, and whatever else stands beside the figures."""
    table: dict[str, object] = dict(more)
    for name, value in figures.items():
        if isinstance(value, Share):
            table[name] = {"right": value.right, "total": value.total}
        else:
            table[name] = asdict(value) if isinstance(value, Estimate) else value
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
