"""Any order of what clients, people, model and voice may do: the promises of the protocol hold in all of them.

No socket and no time: a session is driven step by step, and the model writes when it is told to.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from agent.functions.permissions import Permissions
from agent.hearing.ear import EarLimits
from agent.protocol.settings import SessionSettings
from agent.protocol.turn_detection import TurnDetection
from agent.sessions.functions import FunctionOptions
from agent.sessions.mailbox import LiveMailbox
from agent.sessions.names import Names
from agent.sessions.planning import ReplyOptions
from agent.sessions.session import Session, SessionOptions
from agent.sessions.tool_calls import HermesCaller
from agent.speech.speaking import SpeechOptions
from agent.voices.speakers import SpeakerOptions
from tests.agent.harness import MODELS, with_the_one_rate_of_the_sdk
from tests.agent.oracle import Oracle
from tests.agent.scripted import LoudnessVad, ScriptedEngine, ScriptedVoice, silence, speech
from wavllm_core.engine.api import Exchange, Heard, Sampling, Written
from wavllm_core.errors import CoreError

CALL = '<tool_call>{"name": "brew", "arguments": {}}</tool_call>'
TIME = CALL.replace("brew", "get_time")
TIMER = '<tool_call>{"name": "set_timer", "arguments": {"seconds": 9}}</tool_call>'
FORBIDDEN = CALL.replace("brew", "unlock")
REPLIES = [[], ["Yes."], ["One. ", "Two. ", "Three."], ["Wait. ", CALL], [CALL, CALL], ["Hm ", "<tool_call>oops"]]
FOR_SERVER = [[TIME], [TIMER, "Wait."], ["Wait. ", TIMER, CALL], [FORBIDDEN]]
TOOLS = [{"type": "function", "name": name} for name in ("brew", "unlock")]
RUSH: dict[str, dict[str, Any]] = {
    "cancel": {"type": "response.cancel"},
    "answer": {"type": "response.create"},
    "aloud": {"type": "response.create", "response": {"output_modalities": ["audio"]}},
    "beside": {"type": "response.create", "response": {"conversation": "none"}},
    "speak": {"type": "input_audio_buffer.append", "audio": base64.b64encode(speech(200, 1, 24_000)).decode()},
    "pause": {"type": "input_audio_buffer.append", "audio": base64.b64encode(silence(600, 24_000)).decode()},
    "update": {"type": "session.update", "session": {"type": "realtime"}},
}
WRITTEN = ["".join(reply).strip() for reply in [*REPLIES, *FOR_SERVER]]
TEXTS = [text for written in WRITTEN for text in (written, written.partition("<")[0].strip(), written.split(">")[-1])]
QUIET_ROUNDS = 16  # of the loop without an event: nothing is going to happen by itself


class SteppedEngine(ScriptedEngine):
    """Writes a word, or a transcript, when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.ink = asyncio.Semaphore(0)
        self.script: list[str] = []
        self.fails = self.murmurs = False
        self.logprob = 0.0  # of each piece of a transcript

    async def reply(
        self, instructions: str, history: Sequence[Exchange], sampling: Sampling
    ) -> AsyncGenerator[str, None]:
        self.asked.append((instructions, list(history), sampling))
        self.running += 1
        try:
            for word in [*self.script, ""]:
                await self.ink.acquire()
                if self.fails:
                    raise CoreError("out of ink")
                if word:
                    yield word
        finally:
            self.running -= 1

    async def transcribe(self, heard: Heard) -> AsyncGenerator[Written, None]:
        self.running += 1
        try:
            for word in ("m", "hm") if self.murmurs else ("so ", "it was"):
                await self.ink.acquire()
                if self.fails:
                    raise CoreError("out of ink")
                yield Written(word, self.logprob)
        finally:
            self.running -= 1


