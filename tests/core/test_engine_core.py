"""Who is served first: the engine without its thread, step by step, under a clock that the test holds."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_engine import SHORT, noise
from tests.core.tiny import tiny_checkpoint
from wavllm_core.engine.api import Exchange, Heard, Sampling
from wavllm_core.engine.core import Core, EngineLimits, rolling
from wavllm_core.engine.load import Measure
from wavllm_core.engine.speculation import SpeculationLimits
from wavllm_core.engine.talk import Kind, Piece, Talk
from wavllm_core.engine.talks import MAX_PREFILL
from wavllm_core.engine.utterances import Hearing
from wavllm_core.errors import CoreError

PAST = [Exchange(text=f"order number {i}", reply="three times a mocha") for i in range(9)]


class Bench:
    """A core whose every step takes 10 ms by its clock."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.core = Core(rolling(tiny_checkpoint(folder)), EngineLimits(), lambda: self.now)
        self.read: list[list[int]] = []  # positions of each row, step by step
        step = self.core.language.llama.step
        self.core.language.llama.step = lambda store, rows: (
            self.read.append([len(row.keys) for row in rows]) or step(store, rows)
        )

    def have_slots(self, slots: int) -> None:
        self.core.store = self.core.talks.store = self.core.language.llama.new_store(slots)

    def talk(self) -> Talk:
        talk = Talk()
        self.core.talks.open.append(talk)
        return talk

    def ask(self, talk: Talk, kind: Kind, history: list[Exchange], sampling: Sampling = SHORT) -> list[Piece]:
        pieces: list[Piece] = []
        self.core.talks.ask(talk, kind, "", history, sampling, pieces.append)
        self.read.clear()  # the gate was read
        return pieces

    def listen(self, talk: Talk, samples: int) -> Hearing:
        hearing = Hearing(lambda hearing: self.core.talks.hear(talk, hearing))
        self.core.listen(talk, hearing)
        self.core.hearings.push(hearing, noise(samples))
        return hearing

    def run(self, steps: int) -> int:
        """Do so many steps, fewer when there is no more to do; returns how many."""
        for done in range(steps):
            if not self.core.advance():
                return done
            self.now += 0.01
        return steps


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_reply_passes_a_transcript_and_history_that_wait(bench: Bench) -> None:
    bench.core.talks.prepare(bench.talk(), "", PAST)
    transcript = bench.ask(bench.talk(), "transcript", [*PAST, Exchange(text="one")])
    reply = bench.ask(bench.talk(), "reply", [Exchange(text="one")], Sampling(12, 3.0))
    bench.run(1)
    assert len(bench.read) == 1 and len(bench.read[0]) == 1  # nothing else in its first step
    assert reply and not transcript


def test_nothing_is_read_more_at_a_time_than_a_step_may_take(bench: Bench) -> None:
    bench.ask(bench.talk(), "reply", [*PAST, Exchange(text="one")])
    bench.core.talks.prepare(bench.talk(), "", PAST)
    bench.run(1_000)
    assert max(sum(count for count in rows if count > 1) for rows in bench.read) <= MAX_PREFILL
    assert sum(map(sum, bench.read)) > 2 * MAX_PREFILL


def test_replies_go_on_while_others_are_read(bench: Bench) -> None:
    pieces = bench.ask(bench.talk(), "reply", [Exchange(text="one")], Sampling(100, 3.0))
    bench.run(1)
    for _ in range(3):
        bench.core.talks.prepare(bench.talk(), "", PAST)
    bench.run(9)
    assert pieces[-1] is not None
    assert all(1 in rows for rows in bench.read[1:])  # a token in every step
    assert sum(map(sum, bench.read)) > 3 * MAX_PREFILL  # and history beside it


def test_history_is_read_in_the_end_however_many_replies_there_are(bench: Bench) -> None:
    resting = bench.talk()
    bench.core.talks.prepare(resting, "", PAST)
    for _ in range(200):  # a new reply to be begun at any time
        bench.ask(bench.talk(), "reply", [Exchange(text="one")], Sampling(1))
        bench.run(1)
    assert resting.slot is not None and resting.slot.keys


@pytest.mark.parametrize("people", [2, 3])
def test_no_two_readers_take_each_others_slot_for_ever(bench: Bench, people: int) -> None:
    """More histories than slots are to be read in idle time: each once, and the last one stays."""
    bench.have_slots(1)
    talks = [bench.talk() for _ in range(people)]
    for talk in talks:
        bench.core.talks.prepare(talk, "", PAST)
    assert bench.run(100) < 100
    assert bench.core.meter.evictions == people - 1
    *others, last = talks
    assert not any(talk.slot or talk.wanted for talk in others)
    assert last.slot and last.slot.keys == bench.core.language.planner.plan_listening(PAST, "").keys


def test_an_evicted_history_is_read_again_when_its_speech_begins(bench: Bench) -> None:
    """Before there is any vector, and from whom only reads ahead the slot is taken."""
    bench.have_slots(1)
    core, talk, other = bench.core, bench.talk(), bench.talk()
    core.talks.prepare(talk, "", PAST)
    bench.run(1_000)
    bench.ask(other, "reply", [*PAST, Exchange(text="one")], Sampling(1))
    bench.run(1_000)
    assert talk.slot is None and other.slot is not None
    core.talks.prepare(other, "", PAST[::-1])
    bench.run(1)
    assert other.wanted
    hearing = bench.listen(talk, 5)  # less than a block
    core.talks.prepare(talk, "", PAST)
    bench.run(1)
    assert talk.slot is not None and other.slot is None and other.wanted  # nobody waits for that one
    bench.run(1_000)
    assert other.slot is None and not hearing.names
    assert talk.slot is not None and talk.slot.keys == core.language.planner.plan_listening(PAST, "").keys


