"""Typed questions that only the history answers: one list for all versions of the model, so that they compare.

`history.jsonl` holds 200 conversations of up to two people that `train/dialogue.py` made up when nano had its second
version: earlier turns (a text may be empty, where there was no transcript), a question, and the one right reply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from wavllm_core.engine.api import Exchange


@dataclass(frozen=True)
class Question:
    """A question, what went before, and the right reply."""

    history: tuple[Exchange, ...]
    asked: Exchange
    reply: str


def questions() -> Iterator[Question]:
    """All of the list, in order."""
    for line in files("wavllm_core.evaluate").joinpath("history.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        past = tuple(Exchange(turn["text"], speaker=turn["speaker"], reply=turn["reply"]) for turn in row["history"])
        yield Question(past, Exchange(row["question"], speaker=row["speaker"]), row["reply"])
