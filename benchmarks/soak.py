"""A full server for as long as one likes: whether it stays the same, and whether everybody gets their own answers.

As many people as may come in hold one conversation after another, each with instructions, words and voice of their own:
two turns are spoken, then one is typed. Checked are

- memory: of the server's process, after the warm-up;
- answers: every turn has one, and none failed;
- names: nothing that the server names (items, responses) is told to two conversations;
- typed replies: what a client was told equals what the model says to that client's own history, alone;
- what is left in the engine when all have gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _report import announce, machine, parser, percentile, plot, save, spread, table
from _serving import CHUNK_S, QUIET, recorded_people, run_as, serve_clients

from clients.realtime import ClientError, Conversation, Event, connect
from clients.turns import Turn, TurnLog
from wavllm_core.engine.api import Exchange, Sampling
from wavllm_core.engine.core import EngineLimits
from wavllm_core.engine.live import LiveEngine
from wavllm_core.engine.load import Load

TURNS = (4, 40)  # of one conversation
THINKING_S = (0.5, 2.0)
PATIENCE_S = 20.0  # for one answer
WARM_UP = 1 / 6  # of the time
LOOK_EVERY_S = 5.0
FLAT = 0.02  # memory may differ by this share
LEAVING_S = 0.2


def ids(event: Any) -> Iterator[str]:
    """Whatever the server names in an event."""
    for key, value in event.items() if isinstance(event, dict) else ():
        if key in ("id", "item_id", "response_id", "event_id") and isinstance(value, str):
            yield value
        yield from ids(value)


class Person:
    """One client: a microphone that never stops while a conversation lasts, and what was said in all of them."""

    def __init__(self, seed: int, url: str) -> None:
        self.seed, self.url, self.rng = seed, url, random.Random(seed)
        self.clips = [clip * self.rng.uniform(0.4, 1.0) for clip in recorded_people()]
        self.instructions = f"you talk with guest {seed}"
        self.conversations: list[dict[str, Any]] = []

    async def stay(self, ends_s: float) -> None:
        """One conversation after another."""
        while time.perf_counter() < ends_s:
            log, named, unanswered = TurnLog(), set[str](), 0
            try:
                async with connect(self.url, self.instructions) as conversation, asyncio.TaskGroup() as tasks:
                    reading = tasks.create_task(self._read(conversation, log, named))
                    unanswered = await self._converse(conversation, log, ends_s)
                    reading.cancel()
            except* ClientError as gone:
                log.problems += map(str, gone.exceptions)
            if not log.turns and any("full" in problem for problem in log.problems):
                await asyncio.sleep(LEAVING_S)  # who was here before is still leaving
                continue
            self.conversations.append(
                {
                    "instructions": self.instructions,
                    "turns": [describe(turn) for turn in log.turns],
                    "unanswered": unanswered,
                    "problems": log.problems,
                    "ids": sorted(named),
                }
            )

    async def _read(self, conversation: Conversation, log: TurnLog, named: set[str]) -> None:
        event: Event
        async for event in conversation:
            named.update(ids(event))
            log.apply(event)

    async def _converse(self, conversation: Conversation, log: TurnLog, ends_s: float) -> int:
        """Returns 1 where it ended because nobody answered."""
        due_s = time.perf_counter()

        async def hold(waveform: np.ndarray) -> None:
            nonlocal due_s
            for start in range(0, len(waveform), len(QUIET)):
                packet = waveform[start : start + len(QUIET)]
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                await conversation.send_audio(np.concatenate([packet, QUIET[len(packet) :]]))
                due_s += CHUNK_S

        for number in range(self.rng.randint(*TURNS)):
            if time.perf_counter() >= ends_s:
                break
            before = len(log.turns)
            if number % 3 == 2:
                text = f"guest {self.seed} asks question {len(self.conversations)} {number}"
                log.typed(text)
                await conversation.send_text(text)
            else:
                await hold(self.rng.choice(self.clips))
            waited_s = 0.0
            while len(log.turns) == before or not log.settled:
                await hold(QUIET)
                waited_s += CHUNK_S
                if waited_s > PATIENCE_S:
                    return 1
            await hold(np.tile(QUIET, round(self.rng.uniform(*THINKING_S) / CHUNK_S)))
            while not log.settled:
                await hold(QUIET)
        return 0


def describe(turn: Turn) -> dict[str, Any]:
    """As JSON has it."""
    first_ms = turn.latency.first_token_ms if turn.latency else None
    speaker = int(turn.speaker.split()[-1]) if turn.speaker else None
    said = {"spoken": turn.spoken, "text": turn.transcript, "speaker": speaker, "reply": turn.reply}
    return {**said, "answered": turn.complete, "problem": turn.problem, "first_token_ms": first_ms}


async def play(port: int, people: int, seconds: float) -> None:
    """The clients' process; prints what was said."""
    ends_s = time.perf_counter() + seconds
    everybody = [Person(seed, f"ws://127.0.0.1:{port}/v1/realtime") for seed in range(people)]
    async with asyncio.TaskGroup() as tasks:
        for person in everybody:
            tasks.create_task(person.stay(ends_s))
    print(json.dumps([conversation for person in everybody for conversation in person.conversations]))


