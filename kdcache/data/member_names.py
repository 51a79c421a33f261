"""The names of tar members: webdataset's rules for keys and extensions, and names without either."""

import re

from kdcache.data.images import IMAGE_EXTENSIONS

LABEL = "cls"
"""The extension of the component that holds a sample's label."""

HIDDEN = "hidden file"
METADATA = "metadata member"
NO_EXTENSION = "name without an extension"

_METADATA = re.compile(r"__[^/]*__($|/)")


def split_name(name: str) -> tuple[str, str] | None:
    """Return a tar member's key and its extension in lower case, as webdataset splits them; None: not a component.

    The key ends at the first dot of the base name. Members named `__x__`, or in a folder so named, are metadata.
    Differing from webdataset, a base name that begins with a dot has no key.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not (stem and dot) or _METADATA.match(name):
        return None
    return folder + slash + stem, extension.lower()


def why_no_component(name: str) -> str:
    """Return the kind of a name without a key: HIDDEN, METADATA or NO_EXTENSION."""
    if _METADATA.match(name):
        return METADATA
    return HIDDEN if name.rpartition("/")[2].startswith(".") else NO_EXTENSION


def is_set_aside(name: str) -> bool:
    """Return whether a member's name shows that it belongs to no sample: hidden files and metadata."""
    return split_name(name) is None and why_no_component(name) != NO_EXTENSION


def has_no_key(name: str) -> bool:
    """Return whether a base name is nothing but the extension of an image or of a label, such as `n01440764/.jpg`."""
    base = name.rpartition("/")[2].lower()
    return base.startswith(".") and base[1:] in (*IMAGE_EXTENSIONS, LABEL) and not _METADATA.match(name)


def has_inner_dot(extension: str) -> bool:
    """Return whether a component's extension is that of an image or a label behind another dot, such as `001.jpg`."""
    return "." in extension and extension.rpartition(".")[2] in (*IMAGE_EXTENSIONS, LABEL)
