"""What MQTT adds to a turn, and what idle devices weigh.

Devices, mosquitto, the gateway as a process of its own, and a server that answers at once.

A turn is a second of audio in real time, or a typed line; it ends when the whole reply is there. The same turns go
straight to the server and over MQTT. The server answers by rule, so that what is measured is the way alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from _report import announce, machine, parser, save, spread, table
from aiomqtt import Client
from websockets.asyncio.server import ServerConnection, serve

from clients.demo.run import free_port
from clients.device import MqttDevice
from clients.mqtt.broker import BrokerAddress
from clients.mqtt.topics import Line, topic
from clients.realtime import SAMPLE_RATE, Conversation, connect

CHUNK_MS = 32
PATIENCE_S = 10
QUIET = bytes(2 * CHUNK_MS * SAMPLE_RATE // 1000)
LOUD = b"\xff" * len(QUIET)  # the last chunk of a turn
LOUD_BASE64 = "////"
ROOT = Path(__file__).parent.parent
GATEWAY = [sys.executable, "-m", "agent", "mqtt"]

Turn = Callable[[], Awaitable[float]]  # says something; milliseconds from its end to the whole reply


async def answer(connection: ServerConnection) -> None:
    """A server that replies to every typed line and to every loud chunk at once."""

    async def send(*events: dict[str, Any]) -> None:
        for event in events:
            await connection.send(json.dumps(event))

    await send({"type": "session.created"})
    async for message in connection:  # until it is closed
        event = json.loads(message)
        if event["type"] == "session.update":
            await send({"type": "session.updated"})
        elif event["type"] == "response.create" or LOUD_BASE64 in event.get("audio", ""):
            metadata = event.get("response", {}).get("metadata")
            if metadata is None and "audio" in event:
                await send({"type": "input_audio_buffer.committed", "item_id": "item"})
            response = {"id": f"resp_{time.monotonic_ns()}", "metadata": metadata, "status": "completed"}
            await send(
                {"type": "response.created", "response": response},
                {"type": "response.output_text.delta", "delta": "A latte with soy milk. How many?"},
                {"type": "response.done", "response": response},
            )


@asynccontextmanager
async def direct(url: str) -> AsyncIterator[tuple[Turn, Turn]]:
    """Typed and spoken turns of one device that talks with the server itself."""
    async with connect(url) as conversation:

        async def typed() -> float:
            started = time.perf_counter()
            await conversation.send_text("hello")
            return await replied(conversation, started)

        async def spoken() -> float:
            started = await stream(conversation.send_pcm)
            return await replied(conversation, started)

        yield typed, spoken


async def replied(conversation: Conversation, started: float) -> float:
    async for event in conversation:
        if event["type"] == "response.done":
            break
    return 1000 * (time.perf_counter() - started)


@asynccontextmanager
async def over_mqtt(name: str, address: BrokerAddress) -> AsyncIterator[tuple[Turn, Turn]]:
    """The same of one device on the broker."""
    arrived = asyncio.Event()

    def happened(channel: str, values: dict[str, Any]) -> None:
        if channel == "reply":
            arrived.set()

    async with MqttDevice(name, address, happened).connected() as device:

        async def typed() -> float:
            started = time.perf_counter()
            await device.ask("hello")
            return 1000 * (time.perf_counter() - started)

        async def spoken() -> float:
            arrived.clear()
            started = await stream(device.send_pcm)
            async with asyncio.timeout(PATIENCE_S):
                await arrived.wait()
            return 1000 * (time.perf_counter() - started)

        yield typed, spoken


async def stream(send: Callable[[bytes], Awaitable[None]]) -> float:
    """A second of audio in real time; when its last chunk was sent."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    for _ in range(1000 // CHUNK_MS):
        due_s += CHUNK_MS / 1000
        await asyncio.sleep(due_s - loop.time())
        await send(QUIET)
    started = time.perf_counter()
    await send(LOUD)
    return started


async def measure(ways: list[tuple[Turn, Turn]], kind: int, turns: int) -> list[float]:
    """Milliseconds of all turns of all devices at the same time, the first of each left out."""

    async def one(turn: Turn) -> list[float]:
        return [await turn() for _ in range(turns + 1)][1:]

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one(way[kind])) for way in ways]
    return [milliseconds for task in running for milliseconds in task.result()]


@contextmanager
def program(command: list[str], ready: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if ready in line:
                break
        yield process
    finally:
        process.terminate()
        process.communicate()


def resident_mb(process: subprocess.Popen[str]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def weigh(address: BrokerAddress, devices: int, process: subprocess.Popen[str]) -> tuple[float, float]:
    """Megabytes of the gateway before and after so many devices have said something and fallen silent."""
    before = resident_mb(process)
    async with Client(address.host, address.port) as client:
        await client.subscribe("wavllm/1/+/reply", qos=1)
        for number in range(devices):
            await client.publish(topic(f"idle-{number}", "text"), Line("1", "hello").encode(), qos=1)
        for _ in range(devices):
            await anext(client.messages)
    return before, resident_mb(process)


async def run(options: argparse.Namespace, folder: Path, where: dict[str, Any]) -> None:
    port = free_port()
    address = BrokerAddress("127.0.0.1", port)
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
    mosquitto = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if mosquitto is None:
        print("left out: mosquitto is not installed; on Debian and Ubuntu: apt install mosquitto")
        return
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(answer, "127.0.0.1", 0))
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1/realtime"
        stack.enter_context(program([mosquitto, "-c", str(config)], " running"))
        gateway = stack.enter_context(
            program(
                [*GATEWAY, "--broker", f"mqtt://{address}", "--url", url, "--state", str(folder / "mqtt.db")],
                "connected",
            )
        )
        before, after = await weigh(address, options.idle, gateway)
        straight = [await stack.enter_async_context(direct(url)) for _ in range(options.devices)]
        by_mqtt = [await stack.enter_async_context(over_mqtt(f"d{n}", address)) for n in range(options.devices)]
        rows = []
        for kind, name in enumerate(("typed", "spoken")):
            for way, clients in (("direct", straight), ("MQTT", by_mqtt)):
                taken = await measure(clients, kind, options.turns)
                rows.append((name, way, len(taken), *spread(taken).values()))
    table(("turn", "way", "turns", "p50 ms", "p95", "p99"), rows)
    print(f"{options.idle} idle devices, each with an open conversation: {before:.0f} MB → {after:.0f} MB")
    save(options.out, "mqtt", where, {"rows": rows, "idle_devices": options.idle, "gateway_mb": [before, after]})


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--devices", type=int, default=8, help="that talk at the same time")
    arguments.add_argument("--turns", type=int, default=20, help="of each")
    arguments.add_argument("--idle", type=int, default=200, help="devices that are weighed")
    options = arguments.parse_args()
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # it tells of every client that leaves
    where = machine()
    announce(where)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(options, Path(folder), where))


if __name__ == "__main__":
    main()
