"""Anything in any order, at any moment: whatever is answered is right, and in the end everything is free again."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.test_engine import noise
from tests.core.tiny import tiny_checkpoint
from wavllm_core.checkpoint import Checkpoint
from wavllm_core.engine.api import Exchange, Heard, Sampling
from wavllm_core.engine.core import Core, EngineLimits, rolling
from wavllm_core.engine.speculation import SpeculationLimits
from wavllm_core.engine.talk import Answer, Talk
from wavllm_core.engine.utterances import Hearing
from wavllm_core.errors import CoreError

SAMPLINGS = (Sampling(6), Sampling(6, temperature=1.5, seed=4))
ACTIONS = ("listen", "push", "push", "hear", "speculate", "reply", "reply", "cancel", "unlisten", "prepare", "leave")


@cache
def checkpoint() -> Checkpoint:
    return tiny_checkpoint(Path(mkdtemp()))


def new_core() -> Core:
    """With eight slots, and a clock that goes on by 10 ms whenever it is read."""
    limits = EngineLimits(conversations=12, kv_mib=1, speculation=SpeculationLimits(max_queue_wait_ms=1e9))
    now = iter(range(10**9))
    return Core(rolling(checkpoint()), limits, lambda: next(now) / 100)


@dataclass(eq=False)
class Person:
    """One conversation and what its client knows."""

    core: Core
    talk: Talk = field(default_factory=Talk)
    past: list[Exchange] = field(default_factory=list)
    hearing: Hearing | None = None
    heard: list[Heard | CoreError] = field(default_factory=list)
    asked: list[tuple[list[Exchange], Sampling, list[str | CoreError | None], Answer | None]] = field(
        default_factory=list
    )

    def act(self, action: str, draw: st.DrawFn | st.DataObject) -> None:
        live = self.core
        if action == "listen" and not self.hearing:
            self.hearing = Hearing(lambda hearing: live.talks.hear(self.talk, hearing))
            live.listen(self.talk, self.hearing)
        elif action == "push" and self.hearing:
            live.hearings.push(self.hearing, noise(draw.draw(st.integers(1, 9_000)), len(self.past)))
        elif action == "hear" and self.hearing:
            live.hearings.ask(self.hearing, self.heard.append)
        elif action in ("speculate", "reply"):
            self.question(action, draw.draw(st.sampled_from(SAMPLINGS)))
        elif action == "cancel" and self.asked:
            live.talks.drop(self.talk, self.asked[-1][3])
        elif action == "unlisten" and self.hearing:
            live.unlisten(self.talk, self.hearing)
            self.hearing = None
        elif action == "prepare":
            live.talks.prepare(self.talk, "", list(self.past))
        elif action == "leave":
            self.leave()

    def question(self, action: str, sampling: Sampling) -> None:
        last = self.heard[-1] if self.heard else None
        history = [*self.past, Exchange(heard=last, speaker=1) if isinstance(last, Heard) else Exchange("one")]
        if action == "speculate":
            self.core.talks.speculate(self.talk, "", history, sampling)
            return
        pieces: list[str | CoreError | None] = []
        answer = self.core.talks.ask(self.talk, "reply", "", history, sampling, pieces.append)
        self.asked.append((history, sampling, pieces, answer))
        self.past.append(Exchange(f"said {len(self.past)}", reply="a mocha"))

    def leave(self) -> None:
        self.hearing = None
        self.core.close(self.talk)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_anything_at_any_moment(data: st.DataObject) -> None:
    live = new_core()
    people = [Person(live) for _ in range(data.draw(st.integers(1, 11), label="people"))]
    live.talks.open += [person.talk for person in people]
    for _ in range(data.draw(st.integers(1, 40), label="actions")):
        person = people[data.draw(st.integers(0, len(people) - 1))]
        person.act(data.draw(st.sampled_from(ACTIONS)), data)
        for _ in range(data.draw(st.integers(0, 4))):
            live.advance()
    steps = 0
    while live.advance():
        steps += 1
        assert steps < 2_000, "the worker finds no end"
    for person in people:
        for history, sampling, pieces, answer in person.asked:
            finished = pieces[-1:] == [None]
            if answer and not answer.over:
                assert finished
            if finished:
                expected = "".join(live.language.reply(history, "", sampling))
                assert "".join(str(piece) for piece in pieces[:-1]) == expected
        person.leave()
    figures = live.load()
    assert (figures.idle, figures.conversations, figures.utterances, figures.replies) == (True, 0, 0, 0)
    assert figures.slots_held == figures.positions_filled == live.hearings.encoders.open_streams == 0
