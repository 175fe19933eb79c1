"""Who has the floor, where people speak into replies: a table, in which nothing is done.

    speech  what happens                                    speech  what follows
    none    it begins, into a reply, and such are held      held
    none    it begins otherwise                             told    Tell
    held    it lasts, or there are words in it              told    Tell
    told    there are words in it                           told    LetGo
    held    it ends, wordless, and the reply goes on        none    Ignore
    held    it ends otherwise                               as if told before
    told    it ends in words, or nothing was broken off     none    Commit, Answer
    told    it ends, wordless                               none    Commit, Resume
    told    it ends, and nobody knows                       none    Commit; then, with the words, Answer or Resume

*Held*: the client knows nothing of it, and the reply goes on. *Told*: it knows, and the reply was broken off. What
broke it off is in doubt until there are words; with several turns in doubt, one that has words is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class Scene:
    """What is so at the moment."""

    interrupts: bool  # speech stops a reply
    holds: bool  # short speech into a reply is held
    resumes: bool  # a reply that was broken off by nothing is taken up again
    replying: bool  # there is one, written or still to be heard
    resumable: bool  # there is something to take up again, or would be after an interruption


@dataclass(frozen=True, slots=True)
class Floor:
    """The state."""

    speech: Literal["none", "held", "told"] = "none"
    doubtful: bool = False  # a reply was broken off, so far by no words
    unread: frozenset[str] = frozenset()  # items whose words are going to be known
    owes: bool = False  # an answer, or the rest of a reply, then

    @property
    def in_doubt(self) -> bool:
        """The words of what is being said decide."""
        return self.speech == "held" or (self.speech == "told" and self.doubtful)


@dataclass(frozen=True, slots=True)
class Began:
    """Somebody speaks."""


@dataclass(frozen=True, slots=True)
class Lasted:
    """And does not stop."""


@dataclass(frozen=True, slots=True)
class Worded:
    """And has said words by now."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The turn is over."""

    item_id: str
    words: bool | None  # None: nobody knows yet


@dataclass(frozen=True, slots=True)
class Known:
    """An item was written down, or cannot be, which counts as words."""

    item_id: str
    words: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """The client took the audio away."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The client decides by itself what is answered now."""


@dataclass(frozen=True, slots=True)
class Tell:
    """The client, that somebody speaks; nothing else may sound then."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """What was said: it was not for us."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What was said, as an item."""

    words: bool | None  # False: which the model is not shown
    then: Literal["answer", "resume", "wait"]


@dataclass(frozen=True, slots=True)
class SetAside:
    """An item without words."""

    item_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What was owed."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The reply that was broken off."""


@dataclass(frozen=True, slots=True)
class LetGo:
    """Of that one: it is over for good."""


FloorEvent = Began | Lasted | Worded | Ended | Known | Dropped | TakenOver
FloorEffect = Tell | Ignore | Commit | SetAside | Answer | Resume | LetGo
Step = tuple[Floor, tuple[FloorEffect, ...]]


def advance(scene: Scene, floor: Floor, event: FloorEvent) -> Step:
    """The next state, and what is to be done, in this order."""
    match event:
        case Began() if scene.holds and scene.replying:
            return replace(floor, speech="held"), ()
        case Began():
            return _tell(scene, floor)
        case Lasted() | Worded() if floor.speech == "held":
            floor, effects = _tell(scene, floor)
            return replace(floor, doubtful=floor.doubtful and not isinstance(event, Worded)), effects
        case Worded() if floor.doubtful:
            return replace(floor, doubtful=False), (LetGo(),)
        case Ended(item_id, words):
            return _end(scene, floor, item_id, words)
        case Known(item_id, words) if item_id in floor.unread:
            return _know(floor, item_id, words)
        case Dropped():
            keeps = floor.doubtful and floor.owes
            return replace(floor, speech="none", doubtful=keeps), () if keeps else (LetGo(),)
        case TakenOver():
            return replace(floor, doubtful=False, owes=False), (LetGo(),)
    return floor, ()


def _tell(scene: Scene, floor: Floor) -> Step:
    """What was owed is part of what is going to be."""
    return replace(floor, speech="told", doubtful=scene.resumes and scene.resumable, owes=False), (Tell(),)


def _end(scene: Scene, floor: Floor, item_id: str, words: bool | None) -> Step:
    told: tuple[FloorEffect, ...] = ()
    if floor.speech == "held":
        if scene.replying and words is False:
            return replace(floor, speech="none"), (Ignore(),)
        floor, told = _tell(scene, floor)
    if words or not floor.doubtful:
        return Floor(unread=floor.unread), (*told, Commit(None, "answer"))
    unread = floor.unread | ({item_id} if words is None else set())
    if unread:
        return Floor("none", True, unread, owes=True), (*told, Commit(words, "wait"))
    return Floor(), (*told, Commit(False, "resume"))


def _know(floor: Floor, item_id: str, words: bool) -> Step:
    unread = floor.unread - {item_id}
    floor = replace(floor, unread=unread, doubtful=floor.doubtful and not words)
    effects: tuple[FloorEffect, ...] = (LetGo(),) if words else (SetAside(item_id),)
    if unread or not floor.owes:
        return floor, effects
    return Floor(speech=floor.speech), (*effects, Resume() if floor.doubtful else Answer())
