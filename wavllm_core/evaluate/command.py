"""`wavllm eval`: a pack's dev split, a list or its answers; figures to the terminal and to files."""

from __future__ import annotations

import itertools
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from wavllm_core.checkpoint import NANO, load
from wavllm_core.errors import InputError
from wavllm_core.evaluate.answerer import load_answerer
from wavllm_core.evaluate.answers import answer_rows, holds_answers, read_answers
from wavllm_core.evaluate.dev_plots import draw
from wavllm_core.evaluate.listener import Listener
from wavllm_core.evaluate.report import WORDS_COMPARED, markdown, write_json
from wavllm_core.evaluate.scores import score as score_answers
from wavllm_core.evaluate.tasks import baselines, collect, score
from wavllm_core.manifest import read_manifest
from wavllm_core.tasks import find_task


def is_pack(source: Path) -> bool:
    """Whether a file is a pack, and not a list. Raises InputError when there is none."""
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    return tarfile.is_tarfile(source)


def evaluate(
    pack: Path, checkpoint: Path | None, out: Path, limit: int | None, threads: int, progress: Callable[[str], None]
) -> str:
    """Write `dev.md` with its plots, `dev.json` and what was said clip by clip to `out`; returns the page.

    Raises InputError for a pack that is not there and a folder that cannot be, CheckpointError as `load` does.
    """
    if not pack.is_file():
        raise InputError(f"{pack}: no such pack")
    try:
        out.mkdir(parents=True, exist_ok=True)  # before the hours that it may take
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
    torch.set_num_threads(threads)
    folder = checkpoint or NANO
    started = time.monotonic()
    answers = collect(Listener(load(folder)), pack, limit, progress)
    figures = score(answers)
    minutes = (time.monotonic() - started) / 60
    plots = draw(answers, out)
    page = markdown(
        figures,
        baselines(answers),
        f"{folder.name} on {pack.name}, {minutes:.1f} minutes on {threads} threads",
        notes=[WORDS_COMPARED, "", *(f"![{title}]({path.name})" for title, path in plots.items())],
    )
    (out / "dev.md").write_text(page)
    write_json(figures, out / "dev.json", gates=answers.gates)
    with (out / "answers.tsv").open("w") as file:
        file.write("source\tfile\ttext\ttranscript\tlabel\treply\n")
        for source, rows in answers.said.items():
            for clip, transcript, reply in rows:
                label = clip.order.describe() if clip.order else clip.label
                file.write(f"{source}\t{clip.file}\t{clip.text}\t{transcript}\t{label}\t{reply}\n")
        for row in answers.instructed:
            file.write(f"{row.lesson.task}\t\t{row.lesson.instruction}\t\t{row.lesson.answer}\t{row.said}\n")
    return page


def evaluate_list(
    source: Path,
    model: Path | None,
    audio_root: Path | None,
    task: str,
    limit: int | None,
    out: Path,
    progress: Callable[[str], None],
) -> str:
    """Score a manifest, which is put to a model first, or the answers that `wavllm infer` wrote for one.

    Writes `scores.md`, `scores.json` and, for a manifest, `answers.jsonl` to `out`; returns the page.
    Raises InputError as `read_manifest`, `read_answers` and `score` do, CheckpointError as `load` does.
    """
    if task:
        find_task(task)
    if holds_answers(source):
        answers, title = read_answers(source)[:limit], source.name
    else:
        rows = read_manifest(source, audio_root, task)[:limit]
        title = f"{(model or NANO).name} on {source.name}"
        count = itertools.count(1)
        answers = answer_rows(
            rows, load_answerer(model), out / "answers.jsonl", lambda _: progress(f"{next(count)} of {len(rows)}")
        )
    scores = score_answers(answers, task)
    page = markdown(scores.figures, scores.baselines, title, ("figure", "items"), scores.remarks())
    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.md").write_text(page, encoding="utf-8")
    beside = {name: value for name, value in vars(scores).items() if name != "figures"}
    write_json(scores.figures, out / "scores.json", **beside)
    return page
