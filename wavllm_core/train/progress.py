"""What every training run does alike: a learning rate that rises and falls, a log for people and machines, a bar."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
Tell = Callable[[int, Mapping[str, float]], None]  # takes the steps that were made, and the losses of the last


def learning_rate(step: int, peak: float, warmup_steps: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


@contextmanager
def bar(steps: int, quiet: bool, console: Console | None = None) -> Iterator[Tell]:
    """On a terminal, a bar below the log, of steps and the last one's losses; `quiet` as for Log."""
    console = console or Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda step, losses: None
        return
    columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    handlers = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    with Progress(*columns, console=console) as progress:
        streams = [handler.setStream(sys.stderr) for handler in handlers]  # rich prints what is written there above it
        task = progress.add_task("", total=steps)

        def tell(step: int, losses: Mapping[str, float]) -> None:
            told = " ".join(f"{name} {value:.3g}" for name, value in losses.items())
            progress.update(task, completed=step, description=told)

        try:
            yield tell
        finally:
            for handler, stream in zip(handlers, streams, strict=True):
                if stream is not None:
                    handler.setStream(stream)


class Log:
    """Means over some steps: a line in the log, and one in `log.jsonl`."""

    def __init__(self, folder: Path, quiet: bool) -> None:
        """`quiet` for all processes of a run but the first."""
        self.folder, self.quiet = folder, quiet
        self._clear()

    def add(self, figures: Mapping[str, float], rows: int, waited_s: float) -> None:
        """One pass: its figures, its utterances, and how long it waited for them."""
        for name, value in figures.items():
            self.sums.setdefault(name, []).append(value)
        self.rows += rows
        self.waited_s += waited_s

    def report(self, step: int, figures: Mapping[str, float] | None = None) -> None:
        """Write the means since the last report, and what stands beside them."""
        took_s = time.monotonic() - self.since
        means = {name: sum(values) / len(values) for name, values in self.sums.items()}
        speed = {"utterances_per_s": self.rows / took_s, "waiting_for_data": self.waited_s / took_s}
        self.write(step, means | dict(figures or {}) | speed)
        self._clear()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """One line for people, one for machines."""
        if self.quiet:
            return
        line: dict[str, float] = {"step": step} | {name: round(value, 6) for name, value in figures.items()}
        log.info(" ".join(f"{name} {value:.4g}" for name, value in line.items()))
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _clear(self) -> None:
        self.sums: dict[str, list[float]] = {}
        self.rows, self.waited_s, self.since = 0, 0.0, time.monotonic()