def resident_mib() -> float:
    """What the system has given to this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure(people: int, seconds: float, threads: int) -> dict[str, Any]:
    engine = LiveEngine.load(limits=EngineLimits(conversations=people + 1, threads=threads))
    engine.core.store.tensor.zero_()  # the system gives its pages when they are first written, over an hour or two
    readings: list[tuple[float, float, int]] = []
    started_s, started_cpu_s = time.perf_counter(), time.process_time()

    def look(figures: Load) -> None:
        readings.append((time.perf_counter() - started_s, resident_mib(), figures.positions_filled))

    said = await serve_clients(engine, people, seconds, look, LOOK_EVERY_S)
    cores = (time.process_time() - started_cpu_s) / (time.perf_counter() - started_s)
    left = await engine.load_figures()
    language, sampling = engine.core.language, Sampling()
    identical, compared = recompute(said, lambda history, told: "".join(language.reply(history, told, sampling)))
    await engine.close()
    return {
        "people": people,
        "conversations": len(said),
        "server_cores": cores,
        "readings": readings,
        "identical": identical,
        "compared": compared,
        "left": [left.conversations, left.utterances, left.replies, left.slots_held],
        **judge(said),
    }


def recompute(said: list[dict[str, Any]], answer: Callable[[list[Exchange], str], str]) -> tuple[int, int]:
    """Of each conversation's last typed reply: how many the model gives again, alone, and of how many.

    answer: what the model says to a history under instructions
    """
    identical = compared = 0
    for conversation in said:
        turns = conversation["turns"]
        good = [turn["answered"] and not turn["problem"] for turn in turns]
        typed = [number for number, turn in enumerate(turns) if not turn["spoken"] and good[number]]
        if not typed or not all(good[: typed[-1]]):
            continue
        shown = [turn for turn in turns[: typed[-1]] if turn["text"] or turn["reply"]]  # not what was no words
        past = [Exchange(turn["text"], None, turn["speaker"], turn["reply"]) for turn in shown]
        asked = turns[typed[-1]]
        compared += 1
        identical += answer([*past, Exchange(asked["text"])], conversation["instructions"]) == asked["reply"]
    return identical, compared


def judge(said: list[dict[str, Any]]) -> dict[str, Any]:
    """What can be told from what the clients saw."""
    turns = [turn for conversation in said for turn in conversation["turns"]]
    first_ms = [turn["first_token_ms"] for turn in turns if turn["first_token_ms"] is not None]
    named = Counter(name for conversation in said for name in conversation["ids"])
    return {
        "turns": len(turns),
        "spoken": sum(turn["spoken"] for turn in turns),
        "talked_on": sum((turn["problem"] or "").startswith("cancelled") for turn in turns),
        "failed": [
            turn["problem"] for turn in turns if turn["problem"] and not turn["problem"].startswith("cancelled")
        ],
        "errors": [problem for conversation in said for problem in conversation["problems"]],
        "unanswered": sum(conversation["unanswered"] for conversation in said),
        "names": len(named),
        "names_told_twice": sum(count > 1 for count in named.values()),
        "first_token_ms": spread(first_ms) if first_ms else {},
    }


def memory(readings: list[tuple[float, float, int]]) -> tuple[float, float]:
    """MiB after the warm-up and at the end, medians of a tenth of the time each."""
    warm = [mib for at_s, mib, _ in readings if at_s >= WARM_UP * readings[-1][0]]
    tenth = max(1, len(warm) // 10)
    return percentile(warm[:tenth], 0.5), percentile(warm[-tenth:], 0.5)


def check(found: dict[str, Any]) -> list[tuple[str, object, bool]]:
    """What was looked for, what was found, and whether that is as it should be."""
    begun, ended = memory(found["readings"])
    change = ended / begun - 1
    faults = len(found["failed"]) + len(found["errors"])
    same = f"{found['identical']} of {found['compared']}"
    answered = found["turns"] > 0 and not found["unanswered"]
    return [
        (
            "memory after the warm-up, at the end",
            f"{begun:.1f} MiB, {ended:.1f} MiB: {change:+.1%}",
            abs(change) <= FLAT,
        ),
        ("turns without an answer", found["unanswered"], answered),
        ("replies that failed, errors", faults, not faults),
        ("names told to two conversations", found["names_told_twice"], not found["names_told_twice"]),
        (
            "typed replies as the model gives them alone",
            same,
            0 < found["compared"] == found["identical"],
        ),
        ("left: conversations, utterances, replies, slots", found["left"], not any(found["left"])),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=2.0)
    options.add_argument("--people", type=int, default=8, help="at a time, which is also the most that are let in")
    args = options.parse_args()
    where = machine()
    found = asyncio.run(measure(args.people, 60 * args.minutes, args.threads))
    announce(where)
    lines = [[what, was, "yes" if fine else "NO"] for what, was, fine in check(found)]
    table(["check", "found", "as it should be"], lines)
    latency = ", ".join(f"{share} {value:.1f}" for share, value in found["first_token_ms"].items())
    print(
        f"{found['people']} people at a time, {found['conversations']} conversations, {found['turns']} turns, of them"
    )
    print(f"{found['spoken']} spoken and {found['talked_on']} talked into; {found['names']} names")
    print(f"{found['server_cores']:.2f} cores; first token after the confirmed end of speech: {latency} ms\n")
    save(args.out, "soak", where, found)
    drawn = {"resident": [(at_s / 60, mib) for at_s, mib, _ in found["readings"]]}
    plot(args.out, "soak", "Memory of the server", ("minutes", "MiB"), drawn)


if __name__ == "__main__":
    run_as(play, main)