def test_live_audio_comes_before_text_that_can_wait_and_after_text_that_cannot(bench: Bench) -> None:
    core, talk = bench.core, bench.talk()
    core.talks.prepare(bench.talk(), "", PAST)
    hearing = bench.listen(talk, core.hearings.config.block_samples)
    reply = bench.ask(bench.talk(), "reply", [Exchange(text="one")], Sampling(12, 3.0))
    bench.run(1)
    assert reply and not hearing.names
    bench.now += 0.2
    bench.run(2)  # the reply's next token is overdue as well, and longer
    assert hearing.names


def test_blocks_of_all_that_speak_are_encoded_together(bench: Bench) -> None:
    talk, block = bench.talk(), bench.core.hearings.config.block_samples
    heard = [bench.listen(talk, samples) for samples in (block, 2 * block, block + 5, block - 1)]
    assert bench.core.advance()
    vectors = bench.core.hearings.config.block_frames // bench.core.hearings.config.frames_per_vector
    assert [len(hearing.names) for hearing in heard] == [vectors, vectors, vectors, 0]


def test_what_is_heard_is_read_while_it_is_spoken(bench: Bench) -> None:
    core, talk = bench.core, bench.talk()
    core.talks.prepare(talk, "", PAST[:2])
    hearing = bench.listen(talk, 3 * core.hearings.config.block_samples)
    bench.run(1_000)
    assert talk.slot is not None and talk.slot.keys[-len(hearing.names) :] == hearing.names
    history = [*PAST[:2], Exchange(text="typed instead")]
    bench.ask(talk, "reply", history, Sampling(1))
    bench.run(1)
    assert sum(bench.read[0]) < 20  # the past is there, the audio goes


@given(values=st.lists(st.floats(0, 2)))
def test_every_figure_falls_into_one_bucket(values: list[float]) -> None:
    measure = Measure((0.1, 0.5, 1.0))
    for value in values:
        measure.add(value)
    spread = measure.spread()
    within = [sum(value <= bound for value in values) for bound in spread.bounds]
    assert list(accumulate(spread.counts)) == [*within, len(values)]
    assert spread.total == pytest.approx(sum(values))


def test_waiting_is_measured(bench: Bench) -> None:
    for _ in range(20):
        bench.ask(bench.talk(), "reply", [*PAST, Exchange(text="one")], Sampling(1))
    bench.run(1_000)
    figures = bench.core.load()
    assert figures.queue_wait_ms > 10
    waits, encoding, decoding, filled = figures.spreads.values()
    assert sum(encoding.counts) == 0 < sum(decoding.counts) == sum(waits.counts) == sum(filled.counts)
    assert waits.total > 0.01 * sum(waits.counts)
    assert 0 < filled.total < sum(filled.counts)
    assert figures.conversations == figures.slots_held == 20
    assert 0 < figures.positions_filled < figures.positions


def test_a_question_is_read_where_its_answer_may_not_be_begun(bench: Bench) -> None:
    """Who is busy speculates no more, and what remains at the end of speech is to tell the first token."""
    core, talk = bench.core, bench.talk()
    core.speculation.limits = SpeculationLimits(per_utterance=0)
    hearing = bench.listen(talk, core.hearings.config.block_samples)
    bench.run(1_000)
    heard: list[Heard | CoreError] = []
    core.hearings.ask(hearing, heard.append)
    bench.run(1_000)
    asked = [*PAST[:2], Exchange(heard=heard[0], speaker=1)]  # type: ignore[arg-type]
    core.talks.speculate(talk, "", asked, SHORT)
    bench.run(1_000)
    pieces = bench.ask(talk, "reply", asked)
    bench.run(1)
    assert bench.read == [] and talk.answer and talk.answer.tokens == 1  # told at once
    bench.run(1_000)
    assert max(map(sum, bench.read)) == 1
    assert "".join(str(piece) for piece in pieces[:-1]) == "".join(core.language.reply(asked, "", SHORT))
    bench.ask(talk, "reply", asked)  # more stands there now
    bench.run(1)
    assert bench.read == [[1]] and talk.answer.tokens == 1


def test_instructions_of_all_conversations_are_worked_out_once(bench: Bench) -> None:
    talks = [bench.talk() for _ in range(100)]
    for _ in range(2):
        bench.read.clear()
        for number, talk in enumerate(talks):
            bench.core.talks.prepare(talk, f"be kind to number {number}", [])
    assert bench.read == []


def test_an_instruction_that_is_too_long_is_tokenized_once_or_never(bench: Bench) -> None:
    gates, prompts = bench.core.language.gates, bench.core.language.planner.prompts
    read, tokenized, pieces = gates._read, [], []
    gates._read = lambda instruction: tokenized.append("gate") or read(instruction)
    prompts.build = lambda *_: tokenized.append("prompt")
    talk = bench.talk()
    for instruction, times in (("xyz " * 70, ["gate"]), ("xyz " * 1_000_000, [])):
        tokenized.clear()
        for _ in range(3):
            bench.core.talks.prepare(talk, instruction, PAST)
            bench.core.talks.ask(talk, "reply", instruction, [Exchange(text="one")], SHORT, pieces.append)
        assert tokenized == times
    assert len(pieces) == 6 and all("instructions: " in str(piece) for piece in pieces)
