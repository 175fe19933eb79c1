from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.speech.sentences import MAX_SENTENCE_CHARS, read_sentences, sentence_end


async def pieces_of(text: str, size: int) -> AsyncGenerator[str, None]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


async def split(text: str, size: int = 10_000) -> list[str]:
    return [sentence async for sentence in read_sentences(pieces_of(text, size))]


@pytest.mark.parametrize(
    "sentences",
    [
        ["One latte. ", "Anything else? ", "Good!"],
        ["Dr. Smith paid 3.50 at 8 a.m. sharp. ", "He left."],
        ["He met J. Smith. ", "So did I. ", "Fine."],
        ["No. ", "There is none."],
        ["1. Grind the beans.\n", "2. Brew, approx. four minutes."],
        ['"Really?" she said. ', "Yes…  ", "(It was so.) ", "Ok"],
        ["no end at all, e.g. this"],
        ["A list:\n", "milk\n", "\noat milk\n"],
        ["好的。", "一杯拿铁！", "还要吗"],
        ["Well... perhaps."],
        ["Write to me@here.example or see v1.2.3 now. ", "Bye."],
    ],
)
async def test_where_sentences_end(sentences: list[str]) -> None:
    text = "".join(sentences)
    assert await split(text) == sentences
    assert await split(text, 1) == sentences


def test_a_sentence_is_certain_only_when_the_next_has_begun() -> None:
    assert sentence_end("One latte.") == 0
    assert sentence_end("One latte. ") == 0
    assert sentence_end("One latte. A") == len("One latte. ")
    assert sentence_end("One approx. a") == 0
    assert sentence_end("One latte.\n") == len("One latte.\n")
    assert sentence_end("") == sentence_end("  \n") == 0


async def test_what_never_ends_is_cut_at_a_comma_or_a_space_or_anywhere() -> None:
    spoken = await split("and so on, " + "word " * 100)
    assert spoken[0] == "and so on, "
    assert all(len(part) <= MAX_SENTENCE_CHARS for part in spoken)
    assert all(part.endswith(" ") for part in spoken)
    assert [len(part) for part in await split("x" * 500)] == [240, 240, 20]


@given(
    text=st.text(alphabet=st.sampled_from("abAB1 .,!?…\n\"')。Drmeg"), max_size=600) | st.text(max_size=400),
    size=st.integers(1, 50),
)
async def test_pieces_never_change_the_sentences(text: str, size: int) -> None:
    whole = await split(text)
    assert "".join(whole) == text
    assert await split(text, size) == whole
    assert all(0 < len(sentence) <= MAX_SENTENCE_CHARS for sentence in whole)
