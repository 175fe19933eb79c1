"""From configuration and checkpoint to the people who are known."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from agent.config import SpeakersConfig, load_voices_key
from agent.errors import AgentError, ConfigError, RegistryError
from agent.hearing.silero import load_silero
from agent.voices.people import People
from agent.voices.speakers import SpeakerOptions
from agent.voices.store import VoiceStore
from agent.voices.voiced import Detect
from wavllm_core.checkpoint import NANO
from wavllm_core.voices import VoiceScale, load_scale

log = logging.getLogger(__name__)


def build_scale(config: SpeakersConfig, checkpoint: Path | None) -> VoiceScale:
    """What similarities mean: as the checkpoint says, or as the operator does. Raises CheckpointError."""
    scale = load_scale(checkpoint or NANO)
    if config.same_speaker_similarity is not None:
        scale = replace(scale, same_similarity=config.same_speaker_similarity)
    if config.known_similarity is not None:
        scale = replace(scale, known_similarity=config.known_similarity)
    return scale


def open_people(config: SpeakersConfig, scale: VoiceScale) -> People:
    """Everybody whose voice is known. Raises ConfigError without a registry or a readable key, and RegistryError."""
    if config.registry is None:
        raise ConfigError("speakers.registry is null: nobody can be known")
    return People(VoiceStore(config.registry.expanduser(), load_voices_key(config, os.environ)), scale)


def build_speakers(config: SpeakersConfig, checkpoint: Path | None) -> SpeakerOptions:
    """What a server knows of voices. Raises ConfigError, RegistryError and CheckpointError."""
    scale = build_scale(config, checkpoint)
    return SpeakerOptions(scale, build_people(config, scale), config.clients_may_enrol, build_detector())


def build_detector() -> Detect | None:
    """Tells speech from what only sounds like a voice; None, and the log says so: its weights are not there."""
    try:
        return load_silero().probabilities
    except AgentError as error:
        log.warning("what is enrolled is not checked for speech: %s", error)
        return None


def build_people(config: SpeakersConfig, scale: VoiceScale) -> People | None:
    """The same for a server; None: nobody is to be known, or the file is unreadable and we go on without names."""
    if config.registry is None or config.policy == "off":
        return None
    try:
        people = open_people(config, scale)
    except (RegistryError, ConfigError) as error:
        if config.if_unreadable == "refuse" or config.policy == "require":
            raise
        log.error("nobody is known by name: %s", error)
        return None
    if people.refused:
        names = ", ".join(person.name for person in people.refused)
        log.warning("enrolled with another model, and not known to this one: %s", names)
    return people
