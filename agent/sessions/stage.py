"""Which responses there are, and which is next: a table, in which nothing is done.

    the conversation has   what happens                             it has then   what follows
    none                   one is asked for, or owed                that one      LetGo, Begin
    one                    one is owed                              the same      nothing: it waits, alone
    any                    one is asked for beside it               the same      Begin
    one                    it is over, cancelled or truncated       none          End, then what was owed
    any                    one beside it is over or cancelled       the same      End
    one                    somebody speaks                          none          Hush, End, then Keep or LetGo
    none                   somebody speaks while the last sounds    none          Hush, then Keep or LetGo
    none                   the one that was kept is taken up        a new one     Begin, with the rest of it
    any                    the session is over                      none          LetGo, End of each

Every response that begins is ended once, and none is named after its end. One that cannot be answered, as nothing could
be heard, begins and ends at once. *Kept* is a reply that was broken off by what may turn out to be no words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from agent.protocol.errors import ProtocolError
from agent.protocol.replies import Ending
from agent.sessions.response import ReplyDue, ReplyPlan

MAX_BESIDE: Final = 4  # responses out of band at a time


@dataclass(frozen=True, slots=True)
class Asked:
    """A response is wanted."""

    response_id: str
    due: ReplyDue

    @property
    def beside(self) -> bool:
        """It is none of the conversation's."""
        return self.due.overrides.out_of_band


@dataclass(frozen=True, slots=True)
class Stage:
    """The state: responses by their ids."""

    active: str | None = None  # under way in the conversation
    beside: frozenset[str] = frozenset()  # under way out of band
    owed: Asked | None = None  # when the active one is over
    sounding: str | None = None  # the newest, where it is over and may still be heard
    kept: str | None = None  # broken off, and may be taken up again
    truncated: str | None = None  # the newest, where the client has ended it by truncating it

    @property
    def under_way(self) -> frozenset[str]:
        """All that have begun and not ended."""
        return self.beside | ({self.active} if self.active else set())


@dataclass(frozen=True, slots=True)
class Over:
    """There is nothing more to tell of a response."""

    response_id: str
    ending: Ending = "completed"
    reason: str | None = None
    failure: str | None = None
    spoken: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client wants no more of a response; None: of the active one."""

    response_id: str | None


@dataclass(frozen=True, slots=True)
class Truncated:
    """The client has cut the message that a response is telling."""

    response_id: str


@dataclass(frozen=True, slots=True)
class SpokenInto:
    """Somebody speaks, and no reply may sound."""

    resumable: bool  # it may turn out that nothing was said
    left_s: float  # of audio that was sent and not played
    calling: bool  # the model was going to be asked again, with what came of its calls


@dataclass(frozen=True, slots=True)
class TakenUp:
    """There is something left to say of the response that was kept."""

    response_id: str  # that says it
    rest: ReplyPlan


@dataclass(frozen=True, slots=True)
class Settled:
    """What was kept is over for good."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The session is over."""

    why: str


@dataclass(frozen=True, slots=True)
class Begin:
    """A response, from the beginning or with what another one has left."""

    response_id: str
    what: ReplyDue | ReplyPlan
    resumes: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """A response, and tell how."""

    response_id: str
    ending: Ending
    reason: str | None = None
    failure: str | None = None
    keep_draft: bool = False  # the model may write on


@dataclass(frozen=True, slots=True)
class Hush:
    """Whatever audio has not been sent."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What there is to know of a response, to go on with it."""

    response_id: str
    left_s: float
    calling: bool


@dataclass(frozen=True, slots=True)
class LetGo:
    """Of the one that was kept."""


StageEvent = Asked | Over | Cancelled | Truncated | SpokenInto | TakenUp | Settled | Abandoned
StageEffect = Begin | End | Hush | Keep | LetGo
Step = tuple[Stage, tuple[StageEffect, ...]]


