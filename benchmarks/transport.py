"""What a connection costs before any model: processor time of a live session, memory of an idle one, and barge-in.

Ingest: sessions stream the same recorded turns in real time, 20 ms a message, to the server without a model; with
`--pipecat PYTHON`, an interpreter that has pipecat-ai[silero,websocket], the same stream goes to pipecat's websocket
transport with its Silero detector in the same run. Idle: so many connections that have been greeted, the growth of
the process. Barge-in: sessions with the shipped model are being spoken to at the pace of a listener; a person begins
to speak, and the last byte of the reply arrives so much later.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import soundfile
from _report import announce, machine, parser, percentile, save, table
from websockets.asyncio.client import ClientConnection, connect

HERE = Path(__file__).parent
CLIP = HERE.parent / "clients" / "demo" / "clips" / "s2i_540a38c2.flac"
CHUNK_MS, PIPECAT_PORT = 20, 18_760
QUIET_S = 0.05  # of a processor in a second, by all sessions together
ORDER = "give me a dark roast espresso with lots of almond milk"

Messages = list[str] | list[bytes]


def stream(rate: int) -> list[bytes]:
    """Ten seconds, a turn and a pause in turn, in chunks of 20 ms."""
    pcm, recorded = soundfile.read(CLIP, dtype="int16")
    turns = np.resize(np.pad(pcm, (0, 2 * recorded)), 10 * recorded)
    turns = np.repeat(turns, 3)[::2] if rate == 24_000 else turns
    samples = rate * CHUNK_MS // 1000
    return [turns[at : at + samples].tobytes() for at in range(0, len(turns) - samples + 1, samples)]


def as_json(pcm: bytes) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()})


def as_protobuf(pcm: bytes) -> bytes:
    """pipecat's Frame with an AudioRawFrame of 16 kHz in it."""

    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        return varint(number << 3 | 2) + varint(len(value)) + value

    return field(2, field(3, pcm) + field(4, 16_000) + field(5, 1))


def varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


@contextmanager
def child(*command: str) -> Iterator[tuple[psutil.Process, str]]:
    """A process that says something when it is ready; its first line, too."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            lines = (line for line in process.stdout if "Pipecat" not in line)
            yield psutil.Process(process.pid), next(lines).strip()
        finally:
            process.kill()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def drain(socket: ClientConnection) -> None:
    async for _ in socket:
        pass


async def reach(url: str) -> ClientConnection:
    """As soon as somebody listens there."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await connect(url, proxy=None)
            except OSError:
                await asyncio.sleep(0.5)


async def settled(read: Callable[[], float]) -> float:
    """Processor seconds when next to none are added: on a busy machine, a server is behind when the last was sent."""
    before_s = read()
    while True:
        await asyncio.sleep(1)
        now_s = read()
        if now_s - before_s < QUIET_S:
            return before_s
        before_s = now_s


async def live(ports: list[str], messages: Messages, hello: str | None, read: Callable[[], float]) -> float:
    """Processor seconds that streaming in real time costs, over all sessions."""
    sockets = [await reach(url) for url in ports]
    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(drain(socket)) for socket in sockets]
        for socket in sockets:
            if hello:
                await socket.send(hello)
        await asyncio.sleep(1)
        before, start = read(), time.perf_counter()
        for number, message in enumerate(messages):
            await asyncio.sleep(max(0.0, start + number * CHUNK_MS / 1000 - time.perf_counter()))
            for socket in sockets:
                await socket.send(message)
        spent = await settled(read) - before
        for reader in readers:
            reader.cancel()
    for socket in sockets:
        await socket.close()
    return spent


def ours(rate: int) -> str:
    audio = {"format": {"type": "audio/pcm", "rate": rate}}
    return json.dumps({"type": "session.update", "session": {"audio": {"input": audio}}})


def ingest(sessions: int, pipecat: str | None) -> list[list[object]]:
    rows = []

    def row(name: str, process: psutil.Process, urls: list[str], messages: Messages, hello: str | None) -> None:
        spent = asyncio.run(live(urls, messages, hello, lambda: cpu_s(process)))
        rows.append([name, len(urls), 100 * spent / len(urls) / (len(messages) * CHUNK_MS / 1000)])

    with child(sys.executable, str(HERE / "_ingest_server.py")) as (process, port):
        urls = [f"ws://127.0.0.1:{port}/v1/realtime"] * sessions
        row("this server, base64, 24 kHz", process, urls, [as_json(pcm) for pcm in stream(24_000)], None)
        row("this server, base64, 16 kHz", process, urls, [as_json(pcm) for pcm in stream(16_000)], ours(16_000))
        row("this server, binary, 16 kHz", process, urls, list(stream(16_000)), ours(16_000))
    if pipecat:
        command = (pipecat, str(HERE / "_pipecat_server.py"), str(PIPECAT_PORT), str(sessions))
        with child(*command) as (process, _):
            urls = [f"ws://127.0.0.1:{PIPECAT_PORT + number}" for number in range(sessions)]
            row("pipecat, protobuf, 16 kHz", process, urls, [as_protobuf(pcm) for pcm in stream(16_000)], None)
    return rows


