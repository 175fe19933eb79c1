"""The conversation of one device with the server, as an actor: one mailbox, and one task that alone decides.

A connection to the server is opened when the device has something to say, kept over losses, and closed when
nothing has happened for a while. Every line that is accepted gets exactly one reply. Knows no broker: it is
given a way to publish.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from agent.protocol.errors import ProtocolError
from clients.mqtt.audio import AudioFeed
from clients.mqtt.calls import REPLY_TO_CALLS, Calls, Offer, Result
from clients.mqtt.lines import MAX_ATTEMPTS, Lines
from clients.mqtt.store import Memory, Remembered
from clients.mqtt.topics import AudioChunk, Line, Values, error_values
from clients.realtime import SAMPLE_RATE, ClientError, Conversation, Event, connect
from clients.retry import Backoff, first

MAILBOX_MESSAGES: Final = 64  # overflow: lines are refused, the server waits
ALREADY_ANSWERING: Final = "conversation_already_has_active_response"
SAY: Final = "wavllm_say"  # the extension of the server that says a given text
TRANSCRIPTION: Final = "conversation.item.input_audio_transcription."


@dataclass(frozen=True, slots=True)
class BridgeLimits:
    """What the operator decides for all devices."""

    idle_s: float = 300.0  # without anything said; then the conversation is closed
    patience_s: float = 60.0  # without a word of a reply; then the server is taken for dead
    call_s: float = 10.0  # for a device to do what the model calls
    stall_s: float = 0.5  # without audio; then an utterance is taken for over
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, slots=True)
class _AudioWaits:
    """There is audio, and no connection."""


@dataclass(frozen=True, slots=True)
class _Muted:
    """The microphone was switched off or on."""


@dataclass(frozen=True, slots=True)
class _Report:
    """What became of a connection: it was opened, the server said something, it was lost."""

    epoch: int
    news: Conversation | Event | ClientError


@dataclass(slots=True)
class _Response:
    """The one under way; nothing of it is published before it is over."""

    id: str
    line_id: str | None  # None: it answers what was spoken
    text: str = ""

    @property
    def key(self) -> str:
        """What devices know it by."""
        return self.line_id or self.id


@dataclass(slots=True)
class _Talk:
    """What goes on in one conversation with the server."""

    conversation: Conversation
    calls: Calls  # that the device has to answer
    heard_s: float  # when the server said something last
    speaking: bool = False  # an utterance has begun and is not over
    awaiting: bool = False  # a response to what was spoken
    asking: bool = False  # a line has been asked and is not answered
    ask_again: bool = False  # once the response under way is over
    response: _Response | None = None
    timers: set[str] = field(default_factory=set)  # of the server, by name: they end with the conversation

    @property
    def thinking(self) -> bool:
        return self.awaiting or self.asking or self.response is not None or bool(self.calls)

    async def send(self, event: Event) -> None:
        with suppress(ClientError):  # whoever reads from the connection reports that it is lost
            await self.conversation.send(event)

    async def ask(self, line: Line) -> None:
        """Type a line; complaints about it come back with its id."""
        self.asking = True
        if line.verbatim:
            await self.ask_for_reply(line)
            return
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": line.text}]}
        await self.send({"type": "conversation.item.create", "event_id": line.id, "item": item})
        await self.ask_for_reply(line)

    async def ask_for_reply(self, line: Line) -> None:
        self.ask_again = False
        response = {"metadata": {"line": line.id}, **({SAY: line.text} if line.verbatim else {})}
        await self.send({"type": "response.create", "event_id": line.id, "response": response})


class Bridge:
    """Between one device and the server."""

    def __init__(
        self,
        url: str,
        limits: BridgeLimits,
        publish: Callable[[str, Values], Awaitable[None]],
        clock: Callable[[], float],
        voice: Callable[[str, bytes], Awaitable[None]] | None = None,
        memory: Memory | None = None,
        remembered: Remembered | None = None,
    ) -> None:
        """voice: is given what a reply, by its id, sounds like; without it replies come in writing alone
        remembered: what `memory` knows from an earlier life
        """
        remembered, self._memory = remembered or Remembered(), memory or Memory(None, "")
        self._url, self._limits, self._publish, self._clock = url, limits, publish, clock
        self._voice = voice
        self._mailbox: asyncio.Queue[Line | Offer | Result | _AudioWaits | _Muted | _Report] = asyncio.Queue(
            MAILBOX_MESSAGES
        )
        self._feed = AudioFeed(limits.stall_s, clock)
        self._lines = Lines(remembered.answered, remembered.waiting)
        self._talk: _Talk | None = None
        self._connection: asyncio.Task[None] | None = None
        self._epoch = 0  # of the connection; what an older one reports is void
        self._active_s = clock()  # when somebody said something last
        self._muted = remembered.muted
        self._offer: Offer | None = None
        self._told_state: tuple[str, bool] | None = None
        self._unreachable = False

    def hear(self, chunk: AudioChunk) -> None:
        """Take in audio, unless the device is muted; never waits."""
        if self._muted:
            return
        self._feed.put(chunk)
        if self._connection is None and not self._mailbox.full():
            self._mailbox.put_nowait(_AudioWaits())

    def say(self, line: Line) -> None:
        """Take in a typed line. Raises ProtocolError when there are too many."""
        if self._mailbox.full():
            raise ProtocolError("too_many_lines", f"line {line.id!r} is refused: too many messages wait")
        self._mailbox.put_nowait(line)

    def mute(self, muted: bool) -> None:
        """Be deaf, or hear again; what was being said is forgotten. Raises ProtocolError when too much waits."""
        self._put(_Muted(), "the switch")
        self._muted = muted

    def offer(self, offer: Offer) -> None:
        """Take in what the device can do, instead of what it could. Raises ProtocolError when too much waits."""
        self._put(offer, "the list of tools")

    def answer(self, result: Result) -> None:
        """Take in what came of a call. Raises ProtocolError when too much waits."""
        self._put(result, f"the result of {result.call_id!r}")

    def _put(self, message: Offer | Result | _Muted, name: str) -> None:
        if self._mailbox.full():
            raise ProtocolError("too_many_messages", f"{name} is refused: too many messages wait")
        self._mailbox.put_nowait(message)

    async def run(self) -> None:
        """Serve the device until cancelled; no task outlives this call."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._connect_if_needed(tasks)
                await self._ask_next()
                await self._tell_state()
                try:
                    async with asyncio.timeout_at(self._deadline_s()):
                        message = await self._mailbox.get()
                except TimeoutError:
                    await self._overdue()
                else:
                    await self._handle(message)

    def _connect_if_needed(self, tasks: asyncio.TaskGroup) -> None:
        if self._connection is None and (self._lines or not self._feed.empty):
            work = self._stay_connected(self._epoch)
            self._connection = tasks.create_task(work, name="talk to the server")

    @property
    def state(self) -> Values:
        """What the device may show, and what its audio has suffered."""
        talk, feed = self._talk, self._feed
        if talk is None:
            name = "unavailable" if self._unreachable else "idle"
        else:
            name = "listening" if talk.speaking else "thinking" if talk.thinking else "ready"
        return {
            "state": name,
            "muted": self._muted,
            "dropped_ms": _ms(feed.dropped_samples),
            "lost_ms": _ms(feed.lost_samples),
        }

    async def _tell_state(self) -> None:
        state = self.state
        if (told := (state["state"], state["muted"])) != self._told_state:
            self._told_state = told
            await self._publish("state", state)

    def _deadline_s(self) -> float | None:
        """When to look at the clock again, should nothing come."""
        if self._talk and self._talk.asking:
            return self._talk.heard_s + self._limits.patience_s
        if self._talk and self._talk.calls:
            return self._talk.calls.deadline_s
        if self._talk and self._lines and (self._talk.awaiting or self._talk.response):
            return self._talk.heard_s + self._limits.patience_s
        if self._connection and not self._lines and not (self._talk and self._talk.timers):
            return max(self._active_s, self._feed.last_put_s) + self._limits.idle_s
        return None

    async def _overdue(self) -> None:
        """Close the conversation: nobody says anything, or the server does not answer."""
        talk = self._talk
        if talk and talk.calls and not talk.asking:
            await self._conclude(talk, talk.calls.give_up())
            return
        if talk and talk.awaiting and not talk.asking and self._lines and not talk.response:
            talk.awaiting = False  # what was spoken were no words, and nothing of a reply is left to go on with
            return
        if not self._lines:
            self._feed.clear()  # what nobody has taken by now would be heard out of all context
        if self._connection:
            self._connection.cancel()
        self._connection, self._epoch = None, self._epoch + 1
        if self._lines.asked:
            await self._lost(ClientError(f"no answer within {self._limits.patience_s:g} s"))
        self._talk, self._unreachable = None, False

    async def _handle(self, message: Line | Offer | Result | _AudioWaits | _Muted | _Report) -> None:
        match message:
            case Line():
                await self._accept(message)
            case Offer():
                self._offer = message
                if self._talk:
                    await self._talk.send(message.event)
            case Result() if self._talk:
                await self._conclude(self._talk, self._talk.calls.end(message))
            case _Muted():
                self._memory.mute(self._muted)
                if self._muted:
                    await self._forget_speech()
            case _Report(epoch, news) if epoch == self._epoch:
                if isinstance(news, Conversation):
                    calls = Calls(self._limits.call_s, self._clock)
                    self._talk, self._unreachable = _Talk(news, calls, self._clock()), False
                    if self._offer:
                        await self._talk.send(self._offer.event)
                elif isinstance(news, ClientError):
                    await self._lost(news)
                elif self._talk:
                    self._active_s = self._talk.heard_s = self._clock()
                    await self._hear_server(self._talk, news)

    async def _accept(self, line: Line) -> None:
        self._active_s = self._clock()
        try:
            if self._lines.accept(line):
                self._memory.accept(line)
        except ProtocolError as error:
            await self._complain(error.code, error.message, line.id)
        if (reply := self._lines.reply(line.id)) is not None:
            await self._publish("reply", reply)

    async def _conclude(self, talk: _Talk, events: list[Event]) -> None:
        """Tell the server what came of calls; when that was all of them, it answers."""
        for event in events:
            await talk.send(event)
            talk.awaiting |= event["type"] == "response.create"

    async def _forget_speech(self) -> None:
        self._feed.clear()
        if talk := self._talk:
            await talk.send({"type": "input_audio_buffer.clear"})
            talk.speaking = False

    async def _ask_next(self) -> None:
        talk = self._talk
        if talk and self._lines and not talk.speaking and not talk.thinking:
            line = self._lines.ask()
            talk.heard_s = self._clock()
            if line.verbatim and not (SAY in talk.conversation.extensions and talk.conversation.spoken):
                await self._fail("the server has no voice for a given text")
            else:
                await talk.ask(line)

    async def _lost(self, why: ClientError) -> None:
        """Tell it once; a line without an answer is asked anew, but not for ever."""
        self._talk = None
        if not self._unreachable:
            await self._complain("server_unreachable", str(why))
        self._unreachable = True
        if self._lines.asked and self._lines.hopeless:
            await self._fail(f"no answer in {MAX_ATTEMPTS} attempts: {why}")

    async def _hear_server(self, talk: _Talk, event: Event) -> None:
        """Take in one event; those that do not concern a device pass by."""
        kind: str = event["type"]
        if kind == "input_audio_buffer.speech_started":
            talk.speaking = True
        elif kind == "input_audio_buffer.committed":
            talk.speaking, talk.awaiting = False, True
        elif kind == "wavllm.speaker" and not event.get("provisional"):  # of a turn that is over
            values = {name: event.get(name) for name in ("speaker", "number", "similarity")}
            await self._publish("speaker", {"id": event["item_id"], **values})
        elif kind == TRANSCRIPTION + "completed":
            values = {"text": event["transcript"], "speaker": event.get("speaker")}
            await self._publish("transcript", {"id": event["item_id"], **values})
        elif kind == TRANSCRIPTION + "failed":
            await self._complain("transcription_failed", event["error"]["message"], event["item_id"])
        elif kind == "wavllm.timer":
            (talk.timers.add if event["status"] == "set" else talk.timers.discard)(event["name"])
            await self._publish("timer", {name: event[name] for name in ("name", "status", "left_s")})
        elif kind == "response.created":
            line_id = (event["response"].get("metadata") or {}).get("line")
            talk.response = _Response(event["response"]["id"], line_id)
            talk.awaiting = talk.awaiting and line_id is not None
        elif kind == "response.content_part.added" and talk.response and talk.response.text:
            talk.response.text += " "  # one more message of the same response
        elif kind in ("response.output_text.delta", "response.output_audio_transcript.delta") and talk.response:
            talk.response.text += event["delta"]
        elif kind == "response.output_audio.delta" and talk.response and self._voice:
            await self._voice(talk.response.key, base64.b64decode(event["delta"]))
        elif kind == "response.done" and talk.response:
            await self._responded(talk, talk.response, event)
        elif kind == "error":
            await self._refused(talk, event["error"])

    async def _responded(self, talk: _Talk, response: _Response, done: Event) -> None:
        talk.response, asked = None, self._lines.asked
        details = (done["response"].get("status_details") or {}).get("error") or {}
        reply = _reply(response.key, done["response"]["status"], response.text, details.get("message"))
        if response.line_id is None:
            await self._publish("reply", reply)
        elif asked and asked.id == response.line_id:
            talk.asking = False
            await self._settle(reply)
        if figures := done.get("wavllm_latency"):
            await self._publish("latency", {"id": reply["id"], **figures})
        for call in talk.calls.begin(done["response"]):
            await self._publish("call", call)
        if talk.ask_again and asked:
            await talk.ask_for_reply(asked)

    async def _refused(self, talk: _Talk, error: dict[str, Any]) -> None:
        """The server complains: about the line that is asked, or about something else."""
        asked = self._lines.asked
        if error.get("event_id") == REPLY_TO_CALLS:  # somebody spoke meanwhile, and is answered
            talk.awaiting = False
        elif asked is None or error.get("event_id") != asked.id:
            await self._complain(error.get("code") or "server_error", error["message"])
        elif error.get("code") == ALREADY_ANSWERING:
            talk.ask_again = True
        else:
            talk.asking = False
            await self._fail(error["message"])

    async def _fail(self, why: str) -> None:
        if self._lines.asked:
            await self._settle(_reply(self._lines.asked.id, "failed", "", why))

    async def _settle(self, reply: Values) -> None:
        self._lines.answer(reply)
        await self._memory.answer(reply)  # before anybody is told
        await self._publish("reply", reply)

    async def _complain(self, code: str, message: str, about: str | None = None) -> None:
        await self._publish("error", {"id": about, **error_values(ProtocolError(code, message))})

    async def _stay_connected(self, epoch: int) -> None:
        """Hold a conversation, and another when it is lost, until cancelled; report what happens."""

        async def report(news: Conversation | Event | ClientError) -> None:
            await self._mailbox.put(_Report(epoch, news))

        pauses_s = self._limits.backoff.pauses_s()
        while True:
            problem = ClientError("the server ended the conversation")
            try:
                async with (
                    connect(self._url, spoken=self._voice is not None) as conversation,
                    asyncio.TaskGroup() as tasks,
                ):
                    pauses_s = self._limits.backoff.pauses_s()
                    await report(conversation)
                    tasks.create_task(self._feed.pump(conversation.send_pcm), name="send audio")
                    async for event in conversation:
                        await report(event)
                    raise problem
            except* ClientError as errors:
                problem = first(errors)
            await report(problem)
            await asyncio.sleep(next(pauses_s))


def _reply(reply_id: str, status: str, text: str, error: str | None = None) -> Values:
    return {"id": reply_id, "text": text, "status": status, "error": error}


def _ms(samples: int) -> int:
    return 1000 * samples // SAMPLE_RATE
