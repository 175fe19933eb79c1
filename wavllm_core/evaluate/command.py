"""`wavllm eval`: a pack's dev split put to a checkpoint, figures to the terminal and to files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from wavllm_core.checkpoint import NANO, load
from wavllm_core.errors import InputError
from wavllm_core.evaluate.report import markdown, write_json
from wavllm_core.evaluate.tasks import Listener, baselines, collect, score


def evaluate(
    pack: Path, checkpoint: Path | None, out: Path, limit: int | None, threads: int, progress: Callable[[str], None]
) -> str:
    """Write `dev.md`, `dev.json` and what was said clip by clip to `out`; returns the page.

    Raises InputError for a pack that is not there, CheckpointError as `load` does.
    """
    if not pack.is_file():
        raise InputError(f"{pack}: no such pack")
    torch.set_num_threads(threads)
    folder = checkpoint or NANO
    started = time.monotonic()
    answers = collect(Listener(load(folder)), pack, limit, progress)
    figures = score(answers)
    minutes = (time.monotonic() - started) / 60
    page = markdown(
        figures, baselines(answers), f"{folder.name} on {pack.name}, {minutes:.1f} minutes on {threads} threads"
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "dev.md").write_text(page)
    write_json(figures, out / "dev.json")
    with (out / "answers.tsv").open("w") as file:
        file.write("source\tfile\ttext\ttranscript\tlabel\treply\n")
        for source, rows in answers.said.items():
            for clip, transcript, reply in rows:
                label = clip.order.describe() if clip.order else clip.label
                file.write(f"{source}\t{clip.file}\t{clip.text}\t{transcript}\t{label}\t{reply}\n")
    return page
