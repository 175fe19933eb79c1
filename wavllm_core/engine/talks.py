"""Conversations on the worker's side: what stands in their slots, and the answers that are decoded from there.

Prefill and decode steps of all conversations go through the model together. Synchronous, one thread; knows
audio only as vectors, and event loops not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from wavllm_core.engine.api import Exchange, PromptUsage, Sampling
from wavllm_core.engine.decoding import ROWS, Decoding
from wavllm_core.engine.kv import KeyValueStore
from wavllm_core.engine.language import Language
from wavllm_core.engine.llama import Row
from wavllm_core.engine.load import Meter
from wavllm_core.engine.planner import Plan
from wavllm_core.engine.sampling import Chooser, Spelling, choose, log_probability
from wavllm_core.engine.speculation import Speculation
from wavllm_core.engine.talk import HISTORY_DUE_S, LISTENING_DUE_S, Answer, Kind, Piece, Talk
from wavllm_core.engine.utterances import Hearing
from wavllm_core.errors import CoreError, InputError

log = logging.getLogger(__name__)
AnyOf = TypeVar("AnyOf", tuple[Talk, Row], tuple[Talk, Answer, Tensor])  # what a conversation has in a step
MAX_PREFILL = 64  # positions read in one step, so that no step takes long
MAX_ANSWERS = max(ROWS)  # decoded in one step


class Talks:
    """All conversations and their slots."""

    def __init__(
        self,
        language: Language,
        store: KeyValueStore,
        speculation: Speculation,
        meter: Meter,
        clock: Callable[[], float],
        decoding: Decoding | None = None,
    ) -> None:
        """With `decoding`, tokens are decoded by it, beside what is read."""
        self.decoding = decoding
        self.language, self.store, self.speculation = language, store, speculation
        self.meter, self.clock = meter, clock
        self.open: list[Talk] = []  # they get a slot when there is something to put there

    def close(self, talk: Talk) -> None:
        """Forget a conversation and whatever it waits for; harmless when it is forgotten already."""
        if talk in self.open:
            self.open.remove(talk)
            for answer in list(talk.answers):
                self.drop(talk, answer)
            self._evict(talk)
            talk.wanted = talk.hearing = None

    # What is going to be asked

    def prepare(self, talk: Talk, instruction: str, history: Sequence[Exchange]) -> None:
        """Have the past read before the next turn begins, or while it is spoken."""
        if talk in self.open:
            talk.instruction, talk.history = instruction, history
            self._want(talk, talk.instruction, lambda: self._listening(talk))

    def listen(self, talk: Talk, hearing: Hearing) -> None:
        """Read the vectors of an utterance as they come."""
        talk.hearing, talk.tried = hearing, 0

    def unlisten(self, talk: Talk, hearing: Hearing) -> None:
        """The utterance is over or given up; what was read of it stays, for the reply."""
        if talk.hearing is hearing:
            talk.hearing = None

    def hear(self, talk: Talk, hearing: Hearing) -> None:
        """Take note that an utterance has other vectors than before; a speculation on the old ones is over."""
        if talk.hearing is hearing and talk in self.open:
            self._drop_speculation(talk)
            self._want(talk, talk.instruction, lambda: self._listening(talk))

    def _listening(self, talk: Talk) -> Plan:
        """What stands there while a turn is spoken."""
        names = talk.hearing.names if talk.hearing else []
        plan = self.language.planner.plan_listening(talk.history, talk.instruction, len(names), talk.reply_tokens)
        return plan.extended(names, talk.hearing.embeds) if names and talk.hearing else plan

    def _want(self, talk: Talk, instruction: str, make_plan: Callable[[], Plan]) -> None:
        """Have this read ahead."""
        talk.wanted, talk.wanted_since = None, self.clock()
        try:
            self.language.gates.of(instruction)  # first: plans of an instruction that is too long take long
            plan = make_plan()
        except (CoreError, RuntimeError, ValueError, TypeError):  # the reply is going to say so
            return
        if self._missing(talk, plan):
            talk.wanted = plan

    # What is asked

    def ask(
        self,
        talk: Talk,
        kind: Kind,
        instruction: str,
        history: Sequence[Exchange],
        sampling: Sampling,
        sink: Callable[[Piece], None] | None,
        begun: Callable[[PromptUsage], None] = lambda _: None,
    ) -> Answer | None:
        """Begin to answer, or hand over what was speculated. None where that failed, as `sink` was told.

        begun: is told what the prompt is made of, before `sink` is told anything
        """
        try:
            if talk not in self.open:
                raise InputError("the conversation is closed")
            gate = self.language.gates.of(instruction)
            plan = self.language.planner.plan(history, instruction, sampling.max_tokens, sampling.begins)
            chooser, spelling = Chooser(sampling), Spelling(self.language.tokenizer, sampling.stop)
        except (CoreError, RuntimeError, ValueError, TypeError) as error:
            if sink:
                sink(_fault(error))
            return None
        talk.reply_tokens = sampling.max_tokens
        begun(PromptUsage(len(plan.keys), talk.slot.common(plan.keys, plan.instruction) if talk.slot else 0))
        if kind == "reply" and (ready := self._adopt(talk, plan, sampling, sink)):
            return ready
        self._drop_speculation(talk)
        talk.wanted = None
        answer = Answer(kind, plan, sampling, gate, chooser, spelling, self.clock(), sink)
        talk.answers.append(answer)
        return answer

    def speculate(self, talk: Talk, instruction: str, history: Sequence[Exchange], sampling: Sampling) -> None:
        """Begin to answer on the chance that this is what is going to be asked; read the question, if not more."""
        self._drop_speculation(talk)
        if talk.answers or talk not in self.open:
            return
        if not self.speculation.permits(talk.tried, 1000 * self.meter.queue_wait_s.value):
            most, begins = sampling.max_tokens, sampling.begins
            self._want(talk, instruction, lambda: self.language.planner.plan(history, instruction, most, begins))
        elif self.ask(talk, "speculation", instruction, history, sampling, None):
            talk.tried += 1
            self.speculation.begun += 1

    def drop(self, talk: Talk, answer: Answer | None) -> None:
        """Stop an answer at once; what was decoded stays in the slot until something else is wanted there."""
        if answer in talk.answers:
            answer.over = True
            talk.answers.remove(answer)
            if answer.kind == "speculation":
                self.speculation.tokens_wasted += answer.tokens

    def _adopt(self, talk: Talk, plan: Plan, sampling: Sampling, sink: Callable[[Piece], None] | None) -> Answer | None:
        """Take over a speculation that is exactly what is asked now."""
        for answer in talk.answers:
            same = answer.plan.keys == plan.keys and answer.plan.instruction == plan.instruction
            if answer.kind == "speculation" and same and answer.sampling == sampling:
                self.speculation.used += 1
                answer.kind, answer.since, answer.sink = "reply", self.clock(), sink
                held, answer.held = answer.held, []
                for piece in held:
                    answer.put(piece)
                if answer.over:
                    talk.answers.remove(answer)
                return answer
        return None

    def _drop_speculation(self, talk: Talk) -> None:
        for answer in [answer for answer in talk.answers if answer.kind == "speculation"]:
            self.drop(talk, answer)

    # The work

    def due(self) -> float | None:
        """When the most urgent work is due; None: there is none."""
        return min((due for talk in self.open if (due := self._due(talk)) is not None), default=None)

    def _due(self, talk: Talk) -> float | None:
        answer = talk.answer
        if answer is not None:
            waits = answer.over or (answer.kind == "speculation" and answer.tokens >= self.speculation.limits.tokens)
            return None if waits or not self._can_have_slot(talk) else answer.due
        if talk.wanted and self._can_have_slot(talk):
            return talk.wanted_since + (LISTENING_DUE_S if talk.hearing else HISTORY_DUE_S)
        return None

    def _missing(self, talk: Talk, plan: Plan) -> int:
        """Positions of a plan that are not in the slot."""
        return len(plan.keys) - (talk.slot.common(plan.keys, plan.instruction) if talk.slot else 0)

    def step(self) -> float:
        """Read and decode one step for all that is due first; returns since when the first of it waited."""
        ready = [(due, talk) for talk in self.open if (due := self._due(talk)) is not None]
        ready.sort(key=lambda entry: entry[0])
        first = ready[0][1]
        since = first.answer.since if first.answer else first.wanted_since
        chosen: list[tuple[Talk, Row]] = []
        known: list[tuple[Talk, Answer, Tensor]] = []
        room, hurry = MAX_PREFILL, False
        for _, talk in ready:
            answer = talk.answer
            if answer and (state := self._read_already(talk, answer)) is not None:
                known.append((talk, answer, state))
                continue
            reads = answer is None or answer.next_token is None
            if (reads and (room <= 0 or hurry)) or len(chosen) >= MAX_ANSWERS or not self._give_slot(talk):
                continue
            row = self._row_or_fail(talk, room)
            if row is None:
                continue
            room -= len(row.keys) if reads else 0
            hurry = hurry or (reads and answer is not None and answer.kind == "reply")
            chosen.append((talk, row))
        self._tell(known)
        self._run([(talk, row) for talk, row in chosen if talk.slot is row.slot])  # who lost it meanwhile waits
        return since

    def _read_already(self, talk: Talk, answer: Answer) -> Tensor | None:
        """What the first token is told from, where all that precedes it was read ahead."""
        slot, plan = talk.slot, answer.plan
        if answer.next_token is not None or slot is None or slot.state is None:
            return None
        return slot.state if slot.gate == plan.instruction and slot.keys == plan.keys else None

    def _row_or_fail(self, talk: Talk, room: int) -> Row | None:
        try:
            return self._row(talk, room)
        except (RuntimeError, ValueError) as error:  # torch: vectors that do not fit
            log.exception("a reply failed")
            self._fail(talk, CoreError(f"decoding failed: {error}"))
            return None

    def _row(self, talk: Talk, room: int) -> Row:
        """What a conversation adds in this step."""
        answer, slot = talk.answer, talk.slot
        assert slot is not None
        talk.used = self.clock()
        if answer and answer.next_token is not None:
            return Row(slot, [answer.next_token], None, answer.gate)
        plan = answer.plan if answer else talk.wanted
        assert plan is not None
        start = slot.keep_common(plan.keys, plan.instruction)
        if start == len(plan.keys):  # all is there; its last position tells the first token
            start = slot.keep_common(plan.keys[:-1], plan.instruction)
        end = min(len(plan.keys), start + room)
        gate = answer.gate if answer else self.language.gates.of(plan.instruction)
        return Row(slot, plan.keys[start:end], plan.inputs(self.language.llama, start, end), gate)

    def _run(self, chosen: list[tuple[Talk, Row]]) -> None:
        if not chosen:
            return
        try:
            states = self._last_states([row for _, row in chosen])
        except (RuntimeError, ValueError) as error:  # torch: one is at fault, and the others go on
            self._each_alone(self._run, chosen, error)
            return
        told = []
        for (talk, row), state in zip(chosen, states, strict=True):
            row.slot.state, answer = state, talk.answer
            if answer is None:
                if talk.wanted and len(row.slot.keys) >= len(talk.wanted.keys):
                    talk.wanted = None
            elif answer.next_token is not None or len(row.slot.keys) >= len(answer.plan.keys):
                told.append((talk, answer, state))
        self._tell(told)

    def _each_alone(self, again: Callable[[list[AnyOf]], None], failed: list[AnyOf], error: Exception) -> None:
        """Do again, one by one, what failed together; what failed alone is that conversation's error."""
        if len(failed) > 1:
            for one in failed:
                again([one])
        else:
            log.error("a reply failed", exc_info=error)
            self._fail(failed[0][0], CoreError(f"decoding failed: {error}"))

    def _last_states(self, rows: list[Row]) -> Tensor:
        """Do a step; returns where each row ends, (rows, dim) before the last norm."""
        if self.decoding is None:
            return self._read(rows)
        tokens = torch.tensor([row.inputs is None for row in rows])
        llama = self.language.llama
        states = torch.empty(len(rows), llama.shape.dim, dtype=llama.dtype, device=llama.device)
        if read := [row for row in rows if row.inputs is not None]:  # first, as it is what may fail
            states[~tokens] = self._read(read)
        if decoded := [row for row in rows if row.inputs is None]:
            try:
                states[tokens] = self.decoding.step(decoded)
            except RuntimeError:
                for row in read:  # as if nothing had been done, for each is tried again alone
                    del row.slot.keys[-len(row.keys) :]
                raise
        return states

    def _read(self, rows: list[Row]) -> Tensor:
        states = self.language.llama.step(self.store, rows)
        ends = torch.tensor([len(row.keys) for row in rows]).cumsum(0) - 1
        return states[ends.to(states.device)]

    def _tell(self, told: list[tuple[Talk, Answer, Tensor]]) -> None:
        """Take the next token of each answer, from the state of what precedes it."""
        if not told:
            return
        try:
            logits = self.language.llama.logits(torch.stack([state for _, _, state in told]))
            tokens = choose([answer.chooser for _, answer, _ in told], logits)
        except RuntimeError as error:  # torch, as out of memory: there is room for fewer
            self._each_alone(self._tell, told, error)
            return
        for (talk, answer, _), token, row in zip(told, tokens, logits, strict=True):
            self._take_token(talk, answer, token, row)

    def _take_token(self, talk: Talk, answer: Answer, token: int | CoreError, logits: Tensor) -> None:
        answer.since = self.clock()
        if isinstance(token, CoreError):
            self._fail(talk, token)
            return
        logprob = log_probability(logits, token) if answer.kind == "transcript" else 0.0
        if token in self.language.end_ids:
            answer.write(answer.spelling.finish(), logprob)
        else:
            answer.tokens += 1
            answer.next_token = token
            answer.write(answer.spelling.add(token), logprob)
            if not answer.spelling.stopped and answer.tokens < answer.sampling.max_tokens:
                return
            answer.write(answer.spelling.finish(), 0.0, tokens=0)
        self._end(talk, answer, None)

    def _fail(self, talk: Talk, error: CoreError) -> None:
        """The answer under way fails, or what was to be read ahead is left; the slot may hold anything now."""
        talk.wanted = None
        if talk.slot:
            talk.slot.clear()
        if talk.answer:
            self._end(talk, talk.answer, error)

    def _end(self, talk: Talk, answer: Answer, last: CoreError | None) -> None:
        answer.over = True
        answer.put(last)
        if answer.kind != "speculation":  # that one stays until it is wanted or dropped
            talk.answers.remove(answer)

    # Slots

    def _can_have_slot(self, talk: Talk) -> bool:
        return talk.slot is not None or self.store.held < self.store.slots or self._victim(talk) is not None

    def _give_slot(self, talk: Talk) -> bool:
        if talk.slot is None and self.store.held == self.store.slots and (victim := self._victim(talk)):
            self._evict(victim)
            self.meter.evictions += 1
        if talk.slot is None and self.store.held < self.store.slots:
            talk.slot = self.store.acquire()
        return talk.slot is not None

    def _victim(self, talk: Talk) -> Talk | None:
        """Who can do without a slot: for a reply whoever nobody waits for, else only those that rest.

        Of two whose history is to be read neither takes the other's, or they would begin anew for ever.
        """
        others = [other for other in self.open if other.slot and other is not talk and not other.pinned]
        if talk.answer is None or talk.answer.kind != "reply":
            others = [other for other in others if other.hearing is None and not other.answers]
        if talk.answer is None and talk.hearing is None:
            others = [other for other in others if other.wanted is None]
        return min(others, key=lambda other: other.used, default=None)

    def _evict(self, talk: Talk) -> None:
        """Take a slot away; the conversation's history is its journal, from which it is read again."""
        self._drop_speculation(talk)
        if talk.slot:
            self.store.release(talk.slot)
            talk.slot = None


def _fault(error: Exception) -> CoreError:
    """What whoever asked is told."""
    if isinstance(error, CoreError):
        return error
    if isinstance(error, RuntimeError):  # torch: no memory for the gate
        log.error("a reply failed", exc_info=error)
        return CoreError(f"decoding failed: {error}")
    return InputError(f"the conversation cannot be read: {error}")  # tokenizers: text that is no Unicode
