"""What one client's microphone sends, on its way into the model.

Owns the utterance under way: its audio goes to the engine as it arrives, whether the server finds the turns
or the client commits them. Decides nothing about replies, and sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from agent.hearing.audio import Decoder, check_samples
from agent.hearing.listener import Listener, Speech, to_waveform
from agent.hearing.turn_end import PATIENCE
from agent.hearing.turns import SpeechStarted, SpeechStopped, TurnEvent, TurnRules
from agent.hearing.vad import SAMPLE_RATE, Vad
from agent.protocol.errors import ProtocolError
from agent.protocol.server_events import new_id
from agent.protocol.settings import SessionSettings
from agent.protocol.turn_detection import TurnDetection
from wavllm_core.engine.api import Context, Utterance

MIN_TURN_MS: Final = 100


@dataclass(frozen=True, slots=True)
class EarLimits:
    """What the operator decides about listening."""

    max_utterance_ms: int  # a turn that the server found is ended then
    max_manual_ms: int  # audio beyond is refused where the client commits
    make_vad: Callable[[float], Vad]  # from a threshold, 0 to 1


@dataclass(frozen=True, slots=True)
class IdleTimeout:
    """Nobody has said anything for as long as the client is ready to wait."""

    start_sample: int
    end_sample: int


@dataclass(slots=True, eq=False)
class OpenUtterance:
    """Something that is being said, or was."""

    utterance: Utterance
    item_id: str
    samples: int = 0  # at 16 kHz
    overflowed: bool = False  # the client was told
    heard_ahead: bool = False  # somebody waits for what was said so far
    labelled: bool = False  # it was told who seems to be speaking, or is going to be
    start_sample: int | None = None  # in the audio of the session, where a turn was found
    voiced_samples: int = 0  # of it, at its last pause
    read: tuple[int, str] | None = None  # how much of it was written down ahead, in samples, and what
    unsure: bool = False  # that those were words
    pcm: list[bytes] = field(default_factory=list)  # the same audio, to be given back

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def push(self, pcm: bytes) -> None:
        """Add 16 kHz audio."""
        if pcm:
            self.samples += len(pcm) // 2
            self.pcm.append(pcm)
            self.utterance.push(to_waveform(pcm))


class Ear:
    """One stream of audio; its clock runs on through every commit, clear and change of settings."""

    def __init__(
        self,
        context: Context,
        limits: EarLimits,
        settings: SessionSettings,
        new_id: Callable[[str], str] = new_id,
    ) -> None:
        self._context, self._limits, self._new_id = context, limits, new_id
        self._position = 0  # samples at 16 kHz since the session began
        self._open: OpenUtterance | None = None
        self._idle_since_sample: int | None = None  # None: silence is as good as speech
        self.settings = settings  # of the session; `configure` takes over others
        self._decoder = Decoder(settings.input_format)
        self._listener = self._new_listener(settings.turn_detection)

    @property
    def opened(self) -> OpenUtterance | None:
        """What is being said."""
        return self._open

    @property
    def holds_audio(self) -> bool:
        return self._open is not None

    def expect_speech(self, after_samples: int) -> None:
        """From so much later on, silence is noticed; any speech puts an end to that."""
        self._idle_since_sample = self._position + after_samples

    def wait(self, silence_ms: int) -> SpeechStopped | None:
        """Let the pause under way end the turn after so much; returns the end when it is over already."""
        return self._listener.wait(to_samples(silence_ms)) if self._listener else None

    def configure(self, settings: SessionSettings) -> None:
        """Take over new settings; audio under way is dropped where format or mode change."""
        before, self.settings = self.settings, settings
        old, new = before.turn_detection, settings.turn_detection
        if before.input_format != settings.input_format or (old is None) != (new is None):
            self.clear()
            self._decoder = Decoder(settings.input_format)
            self._listener = self._new_listener(new)
        elif self._listener and old and new:
            if new.threshold != old.threshold:
                self._listener.vad = self._limits.make_vad(new.threshold)
            self._listener.rules = self._rules(new, self._listener.vad)

    def hear(self, audio: bytes) -> Iterator[TurnEvent | IdleTimeout]:
        """Take in audio in the format of the session; after SpeechStopped comes `take` before all else.

        Raises ProtocolError, once, when the client appends more than a turn that it commits may have.
        """
        pcm = self._decoder.push(audio)
        self._position += len(pcm) // 2
        if self._listener is None:
            self._keep(pcm)
            return
        for happened in self._listener.feed(pcm):
            if isinstance(happened, Speech):
                self._opened().push(happened.pcm)
            else:
                if isinstance(happened, SpeechStarted):
                    self._idle_since_sample = None
                yield happened
        if timeout := self._find_timeout():
            yield timeout

    def begin(self, start_sample: int) -> None:
        """Note where the turn began that `hear` has found."""
        self._opened().start_sample = start_sample

    def take(self) -> OpenUtterance:
        """Hand over the utterance that is complete; whoever takes it finishes or cancels it."""
        taken, self._open = self._opened(), None
        return taken

    def take_committed(self) -> OpenUtterance:
        """End the turn here because the client says so. Raises ProtocolError when there is none."""
        if self._listener is None and self._open:
            rest = self._decoder.flush()
            self._position += len(rest) // 2
            room = to_samples(self._limits.max_manual_ms) - self._open.samples
            self._open.push(rest[: 2 * max(0, room)])
        held_ms = to_ms(self._open.samples) if self._open else 0
        if held_ms < MIN_TURN_MS:
            message = f"the buffer holds {held_ms} ms of audio; at least {MIN_TURN_MS} ms make a turn"
            raise ProtocolError("input_audio_buffer_commit_empty", message)
        if self._listener:
            self._listener.reset()
        return self.take()

    def take_whole(self, audio: bytes, param: str) -> OpenUtterance:
        """An utterance that came in one piece. Raises ProtocolError on its length, or half a sample."""
        check_samples(self.settings.input_format, audio, param)
        decoder = Decoder(self.settings.input_format)
        pcm = decoder.push(audio) + decoder.flush()
        lasts_ms, most_ms = to_ms(len(pcm) // 2), self._limits.max_manual_ms
        if not MIN_TURN_MS <= lasts_ms <= most_ms:
            message = f"{param} lasts {lasts_ms} ms; a turn lasts {MIN_TURN_MS} to {most_ms} ms"
            raise ProtocolError("invalid_value", message, param=param)
        whole = OpenUtterance(self._context.open_utterance(), self._new_id("item"))
        whole.push(pcm)
        return whole

    def cut(self, said: OpenUtterance, places: Sequence[int]) -> Iterator[OpenUtterance]:
        """The same audio as several utterances, each beginning at one of `places`, in samples; it keeps its name.

        Each is opened when it is asked for: encoders have room for few utterances, and one that waits would hold it.
        """
        pcm, bounds = b"".join(said.pcm), [0, *places, said.samples]
        for number, (start, end) in enumerate(pairwise(bounds)):
            item_id = self._new_id("item") if number else said.item_id
            at = None if said.start_sample is None else said.start_sample + start
            piece = OpenUtterance(self._context.open_utterance(), item_id, start_sample=at)
            piece.push(pcm[2 * start : 2 * end])
            yield piece

    def clear(self) -> None:
        """Forget all audio so far."""
        if self._open:
            self._open.utterance.cancel()
            self._open = None
        if self._listener:
            self._listener.reset()
        self._decoder.flush()

    def _find_timeout(self) -> IdleTimeout | None:
        detection, since = self.settings.turn_detection, self._idle_since_sample
        if since is None or not detection or detection.idle_timeout_ms is None or self._open:
            return None
        if self._position - since < to_samples(detection.idle_timeout_ms):
            return None
        self._idle_since_sample = None
        return IdleTimeout(since, self._position)

    def _keep(self, pcm: bytes) -> None:
        opened, most_ms = self._opened(), self._limits.max_manual_ms
        if opened.overflowed:
            return
        if opened.samples + len(pcm) // 2 > to_samples(most_ms):
            opened.overflowed = True
            message = f"the buffer holds at most {most_ms} ms; audio is dropped until it is committed or cleared"
            raise ProtocolError("input_audio_buffer_full", message, param="audio")
        opened.push(pcm)

    def _opened(self) -> OpenUtterance:
        if self._open is None:
            self._open = OpenUtterance(self._context.open_utterance(), self._new_id("item"))
        return self._open

    def _new_listener(self, detection: TurnDetection | None) -> Listener | None:
        if detection is None:
            return None
        vad = self._limits.make_vad(detection.threshold)
        return Listener(vad, self._rules(detection, vad), self._position)

    def _rules(self, detection: TurnDetection, vad: Vad) -> TurnRules:
        return TurnRules(
            prefix_samples=to_samples(detection.prefix_padding_ms) + vad.lag_samples,
            silence_samples=to_samples(_silence_ms(detection)),
            max_samples=to_samples(self._limits.max_utterance_ms),
            lasting_samples=to_samples(self.settings.interruption.hold_ms),
        )


def _silence_ms(detection: TurnDetection) -> int:
    """That ends a turn in any case."""
    return PATIENCE[detection.eagerness].most_ms if detection.eagerness else detection.silence_duration_ms


def to_samples(ms: int) -> int:
    """At 16 kHz."""
    return ms * SAMPLE_RATE // 1000


def to_ms(samples: int) -> int:
    """Of samples at 16 kHz, rounded down."""
    return samples * 1000 // SAMPLE_RATE
