"""Known people on disk: names and speaker vectors, never audio. One SQLite file, encrypted where there is a key.

Knows nothing of similarity. Every call opens the file, so that server and command line can use it at a time.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from agent.errors import EnrolmentError, RegistryError
from agent.voices.spelling import folded

MAX_NAME_CHARS: Final = 64
MAX_PEOPLE: Final = 1_000
BUSY_S: Final = 5.0  # that another process may be writing
FORMAT: Final = "wavllm voices 1"
SEALED: Final = "this file can be read"  # encrypted as a proof of the key
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS people (id TEXT PRIMARY KEY, record BLOB NOT NULL);
"""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody whose voice is known."""

    name: str
    vectors: Vectors  # (utterances, dim), each of length 1
    fingerprint: str  # of the weights that made them
    id: str = field(default_factory=lambda: f"voice_{secrets.token_hex(6)}")
    enrolled: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @cached_property
    def mean(self) -> Vectors:
        """(dim,) of the vectors; a server compares everybody with everything that is said."""
        mean: Vectors = self.vectors.mean(axis=0, dtype=np.float32)
        return mean


class Cipher:
    """Seals records, or leaves them as they are when there is no key."""

    def __init__(self, key: str | None) -> None:
        """Raises RegistryError for a key that is none, and when `cryptography` is missing."""
        self.sealed = key is not None
        if key is None:
            return
        try:
            from cryptography.fernet import Fernet, InvalidToken
        except ModuleNotFoundError as error:
            raise RegistryError("a key needs one more package: pip install 'wavllm-agent[server]'") from error
        self._wrong: type[Exception] = InvalidToken
        try:
            self._fernet = Fernet(key)
        except ValueError as error:
            raise RegistryError(f"the key of the voices is none: {error}; wavllm voices new-key makes one") from error

    def seal(self, record: bytes) -> bytes:
        return self._fernet.encrypt(record) if self.sealed else record

    def open(self, record: bytes) -> bytes:
        """Raises RegistryError when it was sealed with another key, or altered."""
        if not self.sealed:
            return record
        try:
            return self._fernet.decrypt(record)
        except self._wrong as error:
            raise RegistryError("the key is another one than it was written with, or it was altered") from error


class VoiceStore:
    """The people of one file."""

    def __init__(self, path: Path, key: str | None = None) -> None:
        """Touches no file yet. Raises RegistryError for a key that is none."""
        self.path, self._cipher = path, Cipher(key)

    def version(self) -> int:
        """Another number after every change. Raises RegistryError like everything here that reads."""
        if not self.path.exists():
            return 0
        with self._opened() as file:
            return int(_meta(file, "version") or 0)

    def people(self) -> list[Person]:
        """All of them, by name; none when there is no file yet."""
        if not self.path.exists():
            return []
        with self._opened() as file:
            rows = _records(file)
        return self._read_all(rows)

    def add(self, person: Person) -> None:
        """Raises EnrolmentError when the name is taken or no name, or there are too many people."""
        check_name(person.name)
        with self._opened() as file:  # until it is written, nobody else takes the name
            known = self._read_all(_records(file))
            if len(known) >= MAX_PEOPLE:
                raise EnrolmentError(f"{self.path} holds {MAX_PEOPLE} people; more are not possible")
            self._refuse_taken(person.name, known)
            self._write(file, person)

    def rename(self, name: str, new_name: str) -> Person:
        """Raises EnrolmentError when nobody has the one name, or somebody the other."""
        check_name(new_name)
        with self._opened() as file:  # nor does whoever is forgotten meanwhile come back
            known = self._read_all(_records(file))
            person = find(known, name)
            self._refuse_taken(new_name, [other for other in known if other.id != person.id])
            renamed = replace(person, name=new_name)
            self._write(file, renamed)
        return renamed

    def forget(self, name: str) -> Person:
        """Take somebody out for good. Raises EnrolmentError when nobody has the name."""
        person = find(self.people(), name)
        with self._opened() as file:
            file.execute("DELETE FROM people WHERE id = ?", (person.id,))
            _bump(file)
        with self._opened(transaction=False) as file:  # no trace of it in the free pages or in the log
            file.execute("VACUUM")
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return person

    def _refuse_taken(self, name: str, others: list[Person]) -> None:
        if any(folded(other.name) == folded(name) for other in others):
            raise EnrolmentError(f"there is a {name!r} already; forget or rename the one before")

    def _write(self, file: sqlite3.Connection, person: Person) -> None:
        values = {
            "name": person.name,
            "enrolled": person.enrolled,
            "fingerprint": person.fingerprint,
            "vectors": person.vectors.tolist(),
        }
        record = self._cipher.seal(json.dumps(values).encode())
        file.execute("INSERT OR REPLACE INTO people VALUES (?, ?)", (person.id, record))
        _bump(file)

    def _read_all(self, records: Iterable[tuple[str, bytes]]) -> list[Person]:
        return sorted((self._read(*record) for record in records), key=lambda person: folded(person.name))

    def _read(self, person_id: str, record: bytes) -> Person:
        try:
            values = json.loads(self._cipher.open(record))
            vectors = np.array(values["vectors"], np.float32)
            if vectors.ndim != 2 or not np.isfinite(vectors).all():
                raise ValueError(f"vectors of shape {vectors.shape}")
            return Person(values["name"], vectors, values["fingerprint"], person_id, values["enrolled"])
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryError(f"{self.path}: the record {person_id} is damaged: {error}") from error
        except RegistryError as error:
            raise RegistryError(f"{self.path}: {error}") from error

    @contextmanager
    def _opened(self, transaction: bool = True) -> Iterator[sqlite3.Connection]:
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))  # voices are nobody else's business
            file = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise RegistryError(f"{self.path}: cannot be opened: {error}") from error
        try:
            file.execute("PRAGMA journal_mode=WAL")
            file.execute("PRAGMA secure_delete=ON")
            if transaction:
                file.execute("BEGIN IMMEDIATE")
            self._check(file)
            yield file
            if transaction:
                file.execute("COMMIT")
        except sqlite3.Error as error:
            raise RegistryError(f"{self.path}: is no file of voices, or damaged: {error}") from error
        finally:
            file.close()

    def _check(self, file: sqlite3.Connection) -> None:
        """Raises RegistryError unless the file is one of ours and of this key; makes an empty one ours."""
        if not file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in SCHEMA.strip().split(";\n"):
                file.execute(statement)
            sealed = self._cipher.seal(SEALED.encode()).decode() if self._cipher.sealed else ""
            file.executemany("INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("sealed", sealed), ("version", 0)])
        if _meta(file, "format") != FORMAT:
            raise RegistryError(f"{self.path}: is not a file of voices in the form {FORMAT!r}")
        proof = _meta(file, "sealed") or ""
        if bool(proof) != self._cipher.sealed:
            is_so, but = ("encrypted", "no key is") if proof else ("not encrypted", "a key is")
            raise RegistryError(f"{self.path}: is {is_so}, but {but} configured")
        try:
            if proof:
                self._cipher.open(proof.encode())
        except RegistryError as error:
            raise RegistryError(f"{self.path}: {error}") from error


def check_name(name: str) -> None:
    """Raises EnrolmentError for what cannot be a name."""
    if not name.strip() or name != name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        what = f"1 to {MAX_NAME_CHARS} printable characters, no space around them"
        raise EnrolmentError(f"{name[:MAX_NAME_CHARS]!r} is no name: {what}")
    if name.casefold().startswith("speaker "):
        raise EnrolmentError(f"{name!r} is no name: unknown voices are called so")


def find(people: list[Person], name: str) -> Person:
    """By name, in any case. Raises EnrolmentError when it is not there."""
    for person in people:
        if folded(person.name) == folded(name):
            return person
    known = ", ".join(person.name for person in people) or "nobody"
    raise EnrolmentError(f"there is no {name!r}; known are: {known}")


def _meta(file: sqlite3.Connection, key: str) -> str | None:
    row = file.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _records(file: sqlite3.Connection) -> list[tuple[str, bytes]]:
    return file.execute("SELECT id, record FROM people").fetchall()


def _bump(file: sqlite3.Connection) -> None:
    file.execute("UPDATE meta SET value = value + 1 WHERE key = 'version'")
