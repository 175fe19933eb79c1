"""How answers are read: the published styles, and the ones that lead astray."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavllm_core.errors import InputError
from wavllm_core.tasks import (
    CHAIN_OF_THOUGHT,
    EMOTIONS,
    OPENERS,
    READERS,
    SEGMENT_BREAK,
    TASKS,
    Chain,
    Segment,
    find_task,
    many_instructions,
    multiple_choice,
    read_chain,
    read_emotion,
    read_letter,
    read_options,
    read_segments,
    read_yes_no,
    task_of_split,
)

LETTERS = st.sampled_from("ABC")
WORDS = st.text("abcdefghijklmnopqrstuvwxyz ", min_size=1).map(str.strip).filter(bool)
STYLES = (
    "{0}", "{0}.", "({0})", "{0})", "**{0}**", '"{0}"', "The answer is: {0}", "The answer is {0}.", "Answer: ({0})",
    "The correct answer is option {0}.", "I would choose {0}", "{0} is the correct answer", "({0}) is right, I think.",
    "Addressing the prompt, the answer is: {0}", "The answer to the question is {0} because they said so",
    "{0}. He is late.", "{0}) He is late", "{0}: late", "Option {0} is what they say",
    "{0} because the man has no time.", "It is not D but {0}.", "It isn't D, the answer is {0}",
)  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("letter", "ABC")
def test_a_letter_is_read_in_every_style(style: str, letter: str) -> None:
    assert read_letter(style.format(letter)) == letter


@pytest.mark.parametrize(
    "style", ["{0}", "{0}.", "({0})", "{0})", "{0}) he is late", "the answer is: {0}", "It is ({0})"]
)
def test_a_small_letter_is_read_where_it_cannot_be_an_article(style: str) -> None:
    assert read_letter(style.format("a")) == "A"


@pytest.mark.parametrize(
    "answer",
    [
        "", "   ", "A man is speaking about the weather", "The answer is a mystery", "He has a plan", "At 5 A.M. sharp",
        "A or B", "A and B are both possible", "A. At home; B. At work; C. At school",
        "The answer is A. The answer is B.", "E", "I don't know",
        "Because", "Could be anything", "the USA", "DC", "Not A.", "He said it's cold",
    ],
)  # fmt: skip
def test_no_letter_is_made_up(answer: str) -> None:
    assert read_letter(answer) is None


def test_a_letter_must_be_among_the_options() -> None:
    options = {"A": "At home", "B": "Vitamin C", "C": "At work"}
    assert read_letter("D", options) is None
    assert read_letter("at work.", options) == "C"
    assert read_letter("Vitamin C.", options) == "B"  # the words of an option go before a letter in them
    assert read_letter("The answer is: at home", options) == "A"
    assert read_letter("She says she is at home today", options) is None
    assert read_letter("At home or at work", options) is None


@given(letter=LETTERS, style=st.sampled_from(STYLES), around=st.sampled_from(["", " ", "\n", "  \t"]))
def test_space_around_an_answer_changes_nothing(letter: str, style: str, around: str) -> None:
    assert read_letter(around + style.format(letter) + around) == letter


@given(text=st.text())
def test_readers_take_any_text(text: str) -> None:
    for read in READERS.values():
        assert read(text, text) in {None, True, False, *"ABCD", *EMOTIONS}
    read_chain(text)
    assert all(segment.content or segment.announcement for segment in read_segments(text))


@given(
    question=WORDS,
    options=st.lists(WORDS, min_size=3, max_size=4),
    separator=st.sampled_from(["; ", ". ", ", ", " ", ";"]),
)
def test_options_come_back_from_a_prompt(question: str, options: list[str], separator: str) -> None:
    listed = separator.join(f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=False))
    assert read_options(f"{question}? {listed}") == dict(zip("ABCD", options, strict=False))
    assert read_options(multiple_choice(question, options)) == dict(zip("ABCD", options, strict=False))


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("When? A. At 5 A.M.; B. At 6 P.M.; C. At 7 a.m.", ["At 5 A.M", "At 6 P.M", "At 7 a.m"]),
        ("Which is plan A. or B? A. One. B. Two. C. Three.", ["One", "Two", "Three"]),
        ("What’s “it”? A. It’s late; B. “Go”; C. He’s out", ["It’s late", "Go”", "He’s out"]),
        ("Who? A．Tom；B．Ann；C．Jim。", ["Tom", "Ann", "Jim"]),
        ("Who? (A) Tom (B) A nurse (C) Jim", ["Tom", "A nurse", "Jim"]),
        ("Who? A.Tom,B.Ann,C.A Ph.D. student", ["Tom", "Ann", "A Ph.D. student"]),
        ("Who? A. Tom; B. Ann", []),
        ("Who? B. Tom; A. Ann; C. Jim", []),
        ("", []),
    ],
)
def test_options_in_the_forms_of_the_list(prompt: str, options: list[str]) -> None:
    assert list(read_options(prompt).values()) == options


@pytest.mark.parametrize(
    ("answer", "one"),
    [
        ("Yes, there is only one speaker in the audio clip", True),
        ("yes", True),
        ("Yes.", True),
        ("The answer is: yes", True),
        ("There is only one speaker.", True),
        ("I hear a single voice.", True),
        ("There isn't another speaker.", True),
        ("No other speaker is heard.", True),
        ("No doubt there is one person.", True),
        ("It is the same speaker throughout", True),
        ("In this 22-second clip there is one speaker", True),
        ("For two seconds one speaker is heard.", True),
        ("Yes one speaker", True),
        ("I hear two different English speakers", False),
        ("A second voice joins", False),
        ("No, there are two speakers in the audio clip.", False),
        ("no", False),
        ("\u201cNo\u201d", False),
        ("There are two speakers.", False),
        ("There is more than one speaker", False),
        ("There isn’t only one speaker", False),
        ("Different speakers are heard", False),
        ("", None),
        ("Yes and no", None),
        ("Nobody can tell", None),
        ("it was a cold day", None),
    ],
)
def test_one_speaker_or_not(answer: str, one: bool | None) -> None:
    assert read_yes_no(answer) is one


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("sad", "sad"),
        ("The emotion of the speaker is happy.", "happy"),
        ("ANGRY!", "angry"),
        ("The speaker expresses anger", "angry"),
        ("He isn't happy, he is sad", "sad"),
        ("not very happy, neutral", "neutral"),
        ("sad rather than angry", "sad"),
        ("happy or sad", None),
        ("not happy", None),
        ("unhappy", None),
        ("saddle", None),
        ("", None),
    ],
)
def test_emotions(answer: str, label: str | None) -> None:
    assert read_emotion(answer) == label


def test_segments_and_what_announces_them() -> None:
    answer = SEGMENT_BREAK.join(
        [
            "Here's the text from the audio recording: i don't know he said: it is late",
            "Addressing the prompt 'What is it: A. x; B. y', the answer is: C",
            "The response to “how: so?” is: 42",
            "Continuing the story, we have: at 10:30 they left",
            "it is 10:30 already",
        ]
    )
    assert read_segments(answer) == [
        Segment("Here's the text from the audio recording", "i don't know he said: it is late"),
        Segment("Addressing the prompt 'What is it: A. x; B. y', the answer is", "C"),
        Segment("The response to “how: so?” is", "42"),
        Segment("Continuing the story, we have", "at 10:30 they left"),
        Segment("", "it is 10:30 already"),
    ]
    assert read_segments("one\ntwo") == read_segments(r"one\ntwo") == read_segments(r"one\n\n two \n")
    assert read_segments("The answer is:") == [Segment("The answer is", "")]
    assert read_segments("") == read_segments(r"\n") == []


@given(parts=st.lists(WORDS, min_size=1, max_size=5))
def test_segments_come_back(parts: list[str]) -> None:
    said = SEGMENT_BREAK.join(f"Part {i}: {text}" for i, text in enumerate(parts))
    assert read_segments(said) == [Segment(f"Part {i}", text) for i, text in enumerate(parts)]


@given(steps=st.tuples(WORDS, WORDS, WORDS))
def test_a_chain_comes_back(steps: tuple[str, str, str]) -> None:
    one, two, three = steps
    style = (
        "The audio transcription is: {}; The audio clip have been summarized as follows: {}; The translation is: **{}**"
    )
    assert read_chain(style.format(*steps)) == Chain(one, two, three)
    assert read_chain(style.replace("**", "").format(*steps)) == Chain(one, two, three)


def test_chains_that_break_off() -> None:
    assert read_chain("Ein Haus") == Chain("", "", "Ein Haus")
    assert read_chain("The text is: a; b; The summary is: c") == Chain("a; b", "c", "")
    assert read_chain("**eins** then **zwei**") == Chain("", "", "zwei")
    assert read_chain("") == Chain("", "", "")


def test_tasks_and_their_lists() -> None:
    assert [task_of_split(name) for name in ("gaokao", "en2de", "CoT-task-story", "mine")] == ["sqa", "st", "cot", ""]
    assert find_task("cot").prompt == CHAIN_OF_THOUGHT and find_task("sqqa").prompt == ""
    with pytest.raises(InputError, match="'asq' is none of asr, st, sv, er, sqa, sqqa, ii, cot"):
        find_task("asq")
    assert set(READERS) <= set(TASKS)
    assert many_instructions(["do a", "do b"]) == "To begin, do a; Lastly, do b."
    assert many_instructions(["a"] * 4).count(";") == len(OPENERS) - 1
