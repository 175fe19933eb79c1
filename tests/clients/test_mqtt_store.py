"""What a gateway that is restarted, or killed, does not forget."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from aiomqtt import Client

from clients.device import MqttDevice
from clients.mqtt.lines import MAX_ANSWERED
from clients.mqtt.store import open_store
from clients.mqtt.topics import Line
from clients.realtime import ClientError
from tests.clients.brokers import Mosquitto
from tests.clients.gateways import QUICK, Log, gateway_running
from tests.clients.scripted_server import ScriptedServer

ROOT = Path(__file__).parents[2]
DEVICES, LINES = 4, 40


def reply(line_id: str, text: str = "yes") -> dict[str, object]:
    return {"id": line_id, "text": text, "status": "completed", "error": None}


@asynccontextmanager
async def gateway_of(file: Path, broker: Mosquitto, url: str) -> AsyncIterator[None]:
    with open_store(file) as store:
        async with gateway_running(broker.address, url, store):
            yield


@pytest.mark.needs("mosquitto")
async def test_a_restarted_gateway_knows_what_it_has_answered(tmp_path: Path) -> None:
    file = tmp_path / "state" / "mqtt.db"
    async with (
        Mosquitto(tmp_path).running() as broker,
        ScriptedServer().running() as server,
        Client(broker.address.host, broker.address.port) as client,
    ):
        await client.subscribe("wavllm/1/hall/reply", qos=1)
        told = []
        for _ in range(2):
            async with gateway_of(file, broker, server.url), asyncio.timeout(5):
                await client.publish("wavllm/1/hall/text", b'{"id": "7", "text": "hello"}', qos=1)
                told.append((await anext(client.messages)).payload)
    assert told[0] == told[1]
    assert server.turns == 1


async def reply_id(client: Client) -> str:
    message = await anext(client.messages)
    line_id: str = json.loads(message.payload)["id"]  # type: ignore[arg-type]
    return line_id


@pytest.mark.needs("mosquitto")
async def test_a_site_has_room_however_many_devices_wait_for_an_answer(tmp_path: Path) -> None:
    with open_store(tmp_path / "mqtt.db") as store:
        for device in ("attic", "cellar"):
            store.accept(device, Line(f"of {device}", "hello"))
    async with (
        Mosquitto(tmp_path).running() as broker,
        ScriptedServer().running() as server,
        Client(broker.address.host, broker.address.port) as client,
        asyncio.timeout(5),
    ):
        await client.subscribe("wavllm/1/+/reply", qos=1)
        with open_store(tmp_path / "mqtt.db") as store:
            async with gateway_running(broker.address, server.url, store, max_devices=2, sites=("kitchen",)):
                assert await reply_id(client) == "of attic"
    with open_store(tmp_path / "mqtt.db") as store:
        assert store.owed()[0] == ["cellar"], "which the next gateway may have room for"


@pytest.mark.needs("mosquitto")
async def test_what_was_accepted_is_answered_and_what_was_answered_is_told(tmp_path: Path) -> None:
    """Even to devices that do not repeat themselves."""
    file, silent = tmp_path / "mqtt.db", ScriptedServer(mute=True)
    async with Mosquitto(tmp_path).running() as broker, silent.running(), ScriptedServer().running() as server:
        async with (
            gateway_of(file, broker, silent.url),
            Client(broker.address.host, broker.address.port) as client,
            asyncio.timeout(5),
        ):
            await client.subscribe("wavllm/1/hall/state", qos=1)
            await client.publish("wavllm/1/hall/text", b'{"id": "asked", "text": "hello"}', qos=1)
            async for message in client.messages:
                if b"thinking" in bytes(message.payload):  # type: ignore[arg-type]
                    break
        with open_store(file) as store:
            store.accept("cellar", Line("told", "hello"))
            await store.answer("cellar", reply("told"))
            store.accept("attic", Line("heard", "hello"))
            await store.answer("attic", reply("heard"))
            store.deliver("attic", "heard")
            store.mute("attic", True)
        async with Client(broker.address.host, broker.address.port) as client, asyncio.timeout(5):
            await client.subscribe("wavllm/1/+/reply", qos=1)
            async with gateway_of(file, broker, server.url):
                arrived = [await reply_id(client) for _ in range(2)]
                await client.publish("wavllm/1/hall/text", b'{"id": "last", "text": "bye"}', qos=1)
                arrived.append(await reply_id(client))  # goes out once the broker has confirmed those before it
    assert arrived == ["told", "asked", "last"]
    with open_store(file) as store:
        waiting, unconfirmed = store.owed()
    assert waiting == [] and {reply["id"] for _, reply in unconfirmed} <= {"last"}


@pytest.mark.needs("mosquitto")
async def test_who_is_muted_stays_muted(tmp_path: Path) -> None:
    file, log, loud = tmp_path / "mqtt.db", Log(), np.full(3_200, 16_000, "<i2").tobytes()
    async with (
        Mosquitto(tmp_path).running() as broker,
        ScriptedServer().running() as server,
        MqttDevice("kitchen", broker.address, log, QUICK).connected() as device,
        Client(broker.address.host, broker.address.port) as home,
    ):
        async with gateway_of(file, broker, server.url):
            await home.publish("wavllm/1/kitchen/mute", b"ON", qos=1)
            assert (await log.until("state"))["muted"]
        async with gateway_of(file, broker, server.url):
            await device.send_pcm(loud)
            await device.ask("hello")
    assert log.of("state")[-1]["muted"]
    assert server.samples == 0


async def test_the_oldest_replies_are_forgotten_and_no_line_that_waits(tmp_path: Path) -> None:
    with open_store(tmp_path / "mqtt.db") as store:
        store.accept("hall", Line("waits", "hello"))
        for number in range(MAX_ANSWERED + 3):
            store.accept("hall", Line(str(number), "hello"))
            await store.answer("hall", reply(str(number)))
        remembered = store.load("hall")
        assert list(remembered.answered) == [str(number) for number in range(3, MAX_ANSWERED + 3)]
        assert remembered.waiting == [Line("waits", "hello")]
        assert not store.load("cellar").answered


async def test_a_last_write_that_fails_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(tmp_path / "mqtt.db") as store:
        store.accept("hall", Line("one", "hello"))
        await store.answer("hall", reply("one"))
        with sqlite3.connect(tmp_path / "mqtt.db") as other:
            other.execute("DROP TABLE line")
        other.close()
        store.deliver("hall", "one")  # written with what comes next, so at the end
        assert not caplog.records
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "cannot be written: no such table: line" in caplog.text


async def test_a_disk_that_fails_is_told_once_and_nobody_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(tmp_path / "mqtt.db") as store:
        with sqlite3.connect(tmp_path / "mqtt.db") as other:
            other.execute("DROP TABLE line")
        other.close()
        for number in range(3):
            store.accept("hall", Line(str(number), "hello"))
            async with asyncio.timeout(5):
                await store.answer("hall", reply(str(number)))
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert logged == [
        "the state of the gateway cannot be written: no such table: line; a restart will forget (told once)"
    ]


def test_a_file_that_cannot_be_used_is_left_as_it_is(tmp_path: Path) -> None:
    notes, newer = tmp_path / "notes.txt", tmp_path / "newer.db"
    notes.write_bytes(b"these are notes, and no database at all" * 100)
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    for path, why in ((notes, "not a database"), (newer, "of version 9, not 1"), (tmp_path, "unable to open")):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(ClientError, match=f"cannot hold the state of the gateway: .*{why}"), open_store(path):
            pass
        assert not path.is_file() or path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.needs("mosquitto")
async def test_over_twenty_kills_of_gateway_and_broker_every_line_is_answered_once(tmp_path: Path) -> None:
    """Under load, one after the other, each without warning."""
    log, mosquitto, kills = Log(), Mosquitto(tmp_path), 20
    replies: list[str] = []

    async def ask_all(device: MqttDevice) -> None:
        for number in range(LINES):
            replies.append((await device.ask(f"{device.name} {number}"))["text"])

    async def start_gateway(url: str) -> asyncio.subprocess.Process:
        arguments = ["--broker", f"mqtt://{mosquitto.address}", "--url", url, "--state", str(tmp_path / "mqtt.db")]
        return await asyncio.create_subprocess_exec(sys.executable, "-m", "agent", "mqtt", *arguments, cwd=ROOT)

    async with mosquitto.running(), ScriptedServer().running() as server, asyncio.TaskGroup() as tasks:
        gateway = await start_gateway(server.url)
        for number in range(DEVICES):
            device = MqttDevice(f"device-{number}", mosquitto.address, log, QUICK, repeat_s=0.5)
            tasks.create_task(_connected(device, ask_all))
        for kill in range(kills):
            await log.until("reply", (kill + 1) * DEVICES * LINES // (kills + 1), seconds=60)
            if kill % 2:
                await mosquitto.stop(kill=True)
                await mosquitto.start()
            else:
                gateway.kill()
                await gateway.wait()
                gateway = await start_gateway(server.url)
        while len(replies) < DEVICES * LINES:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        gateway.kill()
        await gateway.wait()
    assert sorted(replies) == sorted(f"you wrote device-{d} {n}" for d in range(DEVICES) for n in range(LINES))
    assert len({told["id"] for told in log.of("reply")}) == len(log.of("reply")) == DEVICES * LINES


async def _connected(device: MqttDevice, ask_all: object) -> None:
    async with device.connected():
        await ask_all(device)  # type: ignore[operator]
