"""The nearest known name, for messages about an unknown one."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence for the end of a message, with a space before it: the nearest of `known`, else all of them.

    Capitals are like small letters.
    """
    spelt = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), spelt, n=1)
    return f" Did you mean {spelt[near[0]]}?" if near else f" Known: {', '.join(spelt.values())}."
