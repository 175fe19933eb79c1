"""What was said in a meeting, who said it and what was asked about it: one SQLite file, searched by its words.

Grows on disk, not in memory. A voice that gets a name has it in all it said.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from clients.realtime import ClientError

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS voices (number INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS lines (
    id INTEGER PRIMARY KEY, number INTEGER NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,
    text TEXT NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, content='lines', content_rowid='id');
CREATE TABLE IF NOT EXISTS questions (id INTEGER PRIMARY KEY, at_ms INTEGER, question TEXT, answer TEXT);
"""
LINES: Final = "SELECT lines.*, voices.name FROM lines LEFT JOIN voices USING (number)"
WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class SpokenLine:
    """One thing that one person said."""

    id: int
    number: int  # of the voice; 0: nobody knows
    start_ms: int  # since the meeting began
    end_ms: int
    text: str  # empty: it could not be written down
    name: str | None = None

    @property
    def speaker(self) -> str:
        return self.name or (f"speaker {self.number}" if self.number else "somebody")


@dataclass(frozen=True, slots=True)
class Question:
    """Something asked about the meeting."""

    at_ms: int
    question: str
    answer: str


class MeetingRecord:
    """One meeting, while it runs and afterwards; use it as a context manager, which leaves no file of nothing."""

    def __init__(self, path: Path) -> None:
        """Raises ClientError when there is a file already, or none can be made."""
        if path.exists():
            raise ClientError(f"{path}: there is a meeting already; choose another --out")
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, isolation_level=None)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ClientError(f"{path}: cannot hold a meeting: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        empty = not self.recent(1) and not next(self.questions(), None)
        self._file.close()
        if empty:  # it never began, and is in nobody's way
            self._path.unlink()

    def name(self, number: int, name: str) -> None:
        """Call a voice so, in what it said and is going to say."""
        self._file.execute("INSERT OR REPLACE INTO voices VALUES (?, ?)", (number, name))

    def add(self, number: int, start_ms: int, end_ms: int, text: str) -> SpokenLine:
        """Write down one more line; they may come in any order."""
        values = (number, start_ms, end_ms, text)
        added = self._file.execute("INSERT INTO lines VALUES (NULL, ?, ?, ?, ?) RETURNING id", values).fetchone()
        self._file.execute("INSERT INTO words(rowid, text) VALUES (?, ?)", (added[0], text))
        return SpokenLine(*self._file.execute(f"{LINES} WHERE id = ?", added).fetchone())

    def ask(self, at_ms: int, question: str, answer: str) -> None:
        """Write down a question and what was answered."""
        self._file.execute("INSERT INTO questions VALUES (NULL, ?, ?, ?)", (at_ms, question, answer))

    def lines(self) -> Iterator[SpokenLine]:
        """All of them, by time."""
        for row in self._file.execute(f"{LINES} ORDER BY start_ms, id"):
            yield SpokenLine(*row)

    def questions(self) -> Iterator[Question]:
        """All of them, by time."""
        for row in self._file.execute("SELECT at_ms, question, answer FROM questions ORDER BY at_ms, id"):
            yield Question(*row)

    def recent(self, count: int) -> list[SpokenLine]:
        """The last lines, oldest first."""
        rows = self._file.execute(f"{LINES} ORDER BY start_ms DESC, id DESC LIMIT ?", (count,)).fetchall()
        return [SpokenLine(*row) for row in reversed(rows)]

    def find(self, text: str, count: int) -> list[SpokenLine]:
        """The lines that share most and rarest words with `text`, by time."""
        words = " OR ".join(f'"{word}"' for word in WORD.findall(text))
        if not words:
            return []
        best = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
        rows = self._file.execute(f"{LINES} WHERE id IN ({best}) ORDER BY start_ms, id", (words, count))
        return [SpokenLine(*row) for row in rows]
