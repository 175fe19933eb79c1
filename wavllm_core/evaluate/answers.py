"""Every row of a list put to a model, and the file of its answers.

A row that fails is an answer with a problem. Knows how answers are stored, not how they are scored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from wavllm_core.audio import read_audio
from wavllm_core.errors import CoreError, InputError
from wavllm_core.evaluate.answerer import Answerer
from wavllm_core.manifest import Row, read_text


@dataclass(frozen=True)
class Answer:
    """What was said about one row; its fields are the columns of the file."""

    id: str
    task: str  # empty: not told
    prompt: str
    target: str
    answer: str
    problem: str = ""  # why there is no answer
    score: float | None = None  # higher: surer of one speaker; never written by `infer`, read where a file has it


def infer(rows: Iterable[Row], answerer: Answerer) -> Iterator[Answer]:
    """Answer row by row; rows with a problem, and those the model refuses, pass through with it."""
    for row in rows:
        said, problem = "", row.problem
        try:
            if not problem:
                waveform = read_audio(row.audio, row.start_frame, row.end_frame) if row.audio else None
                said = answerer.answer(waveform, row.prompt)
        except CoreError as error:
            problem = f"line {row.line}: {error}"
        yield Answer(row.id, row.task, row.prompt, row.target, said, problem)


def answer_rows(rows: Iterable[Row], answerer: Answerer, out: Path, progress: Callable[[Answer], None]) -> list[Answer]:
    """All answers, each written to `out` and told as soon as it is there; see `open_answers`."""
    answers = []
    with open_answers(out) as write:
        for answer in infer(rows, answerer):
            write(answer)
            progress(answer)
            answers.append(answer)
    return answers


@contextmanager
def open_answers(path: Path) -> Iterator[Callable[[Answer], None]]:
    """A function that writes one answer more, at once: JSON lines, or a TSV where the name ends in .tsv.

    In a TSV a line break becomes `\\n`, a backslash and an n, and a tab a space; JSON lines keep everything.
    Raises InputError when the file cannot be written.
    """
    names = [field.name for field in fields(Answer)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        if path.suffix == ".tsv":
            file.write("\t".join(names) + "\n")

        def write(answer: Answer) -> None:
            row = asdict(answer)
            cells = ("" if row[name] is None else _cell(str(row[name])) for name in names)
            file.write(("\t".join(cells) if path.suffix == ".tsv" else json.dumps(row, ensure_ascii=False)) + "\n")
            file.flush()  # what was answered stays, should a later row end the program

        yield write


def _cell(text: str) -> str:
    return r"\n".join(text.splitlines()).replace("\t", " ")


def holds_answers(path: Path) -> bool:
    """Whether a file is of `open_answers`, by its name or by its header."""
    return path.suffix == ".jsonl" or "answer" in read_text(path).partition("\n")[0].rstrip("\r").split("\t")


def read_answers(path: Path) -> list[Answer]:
    """What `open_answers` wrote. Raises InputError that names the line and the field."""
    lines = read_text(path).split("\n")
    header = [] if path.suffix == ".jsonl" else lines.pop(0).rstrip("\r").split("\t")
    first = 2 if header else 1
    answers = [
        _parse(f"{path}: line {number}", line.rstrip("\r"), header)
        for number, line in enumerate(lines, start=first)
        if line.strip(" \r")  # a row of empty cells has its tabs
    ]
    if not answers:
        raise InputError(f"{path}: holds no answers")
    return answers


def _parse(place: str, line: str, header: list[str]) -> Answer:
    try:
        row = dict(zip(header, line.split("\t"), strict=True)) if header else json.loads(line)
    except ValueError as error:
        fault = f"{len(line.split(chr(9)))} fields, the header has {len(header)}" if header else error
        raise InputError(f"{place}: {fault}") from error
    if not isinstance(row, dict):
        raise InputError(f"{place}: not an object")
    text = {name: row.get(name, "") for name in ("id", "task", "prompt", "target", "answer", "problem")}
    for name, value in text.items():
        if not isinstance(value, str) or (name not in row and name in ("id", "target", "answer")):
            raise InputError(f"{place}: {name}: {'missing' if name not in row else 'not text'}")
    return Answer(**text, score=_score(place, row.get("score")))


def _score(place: str, value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        score = float(value)  # type: ignore[arg-type]  # whatever it is
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{place}: score: {value!r} is no number")
    return score