def check(stage: Stage, *, beside: bool) -> None:
    """Raises ProtocolError when the client cannot have one more response."""
    if beside and len(stage.beside) >= MAX_BESIDE:
        message = f"{MAX_BESIDE} responses outside the conversation are under way already"
        raise ProtocolError("too_many_responses", message, param="response.conversation")
    if not beside and stage.active:
        message = f"response {stage.active} is still active; cancel it first"
        raise ProtocolError("conversation_already_has_active_response", message)


def advance(stage: Stage, event: StageEvent) -> Step:
    """The next state, and what is to be done, in this order.

    Raises ProtocolError, and nothing has changed, when a response is to be cancelled that is not under way.
    """
    match event:
        case Asked() if stage.active and not event.beside:
            return replace(stage, owed=event), ()
        case Asked():
            return _begin(stage, event)
        case Over(response_id, ending, reason, failure, spoken) if response_id in stage.under_way:
            sounding = response_id if spoken else None
            return _end(stage, End(response_id, ending, reason, failure), sounding)
        case Cancelled(response_id):
            return _cancel(stage, response_id)
        case Truncated(response_id) if response_id == stage.active:
            stage = replace(stage, truncated=response_id)
            return _end(stage, End(response_id, "cancelled", "client_cancelled"))
        case SpokenInto():
            return _hush(stage, event)
        case TakenUp(response_id, rest) if stage.kept and not stage.active:
            begin = Begin(response_id, rest, resumes=stage.kept)
            return replace(stage, active=response_id, kept=None, truncated=None), (begin,)
        case Settled() | TakenUp():
            return _let_go(stage)
        case Abandoned(why):
            _, effects = _let_go(stage)
            ended = (stage.active, *sorted(stage.beside))
            return Stage(), (*effects, *[End(each, "failed", failure=why) for each in ended if each])
    return stage, ()


def _let_go(stage: Stage) -> Step:
    return replace(stage, kept=None), (LetGo(),) if stage.kept else ()


def _begin(stage: Stage, asked: Asked) -> Step:
    let_go: tuple[StageEffect, ...] = ()
    if not asked.beside:
        stage, let_go = _let_go(replace(stage, sounding=None))
    stage, begin = replace(stage, truncated=None), Begin(asked.response_id, asked.due)
    if asked.due.failure is not None:
        return stage, (*let_go, begin, End(asked.response_id, "failed", failure=asked.due.failure))
    if asked.beside:
        return replace(stage, beside=stage.beside | {asked.response_id}), (begin,)
    return replace(stage, active=asked.response_id), (*let_go, begin)


def _end(stage: Stage, end: End, sounding: str | None = None) -> Step:
    """One that is under way; then comes what was owed."""
    if end.response_id != stage.active:
        return replace(stage, beside=stage.beside - {end.response_id}), (end,)
    owed, stage = stage.owed, replace(stage, active=None, owed=None, sounding=sounding)
    if owed is None:
        return stage, (end,)
    stage, effects = _begin(stage, owed)
    return stage, (end, *effects)


def _cancel(stage: Stage, response_id: str | None) -> Step:
    which = response_id or stage.active
    if which is not None and which in stage.under_way:
        return _end(stage, End(which, "cancelled", "client_cancelled"))
    if stage.truncated and response_id in (None, stage.truncated):
        return stage, ()  # that was only said twice
    message = f"{f'response {response_id}' if response_id else 'no response'} is active"
    raise ProtocolError("response_cancel_not_active", message, param="response_id")


def _hush(stage: Stage, spoken_into: SpokenInto) -> Step:
    """Nothing that was owed is begun: what is being said is part of what is going to be answered."""
    broken_off = stage.active or (stage.sounding if spoken_into.left_s > 0 else None)
    effects: list[StageEffect] = [Hush()]
    if stage.active:
        reason, keeps = "turn_detected", spoken_into.resumable
        effects.append(End(stage.active, "cancelled", reason, keep_draft=keeps))
    kept = stage.kept
    if kept and (broken_off or not spoken_into.resumable):
        kept = None
        effects.append(LetGo())
    if broken_off and spoken_into.resumable:
        kept = broken_off
        effects.append(Keep(broken_off, spoken_into.left_s, spoken_into.calling))
    return replace(stage, active=None, owed=None, sounding=None, kept=kept), tuple(effects)
