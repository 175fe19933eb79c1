"""The engine without its thread: whatever is due first is done next, one small step after another.

Audio and text share one measure of urgency, the time at which a piece of work is due; what waits long becomes
the most urgent in the end, so nobody starves. The clock is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from wavllm_core.checkpoint import Checkpoint
from wavllm_core.engine.decoder import Decoder
from wavllm_core.engine.decoding import Decoding
from wavllm_core.engine.encoders import RollingEncoders
from wavllm_core.engine.hearing import Hearings
from wavllm_core.engine.language import Language
from wavllm_core.engine.load import Load, Meter
from wavllm_core.engine.speculation import Speculation, SpeculationLimits
from wavllm_core.engine.talk import Talk
from wavllm_core.engine.talks import Talks
from wavllm_core.engine.utterances import Hearing, Utterances
from wavllm_core.errors import CoreError

MIB = 2**20


@dataclass(frozen=True)
class EngineLimits:
    """What the engine may take on, and on what it runs."""

    conversations: int = 33  # open at a time; one more than sessions, for one that is just leaving
    kv_mib: int = 512  # for keys and values of conversations and transcripts
    threads: int = 1  # of the CPU, for tensor work
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the language model, and of stock encoders
    speculation: SpeculationLimits = field(default_factory=SpeculationLimits)

    @property
    def torch_dtype(self) -> torch.dtype:
        """As torch calls it."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32


OpenModel = Callable[[EngineLimits, Callable[[], float], Meter], tuple[Language, Utterances]]


def rolling(checkpoint: Checkpoint) -> OpenModel:
    """What `Core` opens, from a checkpoint of the rolling model."""

    def open_model(limits: EngineLimits, clock: Callable[[], float], _: Meter) -> tuple[Language, Hearings]:
        decoder = Decoder(checkpoint, limits.device, limits.torch_dtype)
        return decoder.language, Hearings(RollingEncoders(decoder.speech, limits.conversations + 1), clock)

    return open_model


class Core:
    """All state of one model that many conversations share; belongs to one thread."""

    def __init__(self, open_model: OpenModel, limits: EngineLimits, clock: Callable[[], float]) -> None:
        """Raises CheckpointError for weights that do not fit, CoreError for a device that is not there or a budget
        that holds no conversation.
        """
        try:
            torch.empty(0, device=limits.device)
        except (RuntimeError, AssertionError) as error:  # torch raises either
            reason = str(error).partition("\n")[0]
            raise CoreError(f"device: {limits.device!r} cannot be used: {reason}") from error
        self.limits, self.clock, self.meter = limits, clock, Meter()
        self.language, self.hearings = open_model(limits, clock, self.meter)
        slot_bytes = self.language.llama.slot_bytes
        slots = limits.kv_mib * MIB // slot_bytes
        if slots < 1:
            raise CoreError(f"kv_mib: {limits.kv_mib} MiB; one conversation alone takes {slot_bytes / MIB:.1f} MiB")
        self.store = self.language.llama.new_store(slots)
        self.speculation = Speculation(limits.speculation)
        replayed = torch.device(limits.device).type == "cuda"
        decoding = Decoding(self.language.llama, self.store) if replayed else None
        self.talks = Talks(self.language, self.store, self.speculation, self.meter, clock, decoding)

    def listen(self, talk: Talk, hearing: Hearing) -> None:
        """Begin an utterance in a conversation."""
        self.hearings.open.append(hearing)
        talk.utterances.append(hearing)
        self.talks.listen(talk, hearing)

    def unlisten(self, talk: Talk, hearing: Hearing) -> None:
        """End an utterance, heard or given up."""
        self.hearings.close(hearing)
        if hearing in talk.utterances:
            talk.utterances.remove(hearing)
        self.talks.unlisten(talk, hearing)

    def close(self, talk: Talk) -> None:
        """Forget a conversation, its utterances included; harmless when it is forgotten already."""
        for hearing in list(talk.utterances):
            self.unlisten(talk, hearing)
        self.talks.close(talk)

    @torch.inference_mode()
    def advance(self) -> bool:
        """Do one step of whatever is due first; False when there is nothing to do."""
        hearing, talking = self.hearings.due(), self.talks.due()
        if hearing is None and talking is None:
            return False
        listens = talking is None or (hearing is not None and hearing <= talking)
        began = self.clock()
        since = self.hearings.step() if listens else self.talks.step()
        self.meter.queue_wait_s.add(max(0.0, began - since))
        (self.meter.encoder_step_s if listens else self.meter.decoder_step_s).add(self.clock() - began)
        if not listens:
            self.meter.kv_share.add(self.store.filled / (self.store.slots * self.store.positions))
        return True

    def load(self) -> Load:
        """How busy it is."""
        meter, talks = self.meter, self.talks.open
        return Load(
            idle=self.hearings.due() is None and self.talks.due() is None,
            conversations=sum(not talk.passing for talk in talks),
            utterances=len(self.hearings.open),
            replies=sum(len(talk.answers) for talk in talks),
            slots_held=self.store.held,
            slots=self.store.slots,
            positions_filled=self.store.filled,
            positions=self.store.slots * self.store.positions,
            queue_wait_ms=1000 * meter.queue_wait_s.value,
            encoder_step_ms=1000 * meter.encoder_step_s.value,
            decoder_step_ms=1000 * meter.decoder_step_s.value,
            evictions=meter.evictions,
            speculations=self.speculation.begun,
            speculations_used=self.speculation.used,
            tokens_wasted=self.speculation.tokens_wasted,
            spreads=meter.spreads(),
        )
