"""What a gateway must not forget when it is restarted: accepted lines, their replies, and who is muted.

One SQLite file, written by a thread of its own, so that the event loop waits for no disk. It outlives the process being
killed at any moment; of a power failure it may lose the last moments.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from clients.mqtt.lines import MAX_ANSWERED
from clients.mqtt.topics import Line, Values
from clients.realtime import ClientError

VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE line (
    number INTEGER PRIMARY KEY, device TEXT NOT NULL, id TEXT NOT NULL, text TEXT NOT NULL,
    reply TEXT, delivered INTEGER NOT NULL DEFAULT 0, UNIQUE (device, id)
);
CREATE TABLE muted (device TEXT PRIMARY KEY);
"""
FORGET: Final = """
DELETE FROM line WHERE device = ?1 AND reply IS NOT NULL AND number <= (
    SELECT number FROM line WHERE device = ?1 AND reply IS NOT NULL ORDER BY number DESC LIMIT 1 OFFSET ?2
)
"""
FORGET_ALL: Final = """
DELETE FROM line WHERE reply IS NOT NULL AND number <= (
    SELECT number FROM line WHERE reply IS NOT NULL ORDER BY number DESC LIMIT 1 OFFSET ?
)
"""
MAX_REPLIES: Final = 65_536  # of all devices, as a gateway begins


@dataclass(slots=True)
class Remembered:
    """Of one device."""

    answered: dict[str, Values] = field(default_factory=dict)  # by the id of the line, oldest first
    waiting: list[Line] = field(default_factory=list)
    muted: bool = False


class Store:
    """The file; what writes returns when that is done."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error when the file cannot be used."""
        self._database = sqlite3.connect(path, check_same_thread=False)  # of the writer, and before there is one
        self._reader = sqlite3.connect(path)
        self._writer = ThreadPoolExecutor(1, "gateway state")
        self._delivered: list[tuple[str, str]] = []  # told with the next that is written

    def close(self) -> None:
        """Write what is left."""
        self._writer.submit(self._commit, self._delivered)
        self._writer.shutdown()
        self._reader.close()
        self._database.close()

    def prepare(self) -> None:
        """Make the tables, if they are not there, and forget the oldest replies.

        Raises ValueError when they are of another version, sqlite3.Error when the file holds something else.
        """
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise ValueError(f"it is of version {version}, not {VERSION}")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            self._database.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        with self._database:
            self._database.execute(FORGET_ALL, (MAX_REPLIES,))

    async def accept(self, device: str, line: Line) -> None:
        """A line is to be answered."""
        await self._write(
            ("INSERT OR IGNORE INTO line (device, id, text) VALUES (?, ?, ?)", device, line.id, line.text)
        )

    async def answer(self, device: str, reply: Values) -> None:
        """A line has its reply; the oldest replies of the device are forgotten."""
        settle = "UPDATE line SET reply = ? WHERE device = ? AND id = ?"
        await self._write((settle, json.dumps(reply), device, reply["id"]), (FORGET, device, MAX_ANSWERED))

    def deliver(self, device: str, line_id: str) -> None:
        """The broker has confirmed a reply. Never waits, and may be forgotten: then it is published once more."""
        self._delivered.append((device, line_id))

    async def mute(self, device: str, muted: bool) -> None:
        """A device is to be deaf, or no more."""
        mute, unmute = "INSERT OR IGNORE INTO muted VALUES (?)", "DELETE FROM muted WHERE device = ?"
        await self._write((mute if muted else unmute, device))

    def load(self, device: str) -> Remembered:
        """What there is of a device."""
        remembered = Remembered()
        rows = self._reader.execute("SELECT id, text, reply FROM line WHERE device = ? ORDER BY number", (device,))
        for line_id, text, reply in rows:
            if reply is None:
                remembered.waiting.append(Line(line_id, text))
            else:
                remembered.answered[line_id] = json.loads(reply)
        muted = self._reader.execute("SELECT 1 FROM muted WHERE device = ?", (device,)).fetchone()
        remembered.muted = muted is not None
        return remembered

    def owed(self) -> tuple[list[str], list[tuple[str, Values]]]:
        """Devices whose lines wait for an answer; replies, by device, that the broker has not confirmed."""
        waiting = self._reader.execute("SELECT DISTINCT device FROM line WHERE reply IS NULL").fetchall()
        replies = self._reader.execute("SELECT device, reply FROM line WHERE reply IS NOT NULL AND NOT delivered")
        return [device for (device,) in waiting], [(device, json.loads(reply)) for device, reply in replies]

    async def _write(self, *statements: tuple[object, ...]) -> None:
        delivered, self._delivered = self._delivered, []
        await asyncio.get_running_loop().run_in_executor(self._writer, self._commit, delivered, *statements)

    def _commit(self, delivered: list[tuple[str, str]], *statements: tuple[object, ...]) -> None:
        with self._database:
            self._database.executemany("UPDATE line SET delivered = 1 WHERE device = ? AND id = ?", delivered)
            for statement, *values in statements:
                self._database.execute(str(statement), values)


@contextmanager
def open_store(path: Path) -> Iterator[Store]:
    """Open the file, or make one. Raises ClientError when it cannot be used, and leaves it as it is then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store = Store(path)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error) from error
    with closing(store):
        try:
            store.prepare()
        except (ValueError, sqlite3.Error) as error:
            raise _unusable(path, error) from error
        yield store


def _unusable(path: Path, why: object) -> ClientError:
    return ClientError(f"{path} cannot hold the state of the gateway: {why}; name another with --state")


class Memory:
    """What one device's bridge writes down; without a store, nothing."""

    def __init__(self, store: Store | None, device: str) -> None:
        self._store, self._device = store, device

    async def accept(self, line: Line) -> None:
        """See `Store`."""
        if self._store and not line.verbatim:
            await self._store.accept(self._device, line)

    async def answer(self, reply: Values) -> None:
        """See `Store`."""
        if self._store:
            await self._store.answer(self._device, reply)

    async def mute(self, muted: bool) -> None:
        """See `Store`."""
        if self._store:
            await self._store.mute(self._device, muted)

    def receipt(self, line_id: str) -> Callable[[], None] | None:
        """What to do when the broker has confirmed a reply."""
        store, device = self._store, self._device
        return (lambda: store.deliver(device, line_id)) if store else None
