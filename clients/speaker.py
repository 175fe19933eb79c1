"""`wavllm speaker`, or `wavllm talk`: a smart speaker, by microphone and loudspeaker of this machine.

Puts the parts together: the devices, what they may hear, when the assistant is meant, and a conversation that is
opened anew when it is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Literal

from rich.console import Console
from rich.text import Text

from clients.display import follow
from clients.echo import EchoCanceller, load_livekit
from clients.playback import play_replies
from clients.push_to_talk import PushToTalk
from clients.realtime import DEFAULT_URL, ClientError, Conversation, Event, Waveform, connect
from clients.retry import Backoff, first
from clients.sound import BLOCK_MS, Microphone, Sound, keep_open
from clients.turns import TurnLog
from clients.wake import WINDOW_S, Attention

TICK_S: Final = 0.1
MAX_TURNS: Final = 50  # remembered; a speaker may run for years

Duplex = Literal["half", "full", "cancel"]


@dataclass(frozen=True, slots=True)
class SpeakerOptions:
    """What its owner decides.

    duplex: "half": deaf while a reply sounds; "full": never deaf, for headphones; "cancel": never deaf, and the
        reply is taken out of what is heard
    """

    device: str | None = None
    output_device: str | None = None
    duplex: Duplex = "half"
    wake_phrases: tuple[str, ...] = ()  # none: all that is said is meant
    window_s: float = WINDOW_S  # after a reply, without a wake phrase
    backoff: Backoff = field(default_factory=Backoff)


async def talk(
    console: Console,
    url: str = DEFAULT_URL,
    options: SpeakerOptions | None = None,
    keys: AsyncIterator[object] | None = None,
) -> None:
    """Be a smart speaker until cancelled.

    keys: one for every time that the key is pressed, which begins or ends what is said; None: always listening
    Raises ClientError when there is no microphone, or no server at the beginning.
    """
    options = options or SpeakerOptions()
    sound = await asyncio.to_thread(Sound, options.device, options.output_device)
    speaker = SmartSpeaker(console, url, options, sound, PushToTalk() if keys else None)

    def notice(text: str) -> None:
        console.print(text, style="yellow")

    try:
        async with asyncio.TaskGroup() as tasks:
            opened = asyncio.Event()
            tasks.create_task(keep_open(sound, notice, options.backoff, opened.set), name="hold the devices")
            if keys:
                tasks.create_task(_mark(sound.microphone, keys), name="watch the key")
            await opened.wait()  # what the microphone is called, and how late sound is, is known then
            await speaker.run()
    except ExceptionGroup as group:
        raise first(group) from group


async def _mark(microphone: Microphone, keys: AsyncIterator[object]) -> None:
    async for _ in keys:
        microphone.mark()


class SmartSpeaker:
    """What is heard goes to the server, when it is meant; what comes back is played and shown."""

    def __init__(
        self, console: Console, url: str, options: SpeakerOptions, sound: Sound, key: PushToTalk | None = None
    ) -> None:
        """Raises ClientError when echo cancellation is wanted, and not installed; for wake phrases without a letter."""
        self._console, self._url, self._options, self._sound, self._key = console, url, options, sound, key
        clock = asyncio.get_running_loop().time
        phrases = options.wake_phrases if key is None else ()
        try:
            self._attention = Attention(phrases, clock, options.window_s) if phrases else None
        except ValueError as error:
            raise ClientError(f"--wake {' '.join(map(repr, phrases))}: {error}") from error
        self._echo: EchoCanceller | None = None
        playback = sound.playback
        if playback and options.duplex == "half":
            sound.microphone.is_deaf = lambda: playback.sounding and not (key and key.held)
        if options.duplex == "cancel":
            load_livekit()

    async def run(self) -> None:
        """Talk until cancelled, in one conversation after another."""
        pauses_s, begun = self._options.backoff.pauses_s(), False
        while True:
            try:
                async with connect(self._url, spoken=self._sound.playback is not None) as conversation:
                    self._greet(conversation, again=begun)
                    pauses_s, begun = self._options.backoff.pauses_s(), True
                    await self._converse(conversation)
            except ClientError as problem:
                if not begun:
                    raise
                self._console.print(f"{problem}; trying on", style="yellow")
            finally:
                if self._sound.playback:
                    self._sound.playback.drop()
            await asyncio.sleep(next(pauses_s))

    async def _converse(self, conversation: Conversation) -> None:
        playback = self._sound.playback
        events: AsyncIterable[Event] = conversation
        if playback:
            events = play_replies(conversation, playback)
        if self._attention:
            await conversation.send(self._attention.begin())
            events = self._attended(conversation, events, self._attention)
        if self._key:
            await conversation.send(self._key.begin())
            events = self._key.noted(events)
        if playback and self._options.duplex == "cancel" and self._echo is None:
            self._echo = EchoCanceller(playback.sample_rate, playback.latency_s + self._sound.input_latency_s)
            self._sound.playing = self._echo.played
        status = self._status if self._console.is_terminal else None
        async with follow(events, self._console, status, MAX_TURNS):
            await self._listen(conversation)

    async def _listen(self, conversation: Conversation) -> None:
        microphone, playback = self._sound.microphone, self._sound.playback
        told = microphone.dropped
        while True:
            try:
                async with asyncio.timeout(TICK_S):
                    block = await microphone.hear()
            except TimeoutError:
                pass
            else:
                await self._take(conversation, block)
            if self._attention:
                for event in self._attention.tick(bool(playback and playback.sounding)):
                    await conversation.send(event)
            if microphone.dropped > told:
                lost_ms = (microphone.dropped - told) * BLOCK_MS
                self._console.print(f"{lost_ms} ms of audio were dropped: the server was too slow", style="yellow")
                told = microphone.dropped

    async def _take(self, conversation: Conversation, block: Waveform | None) -> None:
        """A block of the microphone, or the key: both in the order in which they happened."""
        if block is None:
            if self._key:
                await self._key.press(conversation, self._sound.playback)
            return
        heard = self._echo.clean(block) if self._echo else block
        if len(heard) and (self._key is None or self._key.hold(len(heard))):
            await conversation.send_audio(heard)

    async def _attended(
        self, conversation: Conversation, events: AsyncIterable[Event], attention: Attention
    ) -> AsyncIterator[Event]:
        async for event in events:
            for answer in attention.take(event):
                await conversation.send(answer)
            yield event

    def _status(self, log: TurnLog) -> Text:
        """One line about what goes on."""
        playback = self._sound.playback
        if playback and playback.sounding:
            return Text("♪ speaking", "green")
        if self._key:
            return Text("● recording; Enter ends" if self._key.held else "○ Enter to speak", "bold")
        if self._attention and not self._attention.awake:
            return Text(f"○ asleep; say {' or '.join(self._options.wake_phrases)}", "dim")
        return Text("● somebody speaks" if log.speaking else "● listening", "bold")

    def _greet(self, conversation: Conversation, *, again: bool) -> None:
        if again:
            self._console.print("A new conversation; what was said before is forgotten.", style="yellow")
        why = "the server has no voice." if not conversation.spoken else ""
        if why := self._sound.no_loudspeaker or why:
            self._console.print(f"Replies are shown only: {why}")
        if not again:
            self._console.print(f"Listening to {self._sound.microphone.name}. Speak; Ctrl-C ends the conversation.")
