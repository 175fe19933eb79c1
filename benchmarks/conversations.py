"""Many conversations at once through a real server: how long each waits for the first token.

The server runs here; another process plays the clients, each with a websocket of its own, sending microphone
audio in real time: a recorded person, silence until the reply is there, a pause for thought, the next person.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import numpy as np
from _report import announce, machine, parser, percentile, plot, save, spread, table
from _serving import CHUNK_S, QUIET, recorded_people, run_as, serve_clients

from clients.realtime import Conversation, connect
from wavllm_core.engine.core import EngineLimits
from wavllm_core.engine.live import LiveEngine
from wavllm_core.engine.load import Load
from wavllm_core.engine.speculation import SpeculationLimits

LEVELS = (1, 4, 8, 16, 32)
LOOK_EVERY_S = 0.5
THINKING_S = (0.5, 2.0)
WARM_UP_S = 6.0  # whose turns do not count


class Person:
    """One client: a microphone that never stops, and what came back."""

    def __init__(self, conversation: Conversation, seed: int, turns: list[np.ndarray]) -> None:
        self.conversation, self.rng, self.turns = conversation, random.Random(seed), turns
        self.answered = asyncio.Event()
        self.rows: list[dict[str, float]] = []
        self.last_packet_s = 0.0
        self.late_s = 0.0  # behind real time at the worst

    async def listen(self, counts_from_s: float) -> None:
        first_s = 0.0
        async for event in self.conversation:
            if event["type"] == "response.output_text.delta":
                first_s = first_s or time.perf_counter()
            elif event["type"] == "response.done":
                latency, said = event["wavllm_latency"], event["response"]["status"]
                if first_s and said == "completed" and time.perf_counter() > counts_from_s:
                    self.rows.append({**latency, "wire_ms": 1000 * (first_s - self.last_packet_s)})
                elif said == "failed":
                    raise RuntimeError(str(event["response"]["status_details"]))
                first_s = 0.0
                self.answered.set()

    async def speak(self, ends_s: float) -> None:
        chunk = len(QUIET)
        due_s = time.perf_counter() + self.rng.uniform(0, 3)
        pending = QUIET[:0]
        waits_s = 0.0  # silence still to come before the next turn
        self.answered.set()
        while due_s < ends_s:
            self.late_s = max(self.late_s, time.perf_counter() - due_s)
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            if not len(pending) and self.answered.is_set():
                waits_s = waits_s or self.rng.uniform(*THINKING_S)
                waits_s -= CHUNK_S
                if waits_s <= 0:
                    waits_s, pending = 0.0, self.rng.choice(self.turns)
                    self.answered.clear()
            packet, pending = pending[:chunk], pending[chunk:]
            await self.conversation.send_audio(np.concatenate([packet, QUIET[len(packet) :]]))
            self.last_packet_s = time.perf_counter()
            due_s += CHUNK_S


async def play(port: int, people: int, seconds: float) -> None:
    """The clients' process; prints its rows as JSON."""
    turns = recorded_people()
    ends_s, found = time.perf_counter() + seconds, []

    async def converse(seed: int) -> None:
        async with connect(f"ws://127.0.0.1:{port}/v1/realtime") as conversation:
            person = Person(conversation, seed, turns)
            found.append(person)
            listening = listeners.create_task(person.listen(time.perf_counter() + WARM_UP_S))
            await person.speak(ends_s)
            listening.cancel()

    async with asyncio.TaskGroup() as listeners, asyncio.TaskGroup() as speakers:
        for seed in range(people):
            speakers.create_task(converse(seed))
    late_ms = 1000 * max(person.late_s for person in found)
    print(json.dumps({"rows": [row for person in found for row in person.rows], "late_ms": late_ms}))


async def level(people: int, seconds: float, limits: EngineLimits) -> dict[str, Any]:
    """A server and so many people for so many seconds."""
    engine = LiveEngine.load(limits=limits)
    looks: list[Load] = []
    cpu_s, started_s = time.process_time(), time.perf_counter()
    said = await serve_clients(engine, people, seconds, looks.append, LOOK_EVERY_S)
    cores = (time.process_time() - cpu_s) / (time.perf_counter() - started_s)
    figures = await engine.load_figures()
    await engine.close()
    rows = said["rows"]
    return {
        "people": people,
        "turns": len(rows),
        "first_token_ms": spread([row["first_token_ms"] for row in rows]),
        "wire_ms": spread([row["wire_ms"] for row in rows]),
        "vad_wait_ms": spread([row["vad_wait_ms"] for row in rows]),
        "server_cores": cores,
        "queue_wait_ms": percentile([look.queue_wait_ms for look in looks], 0.5),
        "positions_filled": max(look.positions_filled for look in looks),
        "speculations": figures.speculations,
        "speculations_used": figures.speculations_used,
        "tokens_wasted": figures.tokens_wasted,
        "clients_late_ms": said["late_ms"],
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=40.0, help="of each level")
    options.add_argument("--levels", type=int, nargs="+", default=LEVELS)
    options.add_argument("--speculations", type=int, default=3, help="for one utterance; 0: none")
    args = options.parse_args()
    found = []
    for people in args.levels:
        speculation = SpeculationLimits(per_utterance=args.speculations)
        limits = EngineLimits(conversations=people + 1, threads=args.threads, speculation=speculation)
        found.append(asyncio.run(level(people, args.seconds, limits)))
    where = machine()
    announce(where)
    heads = ["conversations", "turns", "first token p50 ms", "p95", "p99", "cores of the server"]
    lines: list[list[object]] = []
    for row in found:
        ahead = f"{row['speculations_used']} of {row['speculations']}"
        shares = list(row["first_token_ms"].values())
        cores, wait_ms = f"{row['server_cores']:.2f}", row["queue_wait_ms"]
        lines.append([row["people"], row["turns"], *shares, cores, wait_ms, ahead, row["tokens_wasted"]])
    table([*heads, "queue wait ms", "answered ahead", "tokens wasted"], lines)
    print("first token: from the end of speech confirmed to the first token, by the server's clock; before it the")
    print(f"wait for the end of speech, p50 {found[0]['vad_wait_ms']['p50']:.0f} ms\n")
    save(args.out, "conversations", where, {"levels": found})
    drawn = {share: [(row["people"], row["first_token_ms"][share]) for row in found] for share in ("p50", "p95", "p99")}
    plot(args.out, "conversations", "Confirmed end of speech to first token", ("conversations", "milliseconds"), drawn)


if __name__ == "__main__":
    run_as(play, main)
