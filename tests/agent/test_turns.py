from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hearing.turns import (
    FRAME_SAMPLES,
    Listening,
    Speaking,
    SpeechLasted,
    SpeechPaused,
    SpeechStarted,
    SpeechStopped,
    TurnEvent,
    TurnRules,
    advance,
)

FRAMES_PER_S = 50
RULES = TurnRules()


def turns(flags: list[bool], rules: TurnRules = RULES) -> list[TurnEvent]:
    """What happened, pauses left out."""
    return [event for event in events(flags, rules) if not isinstance(event, SpeechPaused)]


def events(flags: list[bool], rules: TurnRules = RULES) -> list[TurnEvent]:
    state: Listening | Speaking = Listening(0, 0)
    happened: list[TurnEvent] = []
    for voiced in flags:
        state, event = advance(rules, state, voiced=voiced)
        happened += [event] if event else []
    return happened


def flags(*runs: tuple[int, bool]) -> list[bool]:
    """From (milliseconds, voiced) pairs."""
    return [voiced for ms, voiced in runs for _ in range(ms // 20)]


def test_a_digit_makes_a_turn_with_its_prefix() -> None:
    said = turns(flags((1000, False), (300, True), (1000, False)))
    assert said == [SpeechStarted(16 * 700), SpeechStopped(16 * 1400, 16 * 1300, 16 * 1800, 16 * 300)]


@pytest.mark.parametrize("blip_ms", [20, 60, 100, 140])
def test_a_blip_makes_none(blip_ms: int) -> None:
    assert turns(flags((500, False), (blip_ms, True), (500, False)) * 5) == []


def test_a_breath_does_not_end_a_turn() -> None:
    said = turns(flags((300, True), (480, False), (20, True), (480, False), (300, True), (500, False)))
    assert said == [SpeechStarted(0), SpeechStopped(16 * 1680, 16 * 1580, 16 * 2080, 16 * 620)]


def test_speech_may_flicker() -> None:
    flicker = [True, True, True, True, False] * 4
    assert turns(flicker + [False] * 25) == [SpeechStarted(0), SpeechStopped(24 * 320, 19 * 320, 44 * 320, 16 * 320)]


def test_endless_speech_is_cut_and_no_sample_is_given_twice() -> None:
    said = turns([True] * FRAMES_PER_S * 61)
    assert said == [
        SpeechStarted(0),
        SpeechStopped(480_000, 480_000, 480_000, 480_000),
        SpeechStarted(480_000),
        SpeechStopped(960_000, 960_000, 960_000, 480_000),
        SpeechStarted(960_000),
    ]


@given(
    flags=st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=40).map(
        lambda runs: [voiced for frames, voiced in runs for _ in range(frames)]
    ),
    rules=st.builds(
        TurnRules,
        prefix_samples=st.integers(0, 32_000),
        silence_samples=st.integers(320, 16_000),
        max_samples=st.integers(80_000, 160_000),
    ),
)
def test_turns_follow_each_other_and_keep_their_limits(flags: list[bool], rules: TurnRules) -> None:
    said = turns(flags, rules)
    assert [type(event) for event in said] == [SpeechStarted, SpeechStopped] * (len(said) // 2) + [SpeechStarted] * (
        len(said) % 2
    )
    clock = 0
    for event in said:
        if isinstance(event, SpeechStarted):
            assert clock <= event.start_sample
            clock = event.start_sample
        else:
            assert clock < event.last_voiced_sample <= event.end_sample
            assert event.confirmed_sample - clock <= rules.max_samples
            tail_samples = rules.tail_frames * FRAME_SAMPLES
            assert event.end_sample == min(event.confirmed_sample, event.last_voiced_sample + tail_samples)
            voiced = flags[clock // FRAME_SAMPLES : event.end_sample // FRAME_SAMPLES]
            assert sum(voiced) >= rules.start_voiced_frames
            clock = event.end_sample


@given(runs=st.lists(st.tuples(st.integers(1, 24), st.integers(1, 24)), min_size=1, max_size=12))
def test_the_last_pause_says_where_the_turn_is_going_to_end(runs: list[tuple[int, int]]) -> None:
    """One pause for each silence that is long enough, in the moment in which the tail is full."""
    voiced = [flag for loud, quiet in runs for flag in [True] * loud + [False] * quiet]
    said = events([*[True] * 10, *voiced, *[False] * 25])
    pauses = [event.end_sample for event in said if isinstance(event, SpeechPaused)]
    stops = [event.end_sample for event in said if isinstance(event, SpeechStopped)]
    assert len(stops) == 1 and pauses[-1:] == stops
    gaps = sum(quiet >= RULES.tail_frames for _, quiet in runs[:-1])
    assert len(pauses) == gaps + 1


@given(
    runs=st.lists(st.tuples(st.integers(1, 24), st.integers(1, 40)), min_size=1, max_size=12),
    lasting_ms=st.sampled_from([0, 100, 160, 300, 600]),
)
def test_a_turn_lasts_once_so_much_of_it_was_voiced(runs: list[tuple[int, int]], lasting_ms: int) -> None:
    voiced = [flag for loud, quiet in runs for flag in [True] * loud + [False] * quiet] + [False] * 25
    lasted, found = False, []
    for event in events(voiced, TurnRules(lasting_samples=16 * lasting_ms)):
        if isinstance(event, SpeechLasted):
            assert not lasted
            lasted = True
            assert sum(voiced[: event.end_sample // FRAME_SAMPLES]) * 20 >= lasting_ms
        elif isinstance(event, SpeechStopped):
            found.append((lasted, event.voiced_samples // 16))
            lasted = False
    assert all(lasted == (0 < lasting_ms <= voiced_ms) for lasted, voiced_ms in found)
