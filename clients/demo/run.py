"""`wavllm demo`: starts a server, lets recorded people talk with it, and sums up.

Knows the server as a program to start and an address to ask, nothing more.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rich.console import Console

from clients.display import summary
from clients.file import Line, play, read_sound
from clients.realtime import DEFAULT_URL, SAMPLE_RATE, ClientError, Waveform

FOLDER: Final = Path(__file__).parent
START_SECONDS: Final = 60.0  # a server that needs longer has a problem worth reading about
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.05


def run_demo(console: Console, port: int = 0, stay: bool = False) -> bool:
    """Hold the scripted conversation; True when every turn was heard and answered.

    port: of the server; 0: a free one
    stay: leave the server running until Ctrl-C
    Raises ClientError when the server does not start, or fails on the way.
    """
    lines = read_script(FOLDER / "conversation.json")
    port = port or free_port()
    started = time.monotonic()
    with running_server(serve_command(port), port) as url:
        start_seconds = time.monotonic() - started
        console.print(f"Server ready after {start_seconds:.1f} s at {url}\n", style="bold")
        turns = asyncio.run(play(lines, console, url))
        answered = sum(turn.complete and not turn.problem for turn in turns)
        console.print()
        console.print(summary(turns))
        console.print(f"{answered} turns answered for {len(lines)} lines; server start {start_seconds:.1f} s\n")
        _invite(console, url, stay)
        if stay:
            threading.Event().wait()
    return answered >= len(lines)


def serve_command(port: int) -> list[str]:
    """What starts the server with its defaults, for this machine only."""
    return [sys.executable, "-m", "agent", "serve", "--host", "127.0.0.1", "--port", str(port)]


def read_script(path: Path) -> list[Line]:
    """The lines of a conversation file: a list of {clip | text, caption}, clips in the folder beside it.

    Of a clip `from_s` to `to_s` is said, where they are given.
    """
    return [
        Line(text=entry.get("text"), waveform=_clip(path.parent, entry), caption=f"── {entry['caption']}")
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


def _clip(folder: Path, entry: dict[str, Any]) -> Waveform | None:
    if "clip" not in entry:
        return None
    waveform = read_sound(folder / "clips" / entry["clip"])
    begin, end = (round(SAMPLE_RATE * entry.get(key, default)) for key, default in (("from_s", 0), ("to_s", 3600)))
    return waveform[begin:end]


@contextmanager
def running_server(command: Sequence[str], port: int) -> Iterator[str]:
    """Run a server on the loopback interface; gives its address once it is ready.

    Raises ClientError, with what the server printed, when it does not start; adds it to any that passes by.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_healthy(process, port)
            yield f"ws://127.0.0.1:{port}/v1/realtime"
        except ClientError as error:
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
            raise ClientError(f"{error}; the server said:\n{said}") from error
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _healthy(port):
        if process.poll() is not None:
            raise ClientError(f"the server ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise ClientError(f"the server was not ready in {START_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port(wanted: int = 0) -> int:
    """A port of the loopback interface that nobody listens on now: the wanted one, if it can be had."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def page_of(url: str) -> str:
    """Where the page with a microphone is, of the server at a ws:// address."""
    return f"http://{urlsplit(url).netloc}/"


def _invite(console: Console, url: str, stay: bool) -> None:
    program = Path(sys.executable).with_name("wavllm")
    elsewhere = f" --url {url}" if stay and url != DEFAULT_URL else ""
    console.print("Now your own voice:", style="bold")
    if not stay:
        console.print(f"  {program} serve  # then one of these, in another terminal")
    console.print(f"  a browser at {page_of(url if stay else DEFAULT_URL)}")
    console.print(f"  {program} talk{elsewhere}")
    console.print(f"  {program} play{elsewhere} FILE...")
    console.print(f"  any OpenAI Realtime client, pointed at {url if stay else DEFAULT_URL}")
    if stay:
        console.print("The server stays until Ctrl-C.")
