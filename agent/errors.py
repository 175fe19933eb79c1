"""The errors of the assistant that are our own or the operator's fault; a client's are `ProtocolError`.

AgentError                the assistant cannot do what it was started for
├── ConfigError           a configuration file that is missing, or has a key or value it must not have
└── VoiceError            a voice that is missing or failed; the reply goes on in writing
"""


class AgentError(Exception):
    """The assistant cannot run; the message says what to put right."""


class ConfigError(AgentError):
    """A configuration that cannot be used; the message names the file and the key."""


class VoiceError(AgentError):
    """A text could not be spoken."""
