"""From the answers to a list to figures, task by task, each with an interval and a trivial baseline beside it.

`wavllm_core/tasks.py` reads answers, `metrics.py` computes; here it is decided what counts. An answer that is
missing or cannot be read is a wrong one; a target that cannot be read is named and not scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from wavllm_core.errors import InputError
from wavllm_core.evaluate.answers import Answer
from wavllm_core.evaluate.metrics import (
    BOOTSTRAP,
    Estimate,
    Integers,
    bleu,
    bleu_counts,
    bleu_metric,
    equal_error_rate,
    estimate,
    normalise,
    word_errors,
)
from wavllm_core.evaluate.report import WORDS_COMPARED
from wavllm_core.tasks import READERS, TASKS, Segment, find_task, read_chain, read_letter, read_segments, words

NO_WORDS = "(no words)"
INSTRUCTION_FOLLOWING = (
    "Instruction-following rate: of all instructions, as many as the target has segments, the share whose segment is "
    "in its place, not empty, and announced (words and a colon) where the target's is."
)
MAX_LISTED = 20


@dataclass
class Scores:
    """What a report says."""

    figures: dict[str, Estimate] = field(default_factory=dict)
    baselines: dict[str, str] = field(default_factory=dict)  # by figure
    notes: list[str] = field(default_factory=list)
    without_answer: list[str] = field(default_factory=list)  # items, and why; counted as wrong
    not_scored: list[str] = field(default_factory=list)  # likewise; counted nowhere

    def remarks(self) -> list[str]:
        """What stands below the table: the notes, and the items that went wrong."""
        lines = list(self.notes)
        for what, items in (
            ("Without an answer, and counted as wrong", self.without_answer),
            ("Not scored", self.not_scored),
        ):
            if items:
                lines += ["", f"{what}: {len(items)}", "", *(f"- {item}" for item in items[:MAX_LISTED])]
                lines += [f"- and {len(items) - MAX_LISTED} more"] * (len(items) > MAX_LISTED)
        return lines

    def add(self, name: str, value: Estimate, baseline: str = "") -> None:
        """One row of the table."""
        self.figures[name] = value
        if baseline:
            self.baselines[name] = baseline


def score(answers: Sequence[Answer], task: str = "") -> Scores:
    """Every figure of the report.

    task: of answers that do not tell theirs
    Raises InputError when no answer can be scored.
    """
    scores = Scores()
    by_task: dict[str, list[Answer]] = {name: [] for name in TASKS}
    for answer in answers:
        told = replace(answer, task=answer.task or task)
        if fault := _unfit(told):
            scores.not_scored.append(f"{told.id}: {fault}")
        else:
            by_task[told.task].append(told)
            if told.problem:
                scores.without_answer.append(f"{told.id}: {told.problem}")
    if not any(by_task.values()):
        raise InputError(f"none of {len(answers)} answers can be scored; the first: {scores.not_scored[0]}")
    for name, given in by_task.items():
        if given:
            _SCORERS[name](given, scores)
    scores.notes.append(f"Intervals: {BOOTSTRAP}.")
    return scores


def _unfit(answer: Answer) -> str:
    """Why an answer cannot be scored; empty if it can."""
    if not answer.task:
        return "no task: name it with --task, or in a column task"
    try:
        title = find_task(answer.task).title
    except InputError as error:
        return str(error)
    if answer.task in READERS:
        readable = READERS[answer.task](answer.target, answer.prompt) is not None
    else:
        readable = bool(_TARGETS[answer.task](answer.target))
    return "" if readable else f"target: {answer.target[:60]!r} does not answer: {title}"


def _words(given: Sequence[Answer], scores: Scores) -> None:
    edits, lengths = word_errors([one.target for one in given], [one.answer for one in given])
    scores.add("asr, WER", _ratio(edits, lengths), f"100.0 {NO_WORDS}")
    scores.notes.append(WORDS_COMPARED)


def _translation(given: Sequence[Answer], scores: Scores) -> None:
    _bleu("st, BLEU", [(one.target, one.answer) for one in given], scores)


def _bleu(name: str, pairs: Sequence[tuple[str, str]], scores: Scores) -> None:
    references, guesses = zip(*pairs, strict=True)
    metric = bleu_metric(references)
    counts = bleu_counts(metric, references, guesses)
    scores.add(name, estimate(len(counts), lambda drawn: bleu(counts[drawn])), f"0.0 {NO_WORDS}")
    scores.notes.append(f"{name}: sacrebleu {metric.get_signature()}.")


def _values(given: Sequence[Answer], scores: Scores) -> None:
    """Accuracy, where one value is right."""
    name = given[0].task
    read = READERS[name]
    wanted = [read(one.target, one.prompt) for one in given]
    said = [read(one.answer, one.prompt) for one in given]
    scores.add(f"{name}, accuracy", _share(a == b for a, b in zip(wanted, said, strict=True)), _most_frequent(wanted))
    scores.add(f"{name}, answers that can be read", _share(value is not None for value in said))


def _verification(given: Sequence[Answer], scores: Scores) -> None:
    _values(given, scores)
    scored = [(one.score, READERS["sv"](one.target, "")) for one in given if one.score is not None]
    likely = np.array([value for value, _ in scored])
    same = np.array([bool(one) for _, one in scored], dtype=bool)
    if not scored or same.all() or not same.any():
        return

    def error(drawn: Integers) -> float:
        one_kind = same[drawn].all() or not same[drawn].any()
        return float("nan") if one_kind else equal_error_rate(likely[drawn], same[drawn])[0]

    scores.add("sv, EER", estimate(len(scored), error), "50.0 (chance)")


def _spoken_question(given: Sequence[Answer], scores: Scores) -> None:
    wanted = [words(one.target) for one in given]
    holds = (f" {text} " in f" {words(one.answer)} " for text, one in zip(wanted, given, strict=True))
    scores.add("sqqa, answers that contain the target", _share(holds), _most_frequent(wanted))
    scores.notes.append("sqqa: the target's words, one after the other, stand in the answer; no judge reads it.")


def _many_instructions(given: Sequence[Answer], scores: Scores) -> None:
    pairs = [(read_segments(one.target), read_segments(one.answer)) for one in given]
    followed = [sum(map(follows, wanted, said)) for wanted, said in pairs]
    asked = [len(wanted) for wanted, _ in pairs]
    first_alone = 100 * len(given) / sum(asked)
    scores.add(
        "ii, instruction-following rate", _ratio(followed, asked), f"{first_alone:.1f} (the first segment alone)"
    )
    scores.notes.append(INSTRUCTION_FOLLOWING)
    chosen = [list(choices(wanted, said)) for wanted, said in pairs]
    chosen = [letters for letters in chosen if letters]
    if chosen:
        right = [sum(a == b for a, b in letters) for letters in chosen]
        baseline = _most_frequent([wanted for letters in chosen for wanted, _ in letters])
        scores.add("ii, multiple-choice accuracy", _ratio(right, [len(letters) for letters in chosen]), baseline)


def follows(wanted: Segment, said: Segment) -> bool:
    """Whether a segment is there, and announced where the wanted one is."""
    return bool(said.content) and bool(said.announcement or not wanted.announcement)


def choices(wanted: Sequence[Segment], said: Sequence[Segment]) -> Iterable[tuple[str, str | None]]:
    """The letters wanted and given, of segments whose target is a letter and nothing else."""
    for place, segment in enumerate(wanted):
        letter = read_letter(segment.content) if len(words(segment.content)) == 1 else None
        if letter:
            yield letter, read_letter(said[place].content) if place < len(said) else None


def _chains(given: Sequence[Answer], scores: Scores) -> None:
    pairs = [(read_chain(one.target), read_chain(one.answer)) for one in given]
    _bleu("cot, BLEU of the last step", [(wanted.translation, said.translation) for wanted, said in pairs], scores)
    scores.add("cot, all three steps given", _share(all((s.transcript, s.summary, s.translation)) for _, s in pairs))
    spoken = [(wanted.transcript, said.transcript) for wanted, said in pairs if normalise(wanted.transcript)]
    if spoken:
        edits, lengths = word_errors(*zip(*spoken, strict=True))
        scores.add("cot, WER of the first step", _ratio(edits, lengths), f"100.0 {NO_WORDS}")


def _share(outcomes: Iterable[bool]) -> Estimate:
    right = np.array(list(outcomes), dtype=np.int64)
    return _ratio(right, np.ones_like(right))


def _ratio(parts: npt.ArrayLike, wholes: npt.ArrayLike) -> Estimate:
    """Per cent of all wholes together, (items,) both."""
    part, whole = np.asarray(parts), np.asarray(wholes)
    return estimate(len(part), lambda drawn: 100 * float(part[drawn].sum() / whole[drawn].sum()))


def _most_frequent(wanted: Sequence[object]) -> str:
    value, count = Counter(wanted).most_common(1)[0]
    text = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    return f"{100 * count / len(wanted):.1f} (always {text})"


_TARGETS: Mapping[str, Callable[[str], object]] = {  # what a target must not lack, of tasks without one right value
    "asr": normalise,
    "st": str.strip,
    "sqqa": words,
    "ii": read_segments,
    "cot": lambda target: read_chain(target).translation,
}
_SCORERS: Mapping[str, Callable[[Sequence[Answer], Scores], None]] = {
    "asr": _words,
    "st": _translation,
    "sv": _verification,
    "er": _values,
    "sqa": _values,
    "sqqa": _spoken_question,
    "ii": _many_instructions,
    "cot": _chains,
}
