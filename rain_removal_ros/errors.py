"""The errors that a user can mend. Every message names what was wrong, with which value, and what to do
about it.
"""


class RainRemovalError(Exception):
    """Base of every error that is the user's or the machine's to mend, not a defect of the program."""


class ImageError(RainRemovalError):
    """An image or image message that cannot be read as what it claims to be; the frame is dropped, the
    stream goes on.
    """


class WeightsError(RainRemovalError):
    """A weights file that is missing, damaged, or belongs to another network."""


class PresetError(RainRemovalError):
    """A preset name that no network goes by."""


class BackendError(RainRemovalError):
    """A backend that cannot run on this machine, or that gave another precision than it was asked for."""


class DatasetError(RainRemovalError):
    """A dataset with a file missing or two files that do not belong together."""


class ParameterError(RainRemovalError):
    """A parameter or launch argument with a value that cannot be."""
