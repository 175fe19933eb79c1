"""The errors of the assistant that are our own or the operator's fault; a client's are `ProtocolError`.

AgentError                the assistant cannot do what it was started for
├── ConfigError           a configuration file that is missing, or has a key or value it must not have
├── RecordingError        a session that cannot be recorded, or a file that is no recording
├── SessionOver           a session that the server ends, after it has told its client
├── ToolCallError         a function call of the model that nobody can read; the response fails
├── FunctionError         a function of the server's own that was not carried out; its output says so
├── VoiceError            a voice that is missing or failed; the reply goes on in writing
├── RegistryError         the file of known voices cannot be used: damaged, of another key or another model
└── EnrolmentError        a voice that cannot be taken in, or a name that is not there; nothing has changed
"""


class AgentError(Exception):
    """The assistant cannot run; the message says what to put right."""


class ConfigError(AgentError):
    """A configuration that cannot be used; the message names the file and the key."""


class RecordingError(AgentError):
    """A recording that cannot be written or read; the message names the file."""


class SessionOver(AgentError):
    """A session has come to its end; the message says why."""


class ToolCallError(AgentError):
    """The model meant to call a function, and it cannot be known which or with what."""


class FunctionError(AgentError):
    """A function was called and not carried out; the message is for the model and the person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # for programs, stable


class VoiceError(AgentError):
    """A text could not be spoken."""


class RegistryError(AgentError):
    """The file of known voices cannot be used; it is left as it is."""


class EnrolmentError(AgentError):
    """A voice or a name that cannot be taken; the message says which utterance is at fault, and why."""
