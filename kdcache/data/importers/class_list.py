"""Lists of class names, and labels that are numbers or names."""

from collections.abc import Sequence
from pathlib import Path

from kdcache.data.importers.tar_source import unreadable
from kdcache.data.scan import LARGEST_LABEL
from kdcache.errors import DataError
from kdcache.io.json_format import parse_json
from kdcache.io.plain_values import FormatError
from kdcache.io.reading import read_text


def read_class_list(file: Path) -> tuple[str, ...]:
    """Return the class names in a file, in the order of their labels: a JSON list, or text with a name a line.

    Raises DataError where it cannot be read, is empty, or names a class twice.
    """
    try:
        text = read_text(file)
        names = parse_json(text) if file.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except OSError as error:
        raise unreadable(file, error) from error
    except (UnicodeError, FormatError) as error:
        raise DataError(f"{file} is no list of class names: {error}. Write one name a line.") from error
    if isinstance(names, list):
        while names and names[-1] == "":
            names.pop()
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)):
        raise DataError(f"{file} is no list of class names. Write one name a line, in the order of the labels.")
    if len(set(names)) < len(names):
        again = next(name for place, name in enumerate(names) if name in names[:place])
        raise DataError(f"{file} names the class {again} twice, so that its label is not known. Leave one out.")
    return tuple(names)


class Labeller:
    """Makes labels of what a data set says of an image's class: a number, or a name in a list of classes."""

    def __init__(self, class_names: Sequence[str] | None) -> None:
        self._count = len(class_names) if class_names is not None else LARGEST_LABEL + 1
        self._has_names = class_names is not None
        self._labels = {name: label for label, name in enumerate(class_names or ())}

    def label(self, value: object, where: str) -> int:
        """Return a label. A text that is a name in the list is that class, whether or not it is a number as well.

        where: what has the value, for the message of a DataError.
        """
        if isinstance(value, str):
            text = value.strip()
            if text in self._labels:
                return self._labels[text]
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise DataError(
                    f"{where} is of the class {text!a}, which "
                    + (
                        "the list of classes does not have. Add it there, or correct the label."
                        if self._has_names
                        else "is no number. Give --classes FILE, a list of the class names in the order of their "
                        "labels."
                    )
                )
            value = int(text)
        if isinstance(value, bool) or not isinstance(value, int):
            raise DataError(f"{where} has the label {value!a}, which is neither a whole number nor a name.")
        if not 0 <= value < self._count:
            raise DataError(
                f"{where} has the label {value}: labels go from 0 to {self._count - 1:,}. Correct it, or leave the "
                "image out."
            )
        return value
