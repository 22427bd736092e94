"""The errors that a user can mend. Every message names what was wrong, with which value, and what to do
about it.
"""

from __future__ import annotations

SHOWN_CHARACTERS = 200


def shown(text: object, limit: int = SHOWN_CHARACTERS) -> str:
    """Somebody else's text as it may stand in a message, a log or a status: in quotes, on one line, short.

    What cannot be printed is escaped, and what is longer than `limit` characters is cut and counted.
    """
    text = str(text)
    quoted = ascii(text[:limit]) if not text[:limit].isprintable() else f"'{text[:limit]}'"
    return quoted if len(text) <= limit else f"{quoted[:-1]}…' ({len(text)} characters)"


def bounded(text: object, limit: int = 2000) -> str:
    """A message that may hold somebody else's text, for a log or a status: printable, of bounded length."""
    text = str(text)
    kept = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text[:limit])
    return kept if len(text) <= limit else f"{kept}… ({len(text)} characters)"


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


class OutputError(RainRemovalError):
    """A file or folder that cannot be written: no permission, a full disk, something in the way."""


class NotPreparedError(BackendError):
    """No graph is in memory for an image's size and outputs, and none was to be compiled for it now."""


class InferenceError(RainRemovalError):
    """An inference that gave what cannot be, or did not come back; the device is suspect."""


class DatasetError(RainRemovalError):
    """A dataset with a file missing or two files that do not belong together."""


class ParameterError(RainRemovalError):
    """A parameter or launch argument with a value that cannot be."""


class BagError(RainRemovalError):
    """A bag that is none, cannot be read or written, or holds nothing of what was asked for."""
