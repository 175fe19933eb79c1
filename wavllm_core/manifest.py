"""The published list of items: a TSV with a header, one item a row, read as its own loader reads it.

Owns the columns and what may stand in them. Opens no sound file.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavllm_core.errors import InputError
from wavllm_core.tasks import find_task, task_of_split

COLUMNS = ("id", "audio", "prompt", "tgt_text", "with_speech")  # needed; `n_frames` of published lists is not read
SPEECH = {"True": True, "False": False}


@dataclass(frozen=True)
class Row:
    """One item, or why its line cannot be used."""

    line: int  # in the file, from 1
    id: str
    prompt: str = ""
    target: str = ""
    task: str = ""  # empty: not told
    audio: str | None = None  # what `read_audio` takes; None: text only
    start_frame: int = 0
    end_frame: int | None = None
    problem: str = ""  # names the line and the field; the others hold what the line has then


def read_manifest(path: Path, audio_root: Path | None = None, task: str = "") -> list[Row]:
    """Every row, bad ones with their `problem`.

    audio_root: what relative paths of sound files start from
    task: of rows that do not tell theirs; without it the file's name decides, if it is that of a published list.
        Rows of it that have no prompt get the published one
    Raises InputError for a file that is missing, not UTF-8 or empty, a column that is missing, an unknown task.
    """
    fallback = find_task(task).name if task else task_of_split(path.stem)
    reader = csv.DictReader(io.StringIO(read_text(path)), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        header = list(reader.fieldnames or ())
    except csv.Error as error:
        raise InputError(f"{path}: header: {error}") from error
    for name in (*COLUMNS, *header):
        if header.count(name) != 1:
            raise InputError(f"{path}: column {name} is {'there twice' if name in header else 'missing'}")
    rows = list(_rows(reader, audio_root or Path(), fallback))
    if not rows:
        raise InputError(f"{path}: holds no rows")
    return rows


def _rows(reader: csv.DictReader[str], audio_root: Path, fallback: str) -> Iterator[Row]:
    while True:
        fields: dict[str | Any, Any] = {}
        try:
            fields = next(reader)
            yield _row(reader.line_num, fields, audio_root, fallback)
        except StopIteration:
            return
        except (InputError, csv.Error) as error:  # csv.Error: a field beyond the reader's 128 KiB
            line = reader.reader.line_num
            name, prompt, target, task = (fields.get(key) or "" for key in ("id", "prompt", "tgt_text", "task"))
            yield Row(line, name, prompt, target, task or fallback, problem=f"line {line}: {error}")


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises InputError that names the byte which is not."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _row(line: int, fields: dict[str | Any, Any], audio_root: Path, fallback: str) -> Row:
    if None in fields:
        raise InputError("more fields than the header has columns")
    text: dict[str, str] = {name: value for name, value in fields.items() if value is not None}
    if short := [name for name in COLUMNS if name not in text]:
        raise InputError(f"{short[0]}: missing, the row ends before it")
    if not text["id"]:
        raise InputError("id: empty")
    if text["with_speech"] not in SPEECH:
        raise InputError(f"with_speech: {text['with_speech']!r} is neither True nor False")
    spoken = SPEECH[text["with_speech"]]
    if spoken and not text["audio"]:
        raise InputError("audio: empty, and with_speech is True")
    task = find_task(text["task"]).name if text.get("task") else fallback
    prompt = text["prompt"] or (find_task(task).prompt if task else "")
    if not spoken and not prompt:
        raise InputError("prompt: empty, and with_speech is False")
    start, end = _frame(text, "start_frame"), _frame(text, "end_frame")
    if end is not None and end <= (start or 0):
        raise InputError(f"end_frame: {end} is not after start_frame {start or 0}")
    audio = str(audio_root / text["audio"]) if spoken else None
    return Row(line, text["id"], prompt, text["tgt_text"], task, audio, start or 0, end)


def _frame(text: dict[str, str], name: str) -> int | None:
    value = text.get(name, "")
    if value and not re.fullmatch(r"[0-9]{1,15}", value):
        raise InputError(f"{name}: {value[:20]!r} is no whole number from 0 of at most 15 digits")
    return int(value) if value else None
