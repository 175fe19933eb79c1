"""What a gateway must not forget when it is restarted: accepted lines, their replies, and who is muted.

One SQLite file, written by a thread of its own, all that waits at a time, so that the event loop waits for no disk. It
outlives the process being killed at any moment; of a power failure it may lose the last moments.
"""

from __future__ import annotations

import asyncio
import json
import logging
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
log = logging.getLogger(__name__)
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
Statement = tuple[str, tuple[object, ...]]
MAX_REPLIES: Final = 65_536  # of all devices, as a gateway begins


@dataclass(slots=True)
class Remembered:
    """Of one device."""

    answered: dict[str, Values] = field(default_factory=dict)  # by the id of the line, oldest first
    waiting: list[Line] = field(default_factory=list)
    muted: bool = False


class Store:
    """The file, written in the order of the calls. Where that fails it is logged once, and nobody waits for it."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error when the file cannot be used."""
        self._database = sqlite3.connect(path, check_same_thread=False)  # of the writer, and before there is one
        self._reader = sqlite3.connect(path)
        self._writer = ThreadPoolExecutor(1, "gateway state")
        self._statements: list[Statement] = []  # to be written; bounded by the lines that may wait
        self._unconfirmed: set[tuple[str, str]] = set()  # replies, by device and line; bounded by the outbox
        self._waiters: list[asyncio.Future[None]] = []  # for the next write
        self._writing: asyncio.Future[None] | None = None
        self._failed = False

    def close(self) -> None:
        """Write what is left."""
        last = self._writer.submit(self._commit, self._statements)
        self._writer.shutdown()
        self._tell(last.exception())
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

    def accept(self, device: str, line: Line) -> None:
        """A line is to be answered; written soon."""
        self._write("INSERT OR IGNORE INTO line (device, id, text) VALUES (?, ?, ?)", device, line.id, line.text)

    async def answer(self, device: str, reply: Values) -> None:
        """A line has its reply, and that is written; the oldest replies of the device are forgotten."""
        self._unconfirmed.add((device, reply["id"]))
        settle = "UPDATE line SET reply = ? WHERE device = ? AND id = ?"
        self._statements.append((settle, (json.dumps(reply), device, reply["id"])))
        await self._write(FORGET, device, MAX_ANSWERED)

    def deliver(self, device: str, line_id: str) -> None:
        """The broker has confirmed a reply; written with what comes next. One that is forgotten is published again."""
        if (device, line_id) in self._unconfirmed:
            self._unconfirmed.discard((device, line_id))
            self._statements.append(("UPDATE line SET delivered = 1 WHERE device = ? AND id = ?", (device, line_id)))

    def mute(self, device: str, muted: bool) -> None:
        """A device is to be deaf, or no more; written soon."""
        mute, unmute = "INSERT OR IGNORE INTO muted VALUES (?)", "DELETE FROM muted WHERE device = ?"
        self._write(mute if muted else unmute, device)

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
        rows = self._reader.execute("SELECT device, reply FROM line WHERE reply IS NOT NULL AND NOT delivered")
        replies = [(device, json.loads(reply)) for device, reply in rows]
        self._unconfirmed.update((device, reply["id"]) for device, reply in replies)
        return [device for (device,) in waiting], replies

    def _write(self, statement: str, *values: object) -> asyncio.Future[None]:
        """Have it written, with all that waits; done when that is."""
        self._statements.append((statement, values))
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(written)
        if self._writing is None:
            self._begin()
        return written

    def _begin(self) -> None:
        statements, self._statements = self._statements, []
        waiters, self._waiters = self._waiters, []
        self._writing = asyncio.get_running_loop().run_in_executor(self._writer, self._commit, statements)
        self._writing.add_done_callback(lambda done: self._end(done, waiters))

    def _end(self, done: asyncio.Future[None], waiters: list[asyncio.Future[None]]) -> None:
        self._writing = None
        self._tell(None if done.cancelled() else done.exception())
        for written in waiters:
            if not written.done():
                written.set_result(None)
        if self._waiters:
            self._begin()

    def _tell(self, error: BaseException | None) -> None:
        if error and not self._failed:
            self._failed = True
            log.error("the state of the gateway cannot be written: %s; a restart will forget (told once)", error)

    def _commit(self, statements: list[Statement]) -> None:
        with self._database:
            for statement, values in statements:
                self._database.execute(statement, values)


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

    def accept(self, line: Line) -> None:
        """See `Store`."""
        if self._store and not line.verbatim:
            self._store.accept(self._device, line)

    async def answer(self, reply: Values) -> None:
        """See `Store`."""
        if self._store:
            await self._store.answer(self._device, reply)

    def mute(self, muted: bool) -> None:
        """See `Store`."""
        if self._store:
            self._store.mute(self._device, muted)

    def receipt(self, line_id: str) -> Callable[[], None] | None:
        """What to do when the broker has confirmed a reply."""
        store, device = self._store, self._device
        return (lambda: store.deliver(device, line_id)) if store else None
