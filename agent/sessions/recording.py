"""A session on disk, with its timing: what was acted on, in that order, and what was said to it.

One JSON object a line: first the head, then `in` (a message), `report` (which of the session's own tasks reported)
and `out` (an event, as it was sent). `at` is in seconds since the beginning. Holds everything that was said aloud.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from agent.errors import RecordingError
from agent.functions.builtin import TimerNews
from agent.protocol.handshake import Handshake
from agent.sessions.functions import FunctionEnded
from agent.sessions.generation import SpokenPiece
from agent.sessions.names import Names
from agent.sessions.transcripts import TranscriptEnded, TranscriptPiece

FORMAT: Final = 2
MAX_RECORDING_BYTES: Final = 512 * 2**20  # about two hours of speech; what follows is left out, and that is noted

log = logging.getLogger(__name__)

Send = Callable[[str], Coroutine[Any, Any, None]]


class Recorder:
    """Writes one file. Lines go through a buffer into the page cache: a session never waits for the disk."""

    def __init__(self, folder: Path, handshake: Handshake, timer: Callable[[], float] = time.perf_counter) -> None:
        """Raises RecordingError when the file cannot be made."""
        self.names = Names()  # of the session, so that they can be given again
        self.began_s = time.time()
        self._timer, self._start_s = timer, timer()
        self.path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{self.names.seed[:8]}.jsonl"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._file = open(descriptor, "w", encoding="utf-8", buffering=2**16)  # noqa: SIM115 - `close` closes it
        self._room_bytes = MAX_RECORDING_BYTES
        head = {"wavllm_recording": FORMAT, "seed": self.names.seed, "began_s": self.began_s}
        self._write(head | {"handshake": asdict(handshake)})

    def clock(self) -> float:
        """Seconds since the beginning; the session's own clock, so that it can be set again exactly."""
        return self._timer() - self._start_s

    def took(self, what: Any, now_s: float) -> None:
        """The session acts on this now."""
        line: dict[str, Any] = {"at": now_s}
        if isinstance(what, bytes):
            line["in"] = {"binary": base64.b64encode(what).decode()}
        elif isinstance(what, str):
            line["in"] = what
        else:
            line["report"] = label(what)
        self._write(line)

    def sending(self, send: Send) -> Send:
        """The same, written down."""

        async def send_and_record(text: str) -> None:
            self._write({"at": self.clock(), "out": text})
            await send(text)

        return send_and_record

    def close(self) -> None:
        """Harmless when done before."""
        try:
            self._file.close()
        except OSError as error:
            self._give_up(error)

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, separators=(",", ":")) + "\n"
        if self._room_bytes <= 0 or self._file.closed:
            return
        self._room_bytes -= len(text)
        try:
            self._file.write(text if self._room_bytes > 0 else '{"cut":true}\n')
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._room_bytes = 0
        log.warning("%s: recording ends: %s", self.path, error.strerror)


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file holds."""

    seed: str
    began_s: float  # Unix time
    handshake: Handshake
    lines: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises RecordingError naming the line that cannot be read; a last one that was cut off is left out."""
        try:
            texts = path.read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, UnicodeDecodeError) as error:
            raise RecordingError(f"{path}: cannot be read: {error}") from error
        lines = [_read_line(path, number, text) for number, text in enumerate(texts, 1)]
        head = lines.pop(0) if lines else {}
        if head.get("wavllm_recording") != FORMAT:
            raise RecordingError(f"{path}, line 1: is not the head of a recording of format {FORMAT}")
        return cls(head["seed"], head["began_s"], Handshake(**head["handshake"]), lines)


def label(report: Any) -> str:
    """Which report it is; those of one label come in an order of their own."""
    match report:
        case SpokenPiece():
            return f"{type(report.spoken).__name__} {report.response_id}"
        case TranscriptPiece() | TranscriptEnded():
            return f"{type(report).__name__} {report.item.id}"
        case FunctionEnded():
            return f"{type(report).__name__} {report.call_id}"
        case TimerNews():
            return f"{type(report).__name__} {report.status} {report.call_id}"
        case _:
            said = getattr(report, "said", None)
            owner = getattr(report, "response_id", said.item_id if said else "")
            return f"{type(report).__name__} {owner}".strip()


def _read_line(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if isinstance(line, dict) and (number == 1 or line.keys() & {"in", "report", "out", "cut"}):
        return line
    raise RecordingError(f"{path}, line {number}: is no line of a recording: {text[:60]!r}")
