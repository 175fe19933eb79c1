"""`wavllm device`: a reference device, which speaks and types over MQTT and prints what comes back.

Shows what a device has to do: count its samples, give every line an id, repeat it until the reply is there, tell
which functions it has and carry them out. Its own are a coffee machine and a light. Knows topics and the broker; no
server.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from rich.console import Console

from agent.protocol.errors import ProtocolError
from agent.protocol.server_events import new_id
from clients.appliances import CUP_S, Appliance, CoffeeMachine, Light, Tell
from clients.display import latency_line
from clients.file import CHUNK_SAMPLES, LEAD_SECONDS, Line
from clients.mqtt import topics
from clients.mqtt.broker import Arrived, BrokerAddress, Link
from clients.mqtt.topics import GATEWAY, AudioChunk, Message
from clients.realtime import SAMPLE_RATE, ClientError, Waveform, to_pcm
from clients.retry import Backoff, first
from clients.turns import Latency

REST_S: Final = 2.0  # for the transcript and the figures, which may come after the reply
REPEAT_S: Final = 10.0  # an unanswered line, in case it or its reply was lost
MAX_REMEMBERED: Final = 256  # ids of what arrived, to know it when it comes again
MACHINE, LIGHT = "coffee", "light"  # the channels on which they tell their state
READY: Final = "ready"  # the state when nothing more is to come
STYLES: Final = {
    "transcript": "cyan",
    "reply": "green",
    "error": "red",
    "call": "magenta",
    MACHINE: "bold yellow",
    LIGHT: "bold yellow",
}

Values = dict[str, Any]
log = logging.getLogger(__name__)


class MqttDevice:
    """One device; `happened` is told of each message from the gateway once, as channel and values."""

    def __init__(
        self,
        name: str,
        address: BrokerAddress,
        happened: Callable[[str, Values], None] = lambda channel, values: None,
        backoff: Backoff | None = None,
        repeat_s: float = REPEAT_S,
    ) -> None:
        self.name = name
        self._happened, self._repeat_s = happened, repeat_s
        down = {topics.topic(name, channel): 1 for channel in topics.DOWN}
        status = topics.topic(GATEWAY, "status")
        self._link = Link(address, f"wavllm-device-{name}", {**down, status: 1}, backoff=backoff)
        self._unanswered: dict[str, tuple[topics.Line, asyncio.Future[Values]]] = {}
        self._spoken: asyncio.Future[Values] | None = None  # the reply to what is being said
        self.appliances: list[Appliance] = []  # to be there before it is connected
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._next_sample = 0

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[MqttDevice]:
        """Be on the broker within this block. Raises ClientError when it refuses us."""
        ready = asyncio.Event()

        async def greet() -> None:
            ready.set()
            await self._offer()
            await self._repeat_lines()

        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                link = tasks.create_task(self._link.run(self._receive, greet), name=f"device {self.name}")
                repeating = tasks.create_task(self._keep_repeating(), name="repeat lines")
                await ready.wait()
                yield self
                link.cancel()
                repeating.cancel()
        except ExceptionGroup as group:
            raise first(group) from group

    async def ask(self, text: str, line_id: str | None = None) -> Values:
        """Type a line and wait for its reply, over whatever is lost on the way."""
        line = topics.Line(line_id or new_id("line"), text)
        reply: asyncio.Future[Values] = asyncio.get_running_loop().create_future()
        self._unanswered[line.id] = (line, reply)
        try:
            await self._send_line(line)
            return await reply
        finally:
            self._unanswered.pop(line.id, None)

    async def speak(self, waveform: Waveform) -> Values:
        """Stream a sound in real time, as a microphone would, and wait for the reply to it."""
        loop = asyncio.get_running_loop()
        self._spoken, due_s = loop.create_future(), loop.time()
        for start in range(0, len(waveform), CHUNK_SAMPLES):
            chunk = waveform[start : start + CHUNK_SAMPLES]
            due_s += len(chunk) / SAMPLE_RATE
            await asyncio.sleep(due_s - loop.time())
            await self.send_pcm(to_pcm(chunk))
        await self.send_pcm(b"")
        return await self._spoken

    async def tell(self, channel: str, values: Values) -> None:
        """Publish a state of this device, which whoever comes later shall know, too."""
        message = Message(topics.topic(self.name, channel), topics.encode(values), retain=True)
        await self._link.outbox.put(message)

    async def send_pcm(self, pcm: bytes) -> None:
        """Send 16-bit samples at 16 kHz; none at all: nothing more will follow for now. May be lost."""
        chunk = AudioChunk(self._next_sample, pcm)
        self._next_sample += chunk.samples
        await self._link.cast(Message(topics.topic(self.name, "audio"), chunk.encode()))

    def _receive(self, message: Arrived) -> None:
        channel = message.topic.rpartition("/")[2]
        if channel == "status":
            self._happened("gateway", {"state": message.payload.decode(errors="replace")})
            if message.payload == b"online" and not message.retained:  # it was restarted, and knows nothing
                self._tasks.create_task(self._offer(), name="offer tools")
            return
        try:
            values = json.loads(message.payload)
            if not isinstance(values, dict) or not isinstance(values.get("id"), str | None):
                raise ValueError("not an object whose id is a text")
        except (ValueError, RecursionError) as error:
            log.warning("%s: not understood: %s", message.topic, error)
            return
        if not self._is_repetition(channel, values.get("id")):
            self._settle(channel, values)
            self._happened(channel, values)
            if channel == "call":
                self._tasks.create_task(self._carry_out(values), name=f"carry out {values.get('id')}")

    def _settle(self, channel: str, values: Values) -> None:
        if channel != "reply":
            return
        if values.get("id") in self._unanswered:
            _, reply = self._unanswered.pop(values["id"])
            if not reply.done():  # given up at this moment
                reply.set_result(values)
        elif self._spoken and not self._spoken.done():
            self._spoken.set_result(values)

    def _is_repetition(self, channel: str, message_id: str | None) -> bool:
        """Whether it came before: the broker delivers at least once."""
        if message_id is None or channel == "error":
            return False
        key = (channel, message_id)
        known = key in self._seen
        self._seen[key] = None
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return known

    async def _offer(self) -> None:
        if self.appliances:
            offer = topics.encode({"tools": [appliance.tool for appliance in self.appliances]})
            await self._link.outbox.put(Message(topics.topic(self.name, "tools"), offer))

    async def _carry_out(self, call: Values) -> None:
        name, arguments = call.get("name"), call.get("arguments")
        output: Values = {"error": f"there is no function {name!r} here"}
        for appliance in self.appliances:
            if appliance.tool["name"] == name:
                output = await appliance.call(arguments if isinstance(arguments, dict) else {})
        result = topics.encode({"id": call.get("id"), "output": output})
        await self._link.outbox.put(Message(topics.topic(self.name, "result"), result))

    async def _keep_repeating(self) -> None:
        while True:
            await asyncio.sleep(self._repeat_s)
            if self._link.outbox.empty:  # else they are on their way
                await self._repeat_lines()

    async def _repeat_lines(self) -> None:
        for line, _ in list(self._unanswered.values()):
            await self._send_line(line)

    async def _send_line(self, line: topics.Line) -> None:
        await self._link.outbox.put(Message(topics.topic(self.name, "text"), line.encode()))


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one line."""

    line: Line
    reply: Values | None = None  # None: there was none within the patience
    waited_ms: float = 0.0  # from the last sample, or the typed line, to the reply, as the device sees it
    latency: Latency | None = None  # as the server measured it

    @property
    def complete(self) -> bool:
        return self.reply is not None and self.reply.get("status") == "completed"


