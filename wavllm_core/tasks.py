"""The tasks WavLLM was published with: how each is asked for, and how an answer is read.

Text in, values out. Knows no model and no metric; `evaluate/scores.py` counts what is read here.
A reader returns None for an answer that says nothing, or two things at once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from wavllm_core.errors import InputError
from wavllm_core.prompt import TRANSCRIBE

SEGMENT_BREAK = r"\n"  # between the answers to many instructions: a backslash and an n, two characters
OPENERS = ("To begin", "Subsequently", "Furthermore", "Lastly")
EMOTIONS = {  # the published four, and four more that RAVDESS has
    "neutral": ("neutral",),
    "happy": ("happy", "happiness"),
    "sad": ("sad", "sadness"),
    "angry": ("angry", "anger"),
    "calm": ("calm", "calmness"),
    "fearful": ("fearful", "fear"),
    "disgust": ("disgust", "disgusted"),
    "surprised": ("surprised", "surprise"),
}
CHAIN_OF_THOUGHT = (
    "First of all, transcribe the audio recording into text, capturing every spoken word; Additionally given this "
    "audio clip and text, can you condense it into a clear, concise summary, no more than 20 words?; Lastly "
    "disregarding the sound, translate this English summary into German."
)


@dataclass(frozen=True)
class Task:
    """One task: its name in manifests, its published prompt, and what its answers are judged by."""

    name: str
    title: str
    prompt: str  # empty: every item brings its own, or the question is in the audio
    metric: str
    splits: tuple[str, ...]  # the published lists of this task, by file name


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("asr", "speech recognition", TRANSCRIBE, "WER", ("asr",)),
        Task("st", "speech translation", "Translate the audio clip into German.", "BLEU", ("en2de",)),
        Task("sv", "one speaker or not", "Is there only one speaker in the audio clip?", "accuracy, EER", ("sv",)),
        Task(
            "er",
            "emotion",
            "Can you describe the emotional condition of the speaker in the provided audio clip?",
            "accuracy",
            ("emo",),
        ),
        Task("sqa", "multiple choice about the audio", "", "accuracy", ("SQA", "gaokao")),
        Task("sqqa", "spoken question", "", "share that contains the target", ("SQQA",)),
        Task("ii", "many instructions at once", "", "instruction-following rate, accuracy", ("II-task",)),
        Task("cot", "chain of thought", CHAIN_OF_THOUGHT, "BLEU of the last step", ("CoT-task", "CoT-task-story")),
    )
}


def find_task(name: str) -> Task:
    """Raises InputError that lists the names there are."""
    if name not in TASKS:
        raise InputError(f"task: {name!r} is none of {', '.join(TASKS)}")
    return TASKS[name]


def task_of_split(split: str) -> str:
    """The task of a published list by its file name without suffix; empty for any other list."""
    return next((task.name for task in TASKS.values() if split in task.splits), "")


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """A question and its options in one line: `Q? A. x; B. y; C. z`."""
    return f"{question} " + "; ".join(f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=False))


def many_instructions(instructions: Sequence[str]) -> str:
    """Two to four instructions as one prompt, opened as the published ones are."""
    openers = [*OPENERS[: len(instructions) - 1], OPENERS[-1]]
    return "; ".join(f"{opener}, {text}" for opener, text in zip(openers, instructions, strict=True)) + "."


def plain(text: str) -> str:
    """The same text with one form for each quote and width, and `not` written out; what the readers search."""
    same = unicodedata.normalize("NFKC", text).translate(_QUOTES).strip()
    return re.sub(r"n't\b", " not", same)


_QUOTES = str.maketrans("‘’‚‛`“”„‟", "'" * 5 + '"' * 4)

# Multiple choice

_LABEL = re.compile(
    r"(?<![\w'])(?<![A-Z]\.)(?<!Ph\.)(?P<open>\()?(?P<letter>[A-D])\s?(?(open)\)|[.):、])(?![A-Za-z]\.)"
)
_LOWER_LABEL = re.compile(r"^([a-d])[.):] |(?<!\w)\(([a-d])\)")
_DENIED = re.compile(r"\b[Nn]ot\s+(?:option\s+)?\(?[A-D]\)?(?!\w)")
_IS = r"(?:\s+(?:is|was|would be|should be|must be))?(?:\s+(?:option|choice))?\s*:?\s*"
_LETTER = r"""["'(\[]*(?:([A-D])(?!\w|'\w)|([a-d])(?=\s*(?:[.)\]"':;,]|$)))"""
_ANNOUNCED = (  # the surest first
    re.compile(rf"(?i:\banswers?(?: to (?:the|this) question)?{_IS}){_LETTER}"),
    re.compile(r"(?<![\w'])\(?([A-D])\)? is (?:the )?(?:correct|right|best|answer)"),
    re.compile(rf"(?i:\b(?:option|choice){_IS}){_LETTER}"),
)
_INTRODUCED = re.compile(r"^.*\banswer(?: is)?\s*:?\s+", re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(r"""["'(\[]*([A-Da-d])[)\]"'.:;,!]*""")
_BARE = re.compile(r"(?<![\w'.])(?:([B-D])(?![\w']|\.\w)|(A)(?![\w']|\.\w|\s+(?!(?:and|or|because|since|as|is)\b)\w))")


def read_options(prompt: str) -> dict[str, str]:
    """The options of a multiple-choice prompt by letter; empty where A, B and C do not follow each other.

    Whatever separates the options is left out: `; ` mostly, other punctuation or a space in some items.
    """
    text = unicodedata.normalize("NFKC", prompt)
    labels = list(_LABEL.finditer(text))
    chosen: list[re.Match[str]] = []
    for letter in "CBA":  # from behind: a question may well name a letter, the option before a label seldom
        before = chosen[0].start() if chosen else len(text)
        found = [label for label in labels if label["letter"] == letter and label.start() < before]
        if not found:
            return {}
        chosen.insert(0, found[-1])
    chosen += [label for label in labels if label["letter"] == "D" and label.start() > chosen[-1].end()][:1]
    ends = [label.start() for label in chosen[1:]] + [len(text)]
    texts = (text[label.end() : end] for label, end in zip(chosen, ends, strict=True))
    return {
        label["letter"]: re.sub(r"^\W+|[\s;,.:|/。、]+$", "", text) for label, text in zip(chosen, texts, strict=True)
    }


def read_letter(answer: str, options: Mapping[str, str] | None = None) -> str | None:
    """The letter an answer chooses: `C`, `(c)`, `C. He is late`, `The answer is: C`, or the words of one option.

    An article is no letter: `A man speaks` chooses nothing. A letter that is not among the options is none either.
    """
    options = options or dict.fromkeys("ABCD", "")
    text = re.sub(r"\*\*|__", "", plain(answer))
    if alone := _ALONE.fullmatch(text):
        return _only([alone[1]], options)
    said = words(_INTRODUCED.sub("", text))
    if equal := [letter for letter, option in options.items() if said and words(option) == said]:
        return _only(equal, options)
    affirmed = _DENIED.sub(" ", text)
    for pattern in (*_ANNOUNCED, _LABEL, _LOWER_LABEL):
        if found := list(pattern.finditer(affirmed)):
            return _only(map(_last_group, found), options)
    return _only(map(_last_group, _BARE.finditer(affirmed)), options)


def _last_group(match: re.Match[str]) -> str:
    return [group for group in match.groups() if group][-1]


def _only(letters: Iterable[str], options: Mapping[str, str]) -> str | None:
    different = {letter.upper() for letter in letters}
    return different.pop() if len(different) == 1 and different <= options.keys() else None


def words(text: str) -> str:
    """Lower-case words with single spaces between them."""
    return " ".join(re.findall(r"[^\W_]+", plain(text).lower()))


# Yes or no, emotions

_SAID = re.compile(
    r"""(?:^|\banswer(?: is)?\s*:?\s*)["'*(]*(yes|no|true|false)\b(?! doubt| other| second| one| and no\b| or no\b)"""
)
_NO_OTHER = re.compile(r"\b(?:no|not|without)\s+(?:any |a )?(?:other|another|second|more than one)\b")
_PEOPLE = r"(?:\W+(?!one\b|single\b)\w+){0,3}?\W+(?:speakers?|voices?|people|persons?)\b"
_MANY = re.compile(
    r"\b(?:more than one|not (?:only|just) (?:one|a single)|two|three|four|several|multiple|different|another|"
    rf"not the same){_PEOPLE}|\bsecond (?:speaker|voice|person)\b|\b(?:speakers|voices) are (?:different|not the same)"
)
_ONE = re.compile(rf"\b(?:one|single|the same){_PEOPLE}")


def read_yes_no(answer: str) -> bool | None:
    """Whether an answer says that one speaker alone is heard."""
    text = plain(answer).lower()
    if said := _SAID.search(text):
        return said[1] in ("yes", "true")
    if _NO_OTHER.search(text):
        return True
    if _MANY.search(text):
        return False
    return True if _ONE.search(text) else None


def read_emotion(answer: str) -> str | None:
    """The one label of EMOTIONS an answer names; `not happy` does not name happy."""
    denial = r"\b(?:not|neither|nor|no|rather than|instead of)\s+(?:(?:\w+ly|very|so|too)\s+)?\w+"
    text = re.sub(denial, " ", plain(answer).lower())
    named = {label for label, forms in EMOTIONS.items() if re.search(rf"\b(?:{'|'.join(forms)})\b", text)}
    return named.pop() if len(named) == 1 else None


# Answers of many parts

_QUOTED = re.compile(r"""(?<!\w)(?:'.*?'|".*?")(?!\w)""")
_STEP = re.compile(r"(?:^|;\s*|\n\s*|\\n\s*)The [^:;*\n]{1,80}:(?=\s)")
_BOLD = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)


@dataclass(frozen=True)
class Segment:
    """The answer to one of many instructions: `Here's the text from the audio recording: it was late`."""

    announcement: str  # before the colon; empty where the segment has none
    content: str


def read_segments(answer: str) -> list[Segment]:
    """The parts of an answer to many instructions, in order; a true line break parts them as the written one does."""
    lines = (line.strip() for line in answer.replace(SEGMENT_BREAK, "\n").split("\n"))
    return [_segment(line) for line in lines if line]


def _segment(line: str) -> Segment:
    # A colon inside a quoted question announces nothing, so quoted text is hidden from the search.
    hidden = _QUOTED.sub(lambda quoted: "_" * len(quoted[0]), line.translate(_QUOTES))
    colon = re.search(r"(?<=\S):(?=\s|$)", hidden)
    if colon is None:
        return Segment("", line)
    return Segment(line[: colon.start()], line[colon.end() :].strip())


@dataclass(frozen=True)
class Chain:
    """The steps of a chain of thought; empty for a step that is not there."""

    transcript: str
    summary: str
    translation: str


def read_chain(answer: str) -> Chain:
    """Transcript, summary and translation, each announced (`The audio transcription is: ...; The ...`).

    The translation is what stands in **...** last, else the third step; an answer that announces
    nothing is all translation.
    """
    steps = [step.strip(" ;") for step in _STEP.split(answer.strip())[1:]]
    bold = _BOLD.findall(answer)
    if not steps and not bold:
        return Chain("", "", answer.strip())
    transcript, summary, third = [*steps, "", "", ""][:3]
    return Chain(transcript, summary, bold[-1].strip() if bold else third.strip("* "))


READERS: Mapping[str, Callable[[str, str], object]] = {  # of tasks with one right value: answer, prompt -> value
    "sv": lambda answer, _: read_yes_no(answer),
    "er": lambda answer, _: read_emotion(answer),
    "sqa": lambda answer, prompt: read_letter(answer, read_options(prompt)),
}
