"""A Rhasspy site: turns the sessions of Hermes into turns of a device's conversation, as an actor with one mailbox.

A session listens until somebody has spoken, plays the reply, and ends; a reply that asks goes on listening. Knows no
broker: it is given a way to publish, and the conversation of the site's device.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from agent.protocol.errors import ProtocolError
from agent.protocol.server_events import new_id
from clients.mqtt.hermes import ROOT, Command, audio_topic, captured, write_wav
from clients.mqtt.player import RATE_HZ, Player
from clients.mqtt.topics import AudioChunk, Line, Values, encode
from clients.realtime import SAMPLE_RATE

MAILBOX_MESSAGES: Final = 64  # overflow: commands are refused, what the conversation tells waits
MAX_QUEUED: Final = 8  # sessions; more are refused
PAUSE: Final = b""

State = Literal["listening", "closing", "thinking", "playing"]  # closing: no more audio is taken


class Conversation(Protocol):
    """What a site needs of its device's `Bridge`."""

    def hear(self, chunk: AudioChunk) -> None:
        """Take in audio."""

    def say(self, line: Line) -> None:
        """Take in a line. Raises ProtocolError when there are too many."""


@dataclass(frozen=True, slots=True)
class SiteLimits:
    """How long a session waits."""

    listen_s: float = 15.0  # for somebody to have spoken
    close_s: float = 2.0  # for what was said before somebody said that this was all
    think_s: float = 60.0  # for a reply, and for it to be played


@dataclass(slots=True)
class _Session:
    """Of one site there is one at most."""

    id: str
    dialogue: bool  # ours; otherwise somebody wants to know what is said, and nothing else
    wakeword_id: str | None = None
    custom_data: str | None = None
    state: State = "thinking"
    began_sample: int = 0  # of the site's stream, when it began to listen
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Capture:
    """What was said, and is not written down yet."""

    session_id: str | None
    wakeword_id: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class _Saying:
    """Something that is said, and what happens afterwards."""

    then: Literal["listen", "end", "tell", "go on"]
    say_id: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """The conversation said something."""

    channel: str
    values: Values


@dataclass(frozen=True, slots=True)
class _Sound:
    """More of a spoken reply."""

    reply_id: str
    pcm: bytes


@dataclass(frozen=True, slots=True)
class _Played:
    """A reply was heard to its end."""

    reply_id: str


