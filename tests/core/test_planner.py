"""What should stand in a conversation's slot, by what was said alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.core.test_engine import SHORT
from tests.core.tiny import tiny_checkpoint
from wavllm_core.engine.api import Exchange, Heard
from wavllm_core.engine.planner import Planner, RollingPrompts
from wavllm_core.prompt import PromptTemplate, Turn


def test_turns_of_many_long_conversations_are_tokenized_once(tmp_path: Path) -> None:
    template = PromptTemplate(tiny_checkpoint(tmp_path).tokenizer)
    encoded: list[str] = []
    encode = template.encode
    template.encode = lambda text: encoded.append(text) or encode(text)  # type: ignore[func-returns-value, method-assign]
    planner = Planner(RollingPrompts(template), 256)
    talks = [[Exchange(f"turn {n} of {talk}", reply="a mocha") for n in range(64)] for talk in range(32)]
    firsts = [planner.recent(past, own=20) for past in talks]
    assert any("turn 63 of 31" in text for text in encoded)
    encoded.clear()
    assert [planner.recent(past, own=20) for past in talks] == firsts
    assert not encoded


def test_instructions_stay_when_the_context_is_full(tmp_path: Path) -> None:
    """What is read is the template's prompt of the newest turns, the system prompt before and instructions behind."""
    checkpoint = tiny_checkpoint(tmp_path)
    template = PromptTemplate(checkpoint.tokenizer, "you are a barista")
    planner = Planner(RollingPrompts(template), 256)
    turns = [Turn(f"order number {i}", reply="three times a mocha") for i in range(40)]
    past, last = [Exchange(turn.text, reply=turn.reply) for turn in turns], Turn("one")
    keys = planner.plan([*past, Exchange("one")], "be short", SHORT.max_tokens).keys
    kept = planner.recent(past, own=20)
    assert 0 < len(kept) < len(turns) and kept == turns[-len(kept) :]
    assert keys == template.build(kept, last, "be short").before
    without, other = (template.build([], last, how).before for how in ("be short", "be brief"))
    opening = next(at for at, pair in enumerate(zip(without, other, strict=False)) if pair[0] != pair[1])
    assert keys[opening - len(without) :] == without[opening:] != other[opening:]


@pytest.mark.parametrize("system_prompt", ["", "you are a barista"])
def test_a_plan_is_the_prompt_of_the_template(tmp_path: Path, system_prompt: str) -> None:
    checkpoint = tiny_checkpoint(tmp_path)
    template = PromptTemplate(checkpoint.tokenizer, system_prompt)
    planner = Planner(RollingPrompts(template), 256)
    past = [Exchange(text="  three ", speaker=2, reply=" a mocha"), Exchange(text="unanswered"), Exchange(reply="é ")]
    turns = [Turn(old.text, speaker=old.speaker, reply=old.reply) for old in past]
    heard = Heard(torch.zeros(2, 32), np.ones(8, np.float32), 0.2, (-1, -2))
    for last in (Exchange(text=" typed"), Exchange(heard=heard, speaker=1)):
        turn = Turn(last.text, spoken=last.heard is not None, speaker=last.speaker)
        prompt = template.build(turns, turn, "be short")
        names = [-1, -2] if last.heard else []
        assert planner.plan([*past, last], "be short", 9).keys == [*prompt.before, *names, *prompt.after]
    assert planner.plan_listening(past, "be short").keys == prompt.before
