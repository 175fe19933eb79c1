"""The errors of the model.

CoreError                 something is wrong with a model, its files or its input
├── CheckpointError       a file that is missing, damaged, or does not fit its configuration
├── CapacityError         there is no room for one more at present; what is under way goes on
└── InputError            audio or text that the model cannot take; the message names the limit
"""


class CoreError(Exception):
    """The model could not do what was asked."""


class CheckpointError(CoreError):
    """A checkpoint is missing, damaged, or of another shape than its configuration."""


class CapacityError(CoreError):
    """Everything that there is room for is taken; the message names the limit."""


class InputError(CoreError):
    """Audio or text outside the limits of the model."""