class Site:
    """The dialogue manager, speech recogniser and voice of one site."""

    def __init__(
        self,
        name: str,
        conversation: Conversation,
        publish: Callable[[str, bytes], Awaitable[None]],
        clock: Callable[[], float],
        limits: SiteLimits | None = None,
    ) -> None:
        self.name = name
        self._conversation, self._publish_bytes, self._clock = conversation, publish, clock
        self._limits = limits or SiteLimits()
        self._mailbox: asyncio.Queue[Command | _Told | _Sound | _Played] = asyncio.Queue(MAILBOX_MESSAGES)
        self._player = Player(self._play, self._was_played)
        self._session: _Session | None = None
        self._queue: deque[Command] = deque()  # sessions that wait; overflow: refused
        self._captures: deque[_Capture] = deque(maxlen=MAX_QUEUED)
        self._sayings: dict[str, _Saying] = {}  # by the id of the line; bounded by the lines that may wait
        self._rings = 0  # timers that are over, and of which the server is going to speak unasked
        self._samples = 0  # of the site's stream
        self._own_ids: deque[str] = deque(maxlen=MAX_QUEUED)  # of our sessions: what we publish comes back to us

    def frame(self, pcm: bytes) -> None:
        """Take in audio; outside a session that listens nobody hears it."""
        if self._session and self._session.state == "listening":
            self._hear(pcm)

    def command(self, command: Command) -> None:
        """Take in what somebody asks for. Raises ProtocolError when there is too much."""
        if self._mailbox.full():
            raise ProtocolError("too_many_commands", f"{command.kind} is refused: too many messages wait")
        self._mailbox.put_nowait(command)

    def finished(self, request_id: str | None) -> None:
        """The site has played something."""
        self._player.finished(request_id)

    async def voice(self, reply_id: str, pcm: bytes) -> None:
        """Take in how a reply sounds."""
        await self._mailbox.put(_Sound(reply_id, pcm))

    async def told(self, channel: str, values: Values) -> None:
        """Take in what the conversation tells its device."""
        await self._mailbox.put(_Told(channel, values))

    async def run(self) -> None:
        """Serve until cancelled; no task outlives this call."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._player.run(), name=f"play at {self.name}")
            while True:
                deadline_s = self._session.deadline_s if self._session else None
                try:
                    async with asyncio.timeout_at(deadline_s):
                        message = await self._mailbox.get()
                except TimeoutError:
                    await self._overdue()
                    continue
                match message:
                    case Command():
                        await self._obey(message)
                    case _Told(channel, values):
                        await self._take(channel, values)
                    case _Sound(reply_id, pcm) if self._admit(reply_id):
                        self._player.put(reply_id, pcm)
                    case _Played(reply_id):
                        await self._go_on(reply_id)

    def _admit(self, reply_id: str) -> bool:
        """Whether a reply is to be heard: it was asked for, or tells of a timer, and is known from now on."""
        session = self._session
        if reply_id in self._sayings or (session and session.dialogue and session.state == "thinking"):
            return True
        if self._rings:
            self._rings -= 1
            self._sayings[reply_id] = _Saying("go on")
        return reply_id in self._sayings

    async def _obey(self, command: Command) -> None:
        session = self._session
        match command.kind:
            case "detected":  # whoever calls is heard at once, whatever goes on
                waiting, self._queue = self._queue, deque()  # those wait for this one, too
                await self._end("abortedByUser")
                self._queue = waiting
                for reply_id in self._player.drop():
                    await self._go_on(reply_id)
                await self._start(command)
            case "startSession" if session is None:
                await self._start(command)
            case "startSession":
                await self._enqueue(command)
            case "endSession" if session and session.id == command.session_id:
                if command.text:
                    await self._say(command.text, _Saying("end"))
                else:
                    await self._end("nominal")
            case "continueSession" if session and session.id == command.session_id:
                await self._say_or_listen(command.text)
            case "startListening" if session is None and command.session_id not in self._own_ids:
                self._session = _Session(command.session_id or new_id("asr"), False, command.wakeword_id)
                await self._listen()
            case "stopListening" if session and not session.dialogue and session.state == "listening":
                self._hear(PAUSE)  # which ends the turn, if there is one
                await self._enter("closing", self._limits.close_s)
            case "say":
                await self._say(command.text or "", _Saying("tell", command.say_id, command.session_id))

    async def _enqueue(self, command: Command) -> None:
        if not command.can_wait or len(self._queue) >= MAX_QUEUED:
            await self._fail(
                "dialogueManager", "a session is under way, and this one may not wait", command.custom_data
            )
            return
        self._queue.append(command)
        await self._publish("dialogueManager/sessionQueued", {"siteId": self.name, "customData": command.custom_data})

    async def _start(self, command: Command) -> None:
        self._session = session = _Session(new_id("session"), True, command.wakeword_id, command.custom_data)
        self._rings = 0  # one reply may have told of several
        self._own_ids.append(session.id)
        await self._publish("hotword/toggleOff", {"siteId": self.name, "reason": "dialogueSession"})
        await self._publish("dialogueManager/sessionStarted", self._about(session))
        if command.notify:
            await self._say(command.text or "", _Saying("end"))
        else:
            await self._say_or_listen(command.text)

    async def _say_or_listen(self, text: str | None) -> None:
        if text:
            await self._say(text, _Saying("listen"))
        else:
            await self._listen()

    async def _say(self, text: str, saying: _Saying) -> None:
        line = Line(new_id("say"), text, verbatim=True)
        self._sayings[line.id] = saying
        if saying.then != "tell":
            await self._enter("playing", self._limits.think_s)
        try:
            self._conversation.say(line)
        except ProtocolError as error:
            await self._go_on_without(line.id, error.message)

    async def _listen(self) -> None:
        session = self._session
        assert session
        session.began_sample = self._samples
        await self._enter("listening", self._limits.listen_s)
        if session.dialogue:  # otherwise whoever wants to know has told
            about = {"siteId": self.name, "sessionId": session.id, "stopOnSilence": True}
            await self._publish("asr/startListening", {**about, "wakewordId": session.wakeword_id})

    async def _take(self, channel: str, values: Values) -> None:
        """What the conversation tells: that a turn is over, what was said, and what the answer is."""
        session = self._session
        if channel == "state" and values["state"] in ("idle", "unavailable"):
            self._captures.clear()  # the conversation is over, and writes nothing down any more
        elif (
            channel == "state"
            and values["state"] == "thinking"
            and session
            and session.state in ("listening", "closing")
        ):
            await self._stop_listening(session)
        elif channel == "transcript" and self._captures:
            capture = self._captures.popleft()
            about = {"siteId": self.name, "sessionId": capture.session_id, "wakewordId": capture.wakeword_id}
            await self._publish("asr/textCaptured", captured(values["text"], capture.seconds, about))
        elif channel == "error" and values["code"] == "transcription_failed" and self._captures:
            self._captures.popleft()
            await self._fail("asr", values["message"])
        elif channel == "timer" and values["status"] == "over":
            self._rings += 1
        elif channel == "reply":
            await self._reply(values)

    async def _stop_listening(self, session: _Session) -> None:
        seconds = (self._samples - session.began_sample) / SAMPLE_RATE
        self._captures.append(_Capture(session.id, session.wakeword_id, seconds))
        if session.dialogue:
            await self._enter("thinking", self._limits.think_s)
        else:
            await self._leave()

    async def _reply(self, values: Values) -> None:
        session, reply_id = self._session, values["id"]
        self._player.end(reply_id)  # whatever became of it: what is said next waits for that
        if reply_id in self._sayings:
            if values["status"] == "failed":
                await self._go_on_without(reply_id, values["error"] or "it cannot be said")
        elif session and session.dialogue and session.state == "thinking":
            if values["status"] != "completed":
                await self._end("error", values["error"] or values["status"])
                return
            await self._enter("playing", self._limits.think_s)
            self._sayings[reply_id] = _Saying("listen" if values["text"].rstrip().endswith("?") else "end")

    async def _go_on_without(self, line_id: str, why: str) -> None:
        await self._fail("tts", why)
        await self._go_on(line_id)

    async def _go_on(self, reply_id: str) -> None:
        """Something was said; do what was to follow."""
        saying = self._sayings.pop(reply_id, None)
        if saying is None:
            return
        if saying.then == "tell":
            about = {"id": saying.say_id, "siteId": self.name, "sessionId": saying.session_id}
            await self._publish("tts/sayFinished", about)
        elif saying.then != "go on" and self._session and self._session.state == "playing":
            await (self._listen() if saying.then == "listen" else self._end("nominal"))

    async def _overdue(self) -> None:
        session = self._session
        assert session
        if not session.dialogue:
            about = {"siteId": self.name, "sessionId": session.id, "wakewordId": session.wakeword_id}
            seconds = (self._samples - session.began_sample) / SAMPLE_RATE
            await self._publish("asr/textCaptured", captured("", seconds, about))
            await self._leave()
        else:
            await self._end("timeout")

    async def _end(self, reason: str, error: str | None = None) -> None:
        """End the session, if there is one, and turn to the one that waits."""
        session = self._session
        if session is None:
            return
        if session.dialogue:
            await self._enter("thinking", 0)
            termination = {"reason": reason, **({"error": error} if error else {})}
            await self._publish("dialogueManager/sessionEnded", {**self._about(session), "termination": termination})
            await self._publish("hotword/toggleOn", {"siteId": self.name, "reason": "dialogueSession"})
        await self._leave()

    async def _leave(self) -> None:
        self._session = None
        kept = ("tell", "go on")
        self._sayings = {line_id: saying for line_id, saying in self._sayings.items() if saying.then in kept}
        if self._queue:
            await self._start(self._queue.popleft())

    async def _enter(self, state: State, patience_s: float) -> None:
        """Go into a state, for so long; a satellite of ours is told to stop streaming when it was to stream."""
        session = self._session
        assert session
        before, session.state, session.deadline_s = session.state, state, self._clock() + patience_s
        if session.dialogue and before == "listening" != state:
            await self._publish("asr/stopListening", {"siteId": self.name, "sessionId": session.id})

    def _hear(self, pcm: bytes) -> None:
        self._conversation.hear(AudioChunk(self._samples, pcm))
        self._samples += len(pcm) // 2

    def _about(self, session: _Session) -> dict[str, Any]:
        return {"sessionId": session.id, "siteId": self.name, "customData": session.custom_data}

    async def _fail(self, component: str, why: str, context: str | None = None) -> None:
        session_id = self._session.id if self._session else None
        about = {"error": why, "context": context, "siteId": self.name, "sessionId": session_id}
        await self._publish(f"error/{component}", about)

    async def _publish(self, name: str, values: dict[str, Any]) -> None:
        await self._publish_bytes(f"{ROOT}/{name}", encode(values))

    async def _play(self, request_id: str, pcm: bytes) -> None:
        await self._publish_bytes(audio_topic(self.name, "playBytes", request_id), write_wav(pcm, RATE_HZ))

    async def _was_played(self, reply_id: str) -> None:
        await self._mailbox.put(_Played(reply_id))