class SteppedMailbox(LiveMailbox):
    """In which time passes when somebody says so."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.asleep: list[asyncio.Event] = []

    async def sleep(self, seconds: float) -> None:
        self.asleep.append(asyncio.Event())
        await self.asleep[-1].wait()

    def wake(self) -> None:
        for sleeper in self.asleep:
            sleeper.set()


class SessionMachine(RuleBasedStateMachine):
    @initialize()
    def client_comes(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_debug(False)  # half of the time would go into tracebacks of tasks
        self.engine, self.voice, self.oracle = SteppedEngine(), ScriptedVoice(), Oracle()
        self.now_s, self.sent, self.instructions = 0.0, 0, ""
        caller = HermesCaller()
        start = SessionSettings(turn_detection=TurnDetection(), voice=self.voice.name, calls_tools=True)
        options = SessionOptions(
            start,
            ReplyOptions(Sampling(), SpeechOptions(self.voice, 60, 1e6), caller),
            EarLimits(2_000, 1_000, LoudnessVad),
            SpeakerOptions(),
            "test",
            functions=FunctionOptions(("time", "timers"), Permissions({"unlock": "enrolled"})),
        )

        async def send(message: str) -> None:
            self.oracle.feed(message)
            event = self.oracle.seen[-1]
            if not event["type"].startswith(("wavllm.", "session.")):
                MODELS[event["type"]].model_validate(with_the_one_rate_of_the_sdk(event), strict=True)
            self.sent += 1
            await asyncio.sleep(0)  # as sockets do: meanwhile others go on

        self.mailbox = SteppedMailbox(lambda: self.now_s)
        names = Names("seed")
        self.session = Session(self.engine, options, send, lambda: self.now_s, mailbox=self.mailbox, new_id=names)
        self.task = self.loop.create_task(self.session.run(), name="session")
        self.settle()
        self.say("session.update", session={"wavllm": {}})

    def settle(self) -> None:
        """Let everything happen that can."""

        async def rounds() -> None:
            quiet = 0
            while quiet < QUIET_ROUNDS and not self.task.done():
                before = self.sent
                await asyncio.sleep(0)
                quiet = 0 if self.sent != before else quiet + 1

        self.loop.run_until_complete(rounds())
        if self.task.done():
            self.task.result()

    def say(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """What the session says to one message."""
        before, errors = len(self.oracle.seen), len(self.oracle.errors)
        event_id = f"mine {before}"
        message = json.dumps({"type": kind, "event_id": event_id, **fields})
        self.loop.run_until_complete(self.session.receive(message))
        self.settle()
        complaints = [error for error in self.oracle.errors[errors:] if error["code"] != "voice_failed"]
        assert all(error["event_id"] == event_id for error in complaints)
        return self.oracle.seen[before:]

    def some_item(self, number: int) -> str:
        known = [*self.oracle.items, *sorted(self.oracle.gone), "nobody"]
        return known[number % len(known)]

    @rule(ms=st.sampled_from([40, 200, 400, 900]), voice=st.integers(1, 2))
    def person_speaks(self, ms: int, voice: int) -> None:
        self.say("input_audio_buffer.append", audio=base64.b64encode(speech(ms, voice, 24_000)).decode())

    @rule(ms=st.sampled_from([100, 300, 700]))
    def person_is_silent(self, ms: int) -> None:
        self.say("input_audio_buffer.append", audio=base64.b64encode(silence(ms, 24_000)).decode())

    @rule(kind=st.sampled_from(["input_audio_buffer.commit", "input_audio_buffer.clear", "output_audio_buffer.clear"]))
    def client_handles_its_buffer(self, kind: str) -> None:
        assert self.say(kind), "not answered"

    @rule(
        role=st.sampled_from(["system", "user", "assistant", "spoken", "call", "output"]),
        place=st.none() | st.just("root") | st.integers(0, 20),
        item_id=st.none() | st.integers(0, 20),
    )
    def client_adds_an_item(self, role: str, place: int | str | None, item_id: int | None) -> None:
        kind = "output_text" if role == "assistant" else "input_text"
        content: dict[str, Any] = {"type": kind, "text": "words"}
        item: dict[str, Any] = {"type": "message", "role": role, "content": [content]}
        if role == "spoken":
            sound = base64.b64encode(speech(200, 1, 24_000)).decode()
            item = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": sound}]}
        elif role == "call":
            item = {"type": "function_call", "call_id": "call", "name": "brew", "arguments": "{}"}
        elif role == "output":
            item = {"type": "function_call_output", "call_id": "call", "output": "done"}
        if item_id is not None:
            item["id"] = self.some_item(item_id)
        before = self.some_item(place) if isinstance(place, int) else place
        kinds = {event["type"] for event in self.say("conversation.item.create", item=item, previous_item_id=before)}
        assert "error" in kinds or {"conversation.item.added", "conversation.item.done"} <= kinds

    @rule(number=st.integers(0, 20), ms=st.integers(0, 300))
    def client_has_played(self, number: int, ms: int) -> None:
        said = self.say("wavllm.playback.ack", item_id=self.some_item(number), played_ms=ms)
        assert said[0]["type"] in ("error", "wavllm.playback")

    @rule(what=st.sampled_from(["delete", "retrieve", "truncate"]), number=st.integers(0, 20), ms=st.integers(0, 90))
    def client_handles_an_item(self, what: str, number: int, ms: int) -> None:
        cut = {"content_index": 0, "audio_end_ms": ms} if what == "truncate" else {}
        said = self.say(f"conversation.item.{what}", item_id=self.some_item(number), **cut)
        assert {"error", f"conversation.item.{what}d", f"conversation.item.{what}ed"} & {e["type"] for e in said}

    @rule(
        detection=st.none()
        | st.fixed_dictionaries({"create_response": st.booleans(), "interrupt_response": st.booleans()}),
        modality=st.sampled_from(["text", "audio"]),
        transcribed=st.booleans(),
    )
    def client_changes_its_mind(self, detection: dict[str, Any] | None, modality: str, transcribed: bool) -> None:
        self.instructions = f"version {self.sent}"
        turns = detection and {"type": "server_vad"} | detection
        sound = {"turn_detection": turns, "transcription": {"model": "any"} if transcribed else None}
        session = {"instructions": self.instructions, "output_modalities": [modality], "tools": TOOLS}
        said = self.say("session.update", session=session | {"audio": {"input": sound}})
        assert "session.updated" in [event["type"] for event in said]

    @rule(
        beside=st.booleans(),
        modality=st.none() | st.sampled_from(["text", "audio"]),
        given=st.none() | st.lists(st.integers(0, 20), max_size=2),
        tokens=st.sampled_from([None, 1, 50]),
    )
    def client_wants_an_answer(
        self, beside: bool, modality: str | None, given: list[int] | None, tokens: int | None
    ) -> None:
        response: dict[str, Any] = {"conversation": "none"} if beside else {}
        if modality:
            response["output_modalities"] = [modality]
        if given is not None:
            response["input"] = [{"type": "item_reference", "id": self.some_item(number)} for number in given]
        asked = len(self.engine.asked)
        said = self.say("response.create", response=response | {"max_output_tokens": tokens})
        assert {"error", "response.created"} & {event["type"] for event in said}
        if said[0]["type"] == "response.created" and len(self.engine.asked) > asked:
            told = self.engine.asked[-1][0]
            assert told.startswith(self.instructions), "not the settings of this moment"

    @rule(number=st.none() | st.integers(0, 5))
    def client_cancels(self, number: int | None) -> None:
        known = [*self.oracle.responses, *sorted(self.oracle.over), "nobody"]
        which = None if number is None else known[number % len(known)]
        under_way = self.oracle.active if which is None else which
        ends = under_way in self.oracle.responses
        said = self.say("response.cancel", response_id=which)
        assert said[0]["type"] == ("error" if not ends else said[0]["type"])
        assert not ends or under_way in self.oracle.over

    @rule(words=st.integers(1, 4))
    def model_writes(self, words: int) -> None:
        for _ in range(words):
            self.engine.ink.release()
            self.settle()

    @rule(script=st.sampled_from(FOR_SERVER), words=st.integers(1, 8))
    def model_calls_the_server(self, script: list[str], words: int) -> None:
        self.say("session.update", session={"type": "realtime", "tools": TOOLS})
        self.engine.script, self.engine.fails = script, False
        self.say("response.create")
        self.model_writes(words)

    @rule(
        script=st.sampled_from([*REPLIES, *FOR_SERVER]),
        fails=st.booleans(),
        deaf=st.booleans(),
        murmurs=st.booleans(),
        broken=st.booleans(),
        sure=st.booleans(),
    )
    def things_go_differently(
        self, script: list[str], fails: bool, deaf: bool, murmurs: bool, broken: bool, sure: bool
    ) -> None:
        self.engine.script, self.engine.fails, self.engine.deaf = script, fails, deaf
        self.engine.logprob = 0.0 if sure else -1.0
        self.engine.murmurs, self.voice.broken = murmurs, broken

    @rule(
        hold_ms=st.sampled_from([0, 300, 800]), short_ms=st.sampled_from([0, 0, 250]), resume=st.sampled_from([1, 1, 0])
    )
    def client_says_what_interrupts(self, hold_ms: int, short_ms: int, resume: int) -> None:
        interruption = {"hold_ms": hold_ms, "short_ms": short_ms, "resume": bool(resume)}
        said = self.say("session.update", session={"wavllm": {"interruption": interruption}})
        assert said[-1]["session"]["wavllm"]["interruption"].items() >= interruption.items()

    @rule(order=st.lists(st.sampled_from(["write", *RUSH]), min_size=2, max_size=6))
    def all_at_once(self, order: list[str]) -> None:
        """Before anything of it is acted on."""

        async def rush() -> None:
            for what in order:
                if what == "write":
                    self.engine.ink.release()
                else:
                    await self.session.receive(json.dumps(RUSH[what]))

        self.loop.run_until_complete(rush())
        self.settle()

    @rule(
        ms=st.sampled_from([200, 300, 500]),
        begins=st.sampled_from(["answer", "aloud", "nothing"]),
        script=st.sampled_from([*REPLIES, *FOR_SERVER]),
        ink=st.tuples(st.integers(0, 3), st.sampled_from([0, 2, 9])),
        murmurs=st.booleans(),
        sure=st.booleans(),
    )
    def person_speaks_into_a_reply(
        self, ms: int, begins: str, script: list[str], ink: tuple[int, int], murmurs: bool, sure: bool
    ) -> None:
        self.things_go_differently(script, fails=False, deaf=False, murmurs=murmurs, broken=False, sure=sure)
        usual = {"type": "server_vad", "create_response": True, "interrupt_response": True}
        self.say("session.update", session={"audio": {"input": {"turn_detection": usual}}})
        if begins in RUSH:
            self.say("response.create", response=RUSH[begins].get("response"))
        self.model_writes(ink[0])
        self.person_speaks(ms, 1)
        self.person_is_silent(300)
        self.model_writes(ink[1])
        self.person_is_silent(700)

    @rule()
    def voice_stops_or_goes_on(self) -> None:
        (self.voice.works.clear if self.voice.works.is_set() else self.voice.works.set)()
        self.settle()

    @rule(message=st.sampled_from(["{", "[]", '{"type": "no.such.thing"}', '{"type": "session.update"}']))
    def client_talks_nonsense(self, message: str) -> None:
        complaints = len(self.oracle.errors)
        self.loop.run_until_complete(self.session.receive(message))
        self.settle()
        assert len(self.oracle.errors) == complaints + 1

    @rule()
    def time_passes(self) -> None:
        self.now_s += 1.0
        self.mailbox.wake()
        self.settle()

    def teardown(self) -> None:
        if not hasattr(self, "task"):  # never begun
            return
        try:
            self.come_to_rest()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def come_to_rest(self) -> None:
        self.engine.fails = False
        self.voice.works.set()
        for _ in range(400):  # until everybody is done
            if not self.engine.running and not self.oracle.responses:
                break
            self.engine.ink.release()
            self.settle()
        self.oracle.at_rest()
        for rest in self.oracle.resumed:
            for said in words(rest) if rest["status"] == "completed" else []:
                assert any(text.endswith(said) for text in TEXTS), "not what the model wrote"
        self.task.cancel()
        self.loop.run_until_complete(asyncio.wait([self.task]))
        self.session.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        assert (self.engine.running, self.voice.running, self.engine.open) == (0, 0, set())
        assert not asyncio.all_tasks(self.loop)


def words(response: dict[str, Any]) -> list[str]:
    """What was told in the messages of one response."""
    parts = [part for item in response["output"] for part in item.get("content", [])]
    return [part.get("text", part.get("transcript")).strip() for part in parts]


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
FEW = settings(
    max_examples=int(os.environ.get("FEW", "500")),
    phases=[Phase.generate],
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=CHECKS,
)
MANY = settings(FEW, max_examples=int(os.environ.get("SCENARIOS", "10000")), stateful_step_count=40)


@pytest.mark.timeout(300)  # ten seconds of one core, which may be busy
class TestSomeScenarios(SessionMachine.TestCase):
    settings = FEW


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
class TestManyScenarios(SessionMachine.TestCase):
    settings = MANY
