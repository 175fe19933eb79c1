from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.speech.alignment import Alignment


def spoken(*sentences: tuple[str, int]) -> Alignment:
    alignment = Alignment()
    for text, samples in sentences:
        alignment.begin(text)
        alignment.settle(samples)
        alignment.add(samples)
    return alignment


def after(end_ms: int, *sentences: tuple[str, int]) -> str:
    alignment = spoken(*sentences)
    alignment.truncate(end_ms)
    return alignment.text


def test_sentences_heard_whole_stay_and_those_not_heard_go() -> None:
    two = (("One latte. ", 24_000), ("Anything else?", 24_000))
    assert after(2_000, *two) == "One latte. Anything else?"
    assert after(1_000, *two) == "One latte. "
    assert after(0, *two) == ""


def test_within_a_sentence_words_stay_that_were_heard_to_their_end() -> None:
    one = ("ten chars and ten more", 22_000)  # a character lasts 1000 samples
    assert after(374, one) == "ten"
    assert after(375, one) == "ten chars"
    assert after(2, one) == ""


def test_what_has_no_sound_goes_with_what_is_before_it() -> None:
    mixed = (("Hm. ", 24_000), ("... ", 0), ("Yes.", 24_000), (" *", 0))
    assert after(1_000, *mixed) == "Hm. ... "
    assert after(500, *mixed) == ""
    assert after(2_000, *mixed) == "Hm. ... Yes. *"


def test_a_sentence_that_is_not_made_yet_is_measured_by_its_letters() -> None:
    alignment = Alignment()
    alignment.begin("fifteen letters or thirty in all")
    alignment.add(24_000)
    alignment.truncate(1_000)
    assert alignment.text == "fifteen letters"


def test_limits_are_told_in_whole_milliseconds_rounded_up() -> None:
    assert spoken(("a", 1)).sent_ms == 1
    assert spoken(("a", 24)).sent_ms == 1
    assert spoken(("a", 25)).sent_ms == 2


@given(
    st.lists(st.text("ab .", min_size=1, max_size=20), max_size=4),
    st.integers(1, 50),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_what_is_cut_twice_is_as_if_it_had_been_cut_once(
    texts: list[str], char_ms: int, first: int, second: int
) -> None:
    """As when a reply is broken off, and the client tells later how much of it was heard."""
    once, twice = (spoken(*((text, 24 * char_ms * len(text)) for text in texts)) for _ in range(2))
    ends_ms = sorted(once.sent_ms * tenths // 9 for tenths in (first, second))
    once.truncate(ends_ms[0])
    for end_ms in reversed(ends_ms):
        twice.truncate(end_ms)
    assert twice.text == once.text


@given(
    st.lists(st.tuples(st.text(alphabet="ab .", min_size=1, max_size=20), st.integers(0, 90_000)), max_size=5),
    st.lists(st.integers(0, 20_000), min_size=1, max_size=4),
)
def test_truncation_keeps_a_beginning_and_never_brings_anything_back(
    sentences: list[tuple[str, int]], ends_ms: list[int]
) -> None:
    alignment = spoken(*sentences)
    for end_ms in ends_ms:
        before, sent_before = alignment.text, alignment.sent_samples
        alignment.truncate(end_ms)
        assert before.startswith(alignment.text)
        assert alignment.sent_samples == min(sent_before, 24 * end_ms)
        again = alignment.text
        alignment.truncate(end_ms)
        assert alignment.text == again
