"""The prompt template: where text, audio and replies of a conversation stand in the token sequence.

A turn is `[INST] ... [/INST] reply </s>`; what was said stands between <SPEECH> and </SPEECH>, and the
instruction follows it, so that audio can be read before the instruction is final. Earlier turns are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenizers import Tokenizer

BOS, EOS = "<s>", "</s>"
INST, INST_END = "[INST]", "[/INST]"
SPEECH, SPEECH_END = "<SPEECH>", "</SPEECH>"
SYS, SYS_END = "<<SYS>>", "<</SYS>>"
SPECIAL_TOKENS = [BOS, EOS, INST, INST_END, SPEECH, SPEECH_END, SYS, SYS_END]

TRANSCRIBE = "Based on the attached audio, generate a comprehensive text transcription of the spoken content."


class Turn(NamedTuple):  # and no dataclass: thousands are made and looked up at each plan of a long conversation
    """One user turn, in text or speech, and the reply where there is one."""

    text: str = ""  # typed words or a transcript
    spoken: bool = False  # the audio itself stands in the prompt
    speaker: int | None = None
    reply: str | None = None


@dataclass(frozen=True)
class Prompt:
    """Token ids before and after the place of the audio; with no audio, `after` is empty."""

    before: list[int]
    after: list[int]


class PromptTemplate:
    """Builds prompts for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, system_prompt: str = "") -> None:
        self.tokenizer = tokenizer
        blank_id = tokenizer.token_to_id(SPEECH)
        if blank_id is None:
            raise ValueError(f"the tokenizer has no {SPEECH}")
        self.blank_id = blank_id  # what an audio vector without a word is trained to resemble
        self.reply_id, self.end_id = tokenizer.token_to_id(INST_END), tokenizer.token_to_id(EOS)
        self.opening = BOS + (f"{SYS}{system_prompt}{SYS_END}" if system_prompt else "")

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, special tokens read as such, none added."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def build(self, history: Sequence[Turn], turn: Turn, instruction: str) -> Prompt:
        """The prompt that asks for the reply to `turn`."""
        past = "".join(
            f"{INST}{tag(old)}{old.text}{INST_END}{old.reply}{EOS}" for old in history if old.reply is not None
        )
        before = f"{self.opening}{past}{INST}"
        wanted = f" {instruction}" if instruction else ""
        if turn.spoken:
            after = f"{SPEECH_END}{tag(turn)}{wanted}{INST_END}"
            return Prompt(self.encode(before + SPEECH), self.encode(after))
        return Prompt(self.encode(f"{before}{tag(turn)}{turn.text}{wanted}{INST_END}"), [])

    def gate_ids(self, instruction: str) -> list[int]:
        """What the prompt-aware gate reads: the instruction in double quotes, nothing else."""
        return self.encode(f'"{instruction}"')

    def replies(self, before: Sequence[int], learnable: Sequence[bool]) -> list[bool]:
        """Which ids of a prompt are earlier replies with their ends; `learnable` says of which turns."""
        inside, turn, found = False, -1, []
        for token in before:
            found.append(inside and learnable[turn])
            if token == self.reply_id:
                inside, turn = True, turn + 1
            elif token == self.end_id:
                inside = False
        return found

    def target(self, reply: str) -> list[int]:
        """A reply and its end."""
        return self.encode(reply + EOS)


def tag(turn: Turn) -> str:
    """Who speaks, as the prompt says it."""
    return "" if turn.speaker is None else f"speaker {turn.speaker}: "