async def run_device(
    name: str,
    lines: Sequence[Line],
    console: Console,
    address: BrokerAddress,
    patience_s: float = 20.0,
    cup_s: float = CUP_S,
) -> list[Answer]:
    """Say all lines, each after the reply to the one before, and brew what was ordered; returns the answers.

    cup_s: that the coffee machine takes for a cup
    Raises ClientError when the name cannot be one, or the broker refuses us.
    """
    try:
        topics.check_device(name)
    except ProtocolError as error:
        raise ClientError(error.message) from error
    screen, answers = _Screen(console), []
    device = MqttDevice(name, address, screen.show)

    def state_of(channel: str) -> Tell:
        async def tell(values: Values) -> None:
            screen.show(channel, values)
            await device.tell(channel, values)

        return tell

    machine = CoffeeMachine(state_of(MACHINE), cup_s)
    device.appliances = [machine, Light(state_of(LIGHT))]
    async with device.connected(), asyncio.TaskGroup() as tasks:
        working = tasks.create_task(machine.run(), name="make coffee")
        for line in lines:
            console.print(f"\n{line.caption or line.text}", style="bold")
            screen.expect("reply", "latency", READY, *(["transcript"] if line.waveform is not None else []))
            answer = await _say(device, line, patience_s)
            if answer.reply is None:
                console.print(f"no answer within {patience_s:g} s", style="red")
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(REST_S):
                        await screen.complete.wait()
            answers.append(replace(answer, latency=screen.latency))
        await machine.finished()
        working.cancel()
    return answers


