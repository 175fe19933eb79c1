from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.voices.naming import name_speakers, with_names, with_numbers

NAMES = {1: "Anna", 12: "Dr. No", 3: "Jo"}


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        ("Speaker 1 did.", "Anna did."),
        ("what did speaker 12 order", "what did Dr. No order"),
        ("A mocha. Speaker 3 did, not speaker 1.", "A mocha. Jo did, not Anna."),
        ("speaker 2 did", "speaker 2 did"),
        ("loudspeaker 1, speaker 123, speakers", "loudspeaker 1, speaker 123, speakers"),
        ("", ""),
    ],
)
def test_numbers_become_names(numbers: str, names: str) -> None:
    assert with_names(numbers, NAMES) == names


def test_names_become_numbers_whole_and_in_any_case() -> None:
    assert with_numbers("Anna did. ANNA and joanna, for Jo's sake", NAMES) == (
        "Speaker 1 did. Speaker 1 and joanna, for speaker 3's sake"
    )
    assert with_numbers("where is dr. no", NAMES) == "where is speaker 12"
    assert with_numbers("1 and Anna", {1: "Anna", 2: "1"}) == "Speaker 2 and speaker 1"
    assert with_numbers("Anna", {}) == "Anna"


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("Irma", "ask ırma", "ask ırma"),  # letters that `re` takes for one, and that are none
        ("İlker", "ask ilker", "ask ilker"),
        ("İlker", "ask İLKER", "ask speaker 1"),
        ("Ωάσος", "ask ωάσοσ", "ask speaker 1"),
        ("Jos\u00e9", "ask jose\u0301", "ask speaker 1"),
        ("Jose\u0301", "ask JOS\u00c9", "ask speaker 1"),
        ("שרה", "ask שרה", "ask speaker 1"),
        ("🦊", "ask 🦊", "ask speaker 1"),
    ],
)
def test_names_of_any_script_become_numbers(name: str, written: str, read: str) -> None:
    assert with_numbers(written, {1: name}) == read


async def pieces(text: str, sizes: list[int]) -> AsyncGenerator[str, None]:
    start = 0
    for size in [*sizes, len(text)]:
        yield text[start : start + size]
        start += size


@given(
    words=st.lists(st.sampled_from(["speaker", "Speaker 1", "speaker 12", "s", "3", "spear", "did", "speaker 2"])),
    sizes=st.lists(st.integers(1, 9), max_size=30),
)
async def test_a_reply_in_pieces_is_named_like_the_whole(words: list[str], sizes: list[int]) -> None:
    text = " ".join(words)
    named = [piece async for piece in name_speakers(pieces(text, sizes), NAMES)]
    assert "".join(named) == with_names(text, NAMES)


async def test_what_cannot_be_a_speaker_does_not_wait() -> None:
    written = [piece async for piece in name_speakers(pieces("A latte. How", [3, 3, 3]), NAMES)]
    assert written == ["A l", "att", "e. ", "How"]
