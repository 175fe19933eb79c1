"""When a turn begins and ends: a table over speech flags, counted in samples at 16 kHz.

    state      flag of the frame                                  next        what happened
    Listening  enough of the last frames voiced                   Speaking    SpeechStarted
    Listening  otherwise                                          Listening
    Speaking   voiced, or a pause shorter than the silence        Speaking
    Speaking   voiced for as long as an interruption has to be    Speaking    SpeechLasted
    Speaking   a pause as long as the tail                        Speaking    SpeechPaused
    Speaking   a pause as long as the silence, or the limit hit   Listening   SpeechStopped

The tail is the silence that belongs to a turn. What follows it waits: it is part of the turn when speech goes
on, and of no turn when it does not. So what the model hears at a pause is what it will have heard at the end.

Pure: audio, clocks and what follows from a turn are somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.hearing.vad import FRAME_SAMPLES


@dataclass(frozen=True, slots=True)
class TurnRules:
    """What counts as a turn.

    8 of 10 frames: a cough of 80 ms opens none, though the detector lingers on it; a digit of 300 ms does.
    """

    prefix_samples: int = 4_800  # given to the model from before the first voiced frame
    silence_samples: int = 8_000  # without a voiced frame, end the turn
    tail_frames: int = 5  # of silence after the last voiced frame, belong to the turn
    max_samples: int = 480_000  # of one turn, prefix included; then it is ended by force
    start_window_frames: int = 10
    start_voiced_frames: int = 8  # of the window, begin a turn
    lasting_samples: int = 0  # of voice, then it is told that the turn lasts; 0: never


@dataclass(frozen=True, slots=True)
class Listening:
    """Nobody speaks."""

    now_sample: int  # where the stream has got to
    free_sample: int  # audio before this was given away or cleared
    window: tuple[bool, ...] = ()  # the last flags, oldest first


@dataclass(frozen=True, slots=True)
class Speaking:
    """A turn is under way."""

    now_sample: int
    start_sample: int
    last_voiced_sample: int  # end of the last voiced frame
    voiced_samples: int
    lasts: bool = False  # that was told


TurnState = Listening | Speaking


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """A turn has begun; its audio is everything from `start_sample` on."""

    start_sample: int  # prefix included


@dataclass(frozen=True, slots=True)
class SpeechLasted:
    """The turn is no short remark."""

    end_sample: int


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """If nothing more is said, the turn has been heard to its end."""

    end_sample: int
    voiced_samples: int  # of it


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """A turn is over."""

    end_sample: int  # of the audio that belongs to it
    last_voiced_sample: int
    confirmed_sample: int  # what lies between the last two was spent waiting
    voiced_samples: int  # of the turn


TurnEvent = SpeechStarted | SpeechLasted | SpeechPaused | SpeechStopped


def advance(rules: TurnRules, state: TurnState, *, voiced: bool) -> tuple[TurnState, TurnEvent | None]:
    """Take in the flag of one more frame."""
    now = state.now_sample + FRAME_SAMPLES
    if isinstance(state, Listening):
        window = (*state.window, voiced)[-rules.start_window_frames :]
        if sum(window) < rules.start_voiced_frames:
            return Listening(now, state.free_sample, window), None
        onset = now - (len(window) - window.index(True)) * FRAME_SAMPLES
        start = max(state.free_sample, onset - rules.prefix_samples)
        last_voiced = now - window[::-1].index(True) * FRAME_SAMPLES
        return Speaking(now, start, last_voiced, sum(window) * FRAME_SAMPLES), SpeechStarted(start)
    last_voiced = now if voiced else state.last_voiced_sample
    voiced_samples = state.voiced_samples + FRAME_SAMPLES * voiced
    state = replace(state, now_sample=now, last_voiced_sample=last_voiced, voiced_samples=voiced_samples)
    silent_samples, tail_samples = now - state.last_voiced_sample, rules.tail_frames * FRAME_SAMPLES
    if silent_samples >= rules.silence_samples or now - state.start_sample > rules.max_samples - FRAME_SAMPLES:
        return _stop(rules, state)
    if silent_samples == tail_samples:
        return state, SpeechPaused(now, state.voiced_samples)
    if 0 < rules.lasting_samples <= state.voiced_samples and not state.lasts:
        return replace(state, lasts=True), SpeechLasted(now)
    return state, None


def expire(rules: TurnRules, state: TurnState) -> tuple[TurnState, SpeechStopped | None]:
    """End a turn whose pause has lasted long enough by rules that are newer than its last frame."""
    if isinstance(state, Speaking) and state.now_sample - state.last_voiced_sample >= rules.silence_samples:
        return _stop(rules, state)
    return state, None


def _stop(rules: TurnRules, state: Speaking) -> tuple[TurnState, SpeechStopped]:
    silent_samples = state.now_sample - state.last_voiced_sample
    end = state.last_voiced_sample + min(silent_samples, rules.tail_frames * FRAME_SAMPLES)
    stopped = SpeechStopped(end, state.last_voiced_sample, state.now_sample, state.voiced_samples)
    return Listening(state.now_sample, free_sample=end), stopped