async def connected(url: str, count: int) -> list[ClientConnection]:
    sockets = [await connect(url, proxy=None) for _ in range(count)]
    for socket in sockets:
        await socket.recv()
    return sockets


def idle(count: int) -> float:
    """MiB of growth."""

    async def measure(process: psutil.Process, url: str) -> float:
        for socket in await connected(url, 5):  # what is loaded once
            await socket.close()
        before = process.memory_info().rss
        sockets = await connected(url, count)
        grown = process.memory_info().rss - before
        for socket in sockets:
            await socket.close()
        return grown / 2**20

    with child(sys.executable, str(HERE / "_ingest_server.py")) as (process, port):
        return asyncio.run(measure(process, f"ws://127.0.0.1:{port}/v1/realtime"))


async def interrupt(url: str, onset_s: float) -> tuple[float, float]:
    """Milliseconds from the first sound of speech to the last audio of the reply, and to its end."""
    pcm = soundfile.read(CLIP, dtype="int16")[0]
    onset = int(np.flatnonzero(np.abs(pcm.astype(int)) > 0.05 * np.abs(pcm.astype(int)).max())[0])
    pcm = pcm[max(0, onset - 320) :]
    async with connect(url, proxy=None) as socket:
        update = json.loads(ours(16_000))
        update["session"]["output_modalities"] = ["audio"]
        await socket.send(json.dumps(update))
        content = [{"type": "input_text", "text": ORDER}]
        item = {"type": "message", "role": "user", "content": content}
        await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
        await socket.send(json.dumps({"type": "response.create"}))
        started = last_s = time.perf_counter()

        async def speak() -> None:
            nonlocal started
            await asyncio.sleep(onset_s)
            started = time.perf_counter()
            for at in range(0, min(len(pcm), 16_000), 320):
                await asyncio.sleep(max(0.0, started + at / 16_000 - time.perf_counter()))
                await socket.send(as_json(pcm[at : at + 320].tobytes()))

        async with asyncio.TaskGroup() as tasks:
            speaking = None
            async for text in socket:
                event = json.loads(text)
                if event["type"] == "response.output_audio.delta":
                    last_s = time.perf_counter()
                    speaking = speaking or tasks.create_task(speak())
                elif event["type"] == "response.done":
                    over = time.perf_counter()
                    details = event["response"]["status_details"] or {}
                    assert details.get("reason") == "turn_detected", event["response"]["status"]
                    speaking.cancel()
                    break
        return 1000 * (last_s - started), 1000 * (over - started)


def barge_in(sessions: int) -> list[tuple[float, float]]:
    with TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text("server: {port: 0}\nvoice: {lead_ms: 200, processes: 16}\n")
        with child(sys.executable, "-m", "agent", "serve", "--config", str(config)) as (_, line):
            url = line.split()[-1]

            async def all_of_them() -> list[tuple[float, float]]:
                return await asyncio.gather(*(interrupt(url, 0.3 + 0.05 * number) for number in range(sessions)))

            return asyncio.run(all_of_them())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--sessions", type=int, default=16)
    options.add_argument("--idle", type=int, default=200, help="connections")
    options.add_argument("--pipecat", metavar="PYTHON", help="an interpreter that has pipecat-ai")
    args = options.parse_args()
    costs, grown_mib, reactions = ingest(args.sessions, args.pipecat), idle(args.idle), barge_in(args.sessions)
    where = machine()
    announce(where)
    table(["ingest", "sessions", "% of a core, each"], [[name, count, f"{share:.2f}"] for name, count, share in costs])
    print(f"{args.idle} idle connections: {grown_mib:.1f} MiB more\n")
    last, over = ([one[at] for one in reactions] for at in (0, 1))
    rows = [["to the last audio of the reply", *(percentile(last, share) for share in (0.5, 0.95))]]
    rows.append(["to response.done", *(percentile(over, share) for share in (0.5, 0.95))])
    table([f"barge-in, {args.sessions} sessions, from the first sound", "p50 ms", "p95 ms"], rows)
    save(args.out, "transport", where, {"ingest": costs, "idle_mib": grown_mib, "barge_in_ms": reactions})


if __name__ == "__main__":
    main()