class _Screen:
    """Prints what the device is told, and what its appliances do."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._missing: set[str] = set()
        self.complete = asyncio.Event()  # all that was expected has come
        self.latency: Latency | None = None  # of the last line

    def expect(self, *channels: str) -> None:
        self._missing, self.latency = set(channels), None
        self.complete.clear()

    def show(self, channel: str, values: Values) -> None:
        self._console.print(f"{channel:>10}  {_told(channel, values)}", style=STYLES.get(channel, "dim"))
        if channel == "latency":
            self.latency = _latency(values)
        self._missing.discard(channel)
        if channel == "state" and values.get("state") == READY and "reply" not in self._missing:
            self._missing.discard(READY)  # calls and their replies included
        if not self._missing:
            self.complete.set()


async def _say(device: MqttDevice, line: Line, patience_s: float) -> Answer:
    """The answer to a line; without a reply when there is none within the patience, counted from its end."""
    loop, spoken_s = asyncio.get_running_loop(), 0.0
    if line.waveform is not None:
        lead = np.zeros(round(LEAD_SECONDS * SAMPLE_RATE), np.float32)
        waveform = np.concatenate([lead, line.waveform])
        spoken_s = len(waveform) / SAMPLE_RATE
    ended_s = loop.time() + spoken_s
    try:
        async with asyncio.timeout(patience_s + spoken_s):
            reply = await (device.ask(line.text or "") if line.waveform is None else device.speak(waveform))
    except TimeoutError:
        return Answer(line)
    return Answer(line, reply, 1000 * (loop.time() - ended_s))


def _told(channel: str, values: Values) -> str:
    """A message in words; the gateway may be newer than this device, so nothing is taken for granted."""
    if channel == "transcript":
        return f"{values.get('speaker') or 'somebody'}: {values.get('text')}"
    if channel == "reply":
        return str(values.get("text") or values.get("error"))
    if channel == "latency" and (latency := _latency(values)):
        return latency_line(latency)
    if channel == "call":
        given = values.get("arguments")
        pairs = given.items() if isinstance(given, dict) else ()
        return f"{values.get('name')}({', '.join(f'{name}={value!r}' for name, value in pairs)})"
    if channel == "timer":
        return f"{values.get('name')}: {values.get('status')}"
    if channel == LIGHT:
        return f"{values['percent']} %"
    if channel == MACHINE and "drink" in values:
        return f"{values['state']}: {values['drink']}, cup {values['cup']} of {values['cups']}"
    return str(values.get("message") or values.get(channel) or values.get("state") or values)


def _latency(values: Values) -> Latency | None:
    wait_ms, first_ms, total_ms = (values.get(name) for name in ("vad_wait_ms", "first_token_ms", "total_ms"))
    if not isinstance(first_ms, int | float) or not isinstance(total_ms, int | float):
        return None  # cut off before its first token
    return Latency(wait_ms if isinstance(wait_ms, int | float) else None, first_ms, total_ms)
