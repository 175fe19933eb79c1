"""What the operator can set, read from a YAML file. The defaults are those of configs/nano.yaml.

Knows only names, types and limits; `build_*` functions elsewhere turn sections into plain arguments.
"""

from __future__ import annotations

import os
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from agent.errors import ConfigError

VOICES_KEY_VARIABLE: Final = "WAVLLM_VOICES_KEY"
FORBID: Final = ConfigDict(extra="forbid")
Share = Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)]


@dataclass(frozen=True, config=FORBID)
class ServerConfig:
    """Where it listens, and how much it takes on."""

    host: StrictStr = "127.0.0.1"
    port: Annotated[StrictInt, Field(ge=0, le=65_535)] = 8710
    max_sessions: Annotated[StrictInt, Field(ge=1)] = 32
    max_message_bytes: Annotated[StrictInt, Field(ge=2**16)] = 32 * 2**20
    send_timeout_s: Annotated[StrictFloat | StrictInt, Field(gt=0)] = 20


@dataclass(frozen=True, config=FORBID)
class ModelConfig:
    """Which model, and on what."""

    checkpoint: Path | None = None
    device: StrictStr = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: Annotated[StrictInt, Field(ge=1)] = 1
    kv_mib: Annotated[StrictInt, Field(ge=1)] = 512
    speculations: Annotated[StrictInt, Field(ge=0, le=20)] = 3


@dataclass(frozen=True, config=FORBID)
class TurnsConfig:
    """How turns are found; a client can change the first five for its session."""

    threshold: Share = 0.5
    prefix_padding_ms: Annotated[StrictInt, Field(ge=0, le=2_000)] = 300
    silence_duration_ms: Annotated[StrictInt, Field(ge=100, le=10_000)] = 500
    create_response: StrictBool = True
    interrupt_response: StrictBool = True
    max_utterance_ms: Annotated[StrictInt, Field(ge=5_000, le=120_000)] = 30_000
    max_manual_ms: Annotated[StrictInt, Field(ge=5_000, le=120_000)] = 30_000


@dataclass(frozen=True, config=FORBID)
class SpeakersConfig:
    """How voices are told apart, and whose are known."""

    policy: Literal["off", "label", "require"] = "label"
    same_speaker_similarity: Annotated[StrictFloat | StrictInt, Field(ge=-1, le=1)] | None = None
    registry: Path | None = Path("~/.local/share/wavllm/voices.db")
    key_file: Path | None = None
    if_unreadable: Literal["refuse", "go_on"] = "refuse"
    clients_may_enrol: StrictBool = True


@dataclass(frozen=True, config=FORBID)
class ReplyConfig:
    """How answers are made."""

    max_tokens: Annotated[StrictInt, Field(ge=1, le=4_096)] = 64
    temperature: Annotated[StrictFloat | StrictInt, Field(ge=0, le=2)] = 0.0
    instructions: Annotated[StrictStr, Field(max_length=32_768)] = ""


@dataclass(frozen=True, config=FORBID)
class VoiceConfig:
    """How answers are spoken to clients that ask for it."""

    program: Annotated[StrictStr, Field(min_length=1)] | None = "espeak-ng"
    language: Annotated[StrictStr, Field(pattern=r"^[A-Za-z][\w+./-]*$", max_length=64)] = "en-us"
    words_per_minute: Annotated[StrictInt, Field(ge=80, le=450)] = 170
    processes: Annotated[StrictInt, Field(ge=1, le=64)] = 4
    timeout_ms: Annotated[StrictInt, Field(ge=100, le=60_000)] = 2_000
    lead_ms: Annotated[StrictInt, Field(ge=200, le=60_000)] = 2_000


@dataclass(frozen=True, config=FORBID)
class AgentConfig:
    """Everything."""

    server: ServerConfig = field(default_factory=ServerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    turns: TurnsConfig = field(default_factory=TurnsConfig)
    speakers: SpeakersConfig = field(default_factory=SpeakersConfig)
    reply: ReplyConfig = field(default_factory=ReplyConfig)
    voice: VoiceConfig = field(default_factory=VoiceConfig)


def load_voices_key(speakers: SpeakersConfig) -> str | None:
    """The key of the registry: from the environment, else from its file; None: it is not encrypted.

    Raises ConfigError for a file that cannot be read.
    """
    if key := os.environ.get(VOICES_KEY_VARIABLE):
        return key
    if speakers.key_file is None:
        return None
    try:
        return speakers.key_file.expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"speakers.key_file: {speakers.key_file} cannot be read: {error}") from error


def load_config(path: Path | None) -> AgentConfig:
    """Read a file; None means the defaults. Raises ConfigError, naming the file and every wrong key."""
    if path is None:
        return AgentConfig()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    try:
        return TypeAdapter(AgentConfig).validate_python({} if values is None else values)
    except ValidationError as error:
        complaints = "; ".join(_complaint(details) for details in error.errors())
        raise ConfigError(f"{path}: {complaints}") from error


def _complaint(details: Any) -> str:
    key = ".".join(str(part) for part in details["loc"])
    if details["type"] == "unexpected_keyword_argument":
        return f"{key}: there is no such key"
    return f"{key or 'the file'}: {details['msg']}, not {details['input']!r}"
