"""The errors of the model.

CoreError                 something is wrong with a model, its files or its input
├── CheckpointError       a file that is missing, damaged, or does not fit its configuration
└── InputError            audio or text that the model cannot take; the message names the limit
"""


class CoreError(Exception):
    """The model could not do what was asked."""


class CheckpointError(CoreError):
    """A checkpoint is missing, damaged, or of another shape than its configuration."""


class InputError(CoreError):
    """Audio or text outside the limits of the model."""
