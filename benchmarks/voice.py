"""How soon a reply is heard: from its first sentence being written to its first audio.

First the voice alone, one sentence at a time. Then spoken replies of the shipped model through a real server: in
another process people type questions, each in a conversation of their own and all at once, and listen to the answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from _report import announce, machine, parser, save, spread, table

from agent.config import AgentConfig
from agent.speech.voice import BYTES_PER_S, Voice, find_voice
from agent.transport.server import serve
from clients.realtime import connect
from wavllm_core.engine.core import EngineLimits
from wavllm_core.engine.live import LiveEngine

TARGET_MS = 150
LEVELS = (1, 4, 8, 16)
SENTENCES = (
    "Yes.",
    "You ordered a large mocha.",
    "You ordered a large mocha with whole milk and dark roast, and an espresso with lots of almond milk.",
    "You ordered a large mocha with whole milk and dark roast, and an espresso with lots of almond milk, and then the "
    "other voice said three and four, of which only the history can tell what they are, so I count them as coffees.",
)
QUESTIONS = ("what did i order", "who are you", "how many coffees", "turn on the lights")


async def speak(voice: Voice, text: str) -> tuple[float, float, float]:
    """Milliseconds to the first audio and to the last, and seconds of audio."""
    began_s, first_s, size = time.perf_counter(), 0.0, 0
    async with aclosing(voice.speak(text)) as pieces:
        async for pcm in pieces:
            first_s = first_s or time.perf_counter()
            size += len(pcm)
    return 1000 * (first_s - began_s), 1000 * (time.perf_counter() - began_s), size / BYTES_PER_S


async def alone(voice: Voice, times: int) -> list[dict[str, Any]]:
    rows = []
    for text in SENTENCES:
        found = [await speak(voice, text) for _ in range(times)]
        first_ms, whole_ms, seconds = zip(*found, strict=True)
        rows.append(
            {
                "characters": len(text),
                "audio_s": round(seconds[0], 2),
                "first_ms": spread(first_ms),
                "whole_ms": spread(whole_ms),
            }
        )
    return rows


async def listen(port: int, people: int, turns: int) -> None:
    """The clients' process; prints a row for each reply as JSON."""
    rows: list[dict[str, float]] = []

    async def converse() -> None:
        async with connect(f"ws://127.0.0.1:{port}/v1/realtime", spoken=True) as conversation:
            asked, written_s, heard_s = 0, 0.0, 0.0
            await conversation.send_text(QUESTIONS[0])
            async for event in conversation:
                kind = event["type"]
                if kind == "response.output_audio_transcript.delta":
                    written_s = written_s or time.perf_counter()
                elif kind == "response.output_audio.delta":
                    heard_s = heard_s or time.perf_counter()
                elif kind == "response.done":
                    latency = event["wavllm_latency"]
                    if asked:  # the first turn is the warm-up
                        server_ms = latency["first_audio_ms"] - latency["first_sentence_ms"]
                        rows.append({**latency, "server_ms": server_ms, "wire_ms": 1000 * (heard_s - written_s)})
                    asked, written_s, heard_s = asked + 1, 0.0, 0.0
                    if asked > turns:
                        return
                    await conversation.send_text(QUESTIONS[asked % len(QUESTIONS)])
                elif kind == "error":
                    raise RuntimeError(event["error"]["message"])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(people):
            tasks.create_task(converse())
    print(json.dumps(rows))


async def level(people: int, turns: int, threads: int) -> dict[str, Any]:
    """A server and so many people with so many turns each."""
    engine = LiveEngine.load(limits=EngineLimits(conversations=people + 1, threads=threads))
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = AgentConfig()
    config = replace(config, server=replace(config.server, port=0, max_sessions=people))
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve(config, engine, on_ready=ready.set_result))
        command = [sys.executable, __file__, "--listen", str(await ready), str(people), str(turns)]
        client = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await client.communicate()
        server.cancel()
    await engine.close()
    if client.returncode:
        raise RuntimeError(f"the clients ended with status {client.returncode}")
    rows = json.loads(output)
    names = ("server_ms", "wire_ms", "first_token_ms", "first_audio_ms")
    return {
        "people": people,
        "replies": len(rows),
        "within": sum(row["server_ms"] <= TARGET_MS for row in rows),
        **{name: spread([row[name] for row in rows]) for name in names},
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=12, help="of each person")
    options.add_argument("--levels", type=int, nargs="+", default=LEVELS)
    args = options.parse_args()
    voice = find_voice(AgentConfig().voice)
    assert voice
    sentences = asyncio.run(alone(voice, times=20))
    found = [asyncio.run(level(people, args.turns, args.threads)) for people in args.levels]
    where = machine()
    announce(where)
    heads = ["characters", "audio s", "first audio p50 ms", "p95", "all audio p50 ms", "p95"]
    rows = [
        [
            row["characters"],
            row["audio_s"],
            *(row[name][share] for name in ("first_ms", "whole_ms") for share in ("p50", "p95")),
        ]
        for row in sentences
    ]
    table(heads, rows)
    heads = ["conversations", "replies", "sentence to audio p50 ms", "p95", "p99", f"within {TARGET_MS} ms"]
    heads += ["at the client p50 ms", "p95", "question to audio p50 ms", "p95"]
    rows = [
        [
            row["people"],
            row["replies"],
            *row["server_ms"].values(),
            f"{100 * row['within'] / row['replies']:.0f} %",
            *(row[name][share] for name in ("wire_ms", "first_audio_ms") for share in ("p50", "p95")),
        ]
        for row in found
    ]
    table(heads, rows)
    save(args.out, "voice", where, {"sentences": sentences, "levels": found})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--listen"]:
        asyncio.run(listen(*map(int, sys.argv[2:5])))
    else:
        main()
