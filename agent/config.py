"""What the operator can set, read from a YAML file. The defaults are those of configs/nano.yaml.

Knows only names, types and limits; `build_*` functions elsewhere turn sections into plain arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import yaml
from pydantic import (
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from agent.errors import ConfigError
from agent.functions.permissions import Who
from agent.protocol.interruption import MAX_BACK_CHANNEL_CHARS, MAX_BACK_CHANNELS, MAX_HOLD_MS, MURMURS
from agent.protocol.tools import NAME

Detector = Literal["silero", "webrtc"]
Own = Literal["time", "timers"]
VOICES_KEY_VARIABLE: Final = "WAVLLM_VOICES_KEY"
FORBID: Final = ConfigDict(extra="forbid")
MIN_KEY_CHARS: Final = 16
Share = Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)]
Cosine = Annotated[StrictFloat | StrictInt, Field(ge=-1, le=1)]


BackChannel = Annotated[StrictStr, Field(max_length=MAX_BACK_CHANNEL_CHARS, pattern=r"[^\W_]")]
FunctionName = Annotated[StrictStr, Field(pattern=f"^{NAME.pattern}$")]
Seconds = Annotated[StrictFloat | StrictInt, Field(gt=0)]
KEYS_VARIABLE: Final = "WAVLLM_KEYS"


@dataclass(frozen=True, config=FORBID)
class ServerConfig:
    """Where it listens, and how much it takes on."""

    host: StrictStr = "127.0.0.1"
    port: Annotated[StrictInt, Field(ge=0, le=65_535)] = 8710
    max_sessions: Annotated[StrictInt, Field(ge=1)] = 32
    max_message_bytes: Annotated[StrictInt, Field(ge=2**16)] = 32 * 2**20
    max_connections: Annotated[StrictInt, Field(ge=1)] = 256
    messages_per_s: Annotated[StrictInt, Field(ge=1)] = 1_000
    handshake_timeout_s: Seconds = 10
    send_timeout_s: Seconds = 20
    ping_s: Seconds = 20
    pong_s: Seconds = 60
    drain_s: Seconds = 20
    session_s: Seconds | None = None
    legacy_events: StrictBool = False
    recordings: Path | None = None
    page: StrictBool = True


@dataclass(frozen=True, config=FORBID)
class AccessConfig:
    """Who may come in, and how the way is protected."""

    keys_file: Path | None = None
    allowed_origins: Annotated[tuple[StrictStr, ...], Field(strict=False)] = ()
    certificate: Path | None = None
    private_key: Path | None = None


@dataclass(frozen=True, config=FORBID)
class KeyConfig:
    """A secret that lets clients in, and what they may do; None: as much as any."""

    key: Annotated[SecretStr, Field(min_length=MIN_KEY_CHARS)]
    max_sessions: Annotated[StrictInt, Field(ge=1)] | None = None
    messages_per_s: Annotated[StrictInt, Field(ge=1)] | None = None


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
    """How turns are found, and what interrupts; a client can change all but the last three for its session."""

    threshold: Share = 0.5
    prefix_padding_ms: Annotated[StrictInt, Field(ge=0, le=2_000)] = 300
    silence_duration_ms: Annotated[StrictInt, Field(ge=100, le=10_000)] = 500
    create_response: StrictBool = True
    interrupt_response: StrictBool = True
    hold_ms: Annotated[StrictInt, Field(ge=0, le=MAX_HOLD_MS)] = 0
    short_ms: Annotated[StrictInt, Field(ge=0, le=MAX_HOLD_MS)] = 0
    back_channels: Annotated[tuple[BackChannel, ...], Field(strict=False, max_length=MAX_BACK_CHANNELS)] = MURMURS
    resume: StrictBool = True
    unsure_ms: Annotated[StrictInt, Field(ge=0, le=MAX_HOLD_MS)] = 1_000
    min_confidence: Share = 0.65
    detector: Detector = "silero"
    max_utterance_ms: Annotated[StrictInt, Field(ge=5_000, le=120_000)] = 30_000
    max_manual_ms: Annotated[StrictInt, Field(ge=5_000, le=120_000)] = 30_000


@dataclass(frozen=True, config=FORBID)
class SpeakersConfig:
    """How voices are told apart, and whose are known."""

    policy: Literal["off", "label", "require"] = "label"
    memory: Literal["shared", "own"] = "shared"
    same_speaker_similarity: Cosine | None = None
    known_similarity: Cosine | None = None
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


def _read_who(value: Any) -> Who:
    names = tuple(value) if isinstance(value, list | tuple) else None
    if value in ("everybody", "enrolled"):
        return cast(Who, value)
    if names is not None and all(isinstance(name, str) and name.strip() for name in names):
        return names
    raise ValueError("must be everybody, enrolled, or a list of names")


@dataclass(frozen=True, config=FORBID)
class FunctionsConfig:
    """What the server does for the model itself, and who may have what done, by clients, too."""

    own: Annotated[tuple[Own, ...], Field(strict=False)] = ()
    timeout_s: Seconds = 5
    allowed: Mapping[FunctionName, Annotated[Who, PlainValidator(_read_who)]] = field(default_factory=dict)


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
    access: AccessConfig = field(default_factory=AccessConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    turns: TurnsConfig = field(default_factory=TurnsConfig)
    speakers: SpeakersConfig = field(default_factory=SpeakersConfig)
    reply: ReplyConfig = field(default_factory=ReplyConfig)
    functions: FunctionsConfig = field(default_factory=FunctionsConfig)
    voice: VoiceConfig = field(default_factory=VoiceConfig)


def load_voices_key(speakers: SpeakersConfig, environment: Mapping[str, str]) -> str | None:
    """The key of the registry: from the environment, else from its file; None: it is not encrypted.

    Raises ConfigError for a file that cannot be read.
    """
    if key := environment.get(VOICES_KEY_VARIABLE):
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
    text = _read(path)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    try:
        return TypeAdapter(AgentConfig).validate_python({} if values is None else values)
    except ValidationError as error:
        complaints = "; ".join(_complaint(details) for details in error.errors())
        raise ConfigError(f"{path}: {complaints}") from error


def load_keys(access: AccessConfig, environment: Mapping[str, str]) -> dict[str, KeyConfig]:
    """The keys by name, from the file and from WAVLLM_KEYS; none: everybody may come in.

    Both are YAML: a name, and for it the key alone or an object with its limits.
    Raises ConfigError, which never quotes what might be a key.
    """
    sources = {f"${KEYS_VARIABLE}": environment.get(KEYS_VARIABLE, "")}
    if access.keys_file:
        sources[str(access.keys_file)] = _read(access.keys_file)
    keys: dict[str, KeyConfig] = {}
    for source, text in sources.items():
        for name, key in _parse_keys(source, text).items():
            if name in keys:
                raise ConfigError(f"{source}: there are two keys of the name {name!r}")
            keys[name] = key
    if access.keys_file and not keys:
        raise ConfigError(f"{access.keys_file}: holds no key")
    return keys


def _parse_keys(source: str, text: str) -> dict[str, KeyConfig]:
    try:
        values = yaml.safe_load(text) or {}
        whole = {name: {"key": key} if isinstance(key, str) else key for name, key in values.items()}
        return TypeAdapter(dict[StrictStr, KeyConfig]).validate_python(whole)
    except (yaml.YAMLError, AttributeError):
        raise ConfigError(f"{source}: is not a list of lines like: kitchen: a-long-secret") from None
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
        raise ConfigError(f"{source}: {places}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error


def _complaint(details: Any) -> str:
    key = ".".join(str(part) for part in details["loc"])
    if details["type"] == "unexpected_keyword_argument":
        return f"{key}: there is no such key"
    return f"{key or 'the file'}: {details['msg']}, not {details['input']!r}"
