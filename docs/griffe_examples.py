"""An extension of griffe, which reads docstrings for mkdocstrings: a section `Example:` is one of code."""

import re
from typing import Any

from griffe import Extension


class Examples(Extension):
    """Name the sections `Example:` of all docstrings as griffe names those of code."""

    def on_object(self, *, obj: Any, **_: object) -> None:
        """Rename the section in one docstring; without that it would be shown as text."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
