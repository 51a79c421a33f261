"""The findings of `kdcache doctor`: a sentence about each subject, and a remedy if it is not in order."""

from dataclasses import dataclass
from typing import Literal

from kdcache.doctor.child import Outcome
from kdcache.io.remedies import REMEDIES

State = Literal["ok", "note", "fault"]

_TIMEOUT = (
    "The machine may be busy, or a disk, a mount or the network slow: check whether it responds, and try again with a "
    "larger --limit."
)
_KILL = "Memory most likely ran out: end other processes here, or give this container or job more."


@dataclass(frozen=True)
class Finding:
    """The result of one check; `ok`, `note`, `fault` and `failed` create one.

    Attributes:
        subject: name of the checked subject, in a word or two.
        state: "ok"; "note" if kdcache runs, but slower or only in part; "fault" if it does not run.
        text: description of the result.
        remedy: action that helps if the state is not "ok"; None if `text` ends with it.
    """

    subject: str
    state: State
    text: str
    remedy: str | None = None


def ok(subject: str, text: str) -> Finding:
    """Return a finding that is in order."""
    return Finding(subject, "ok", text)


def note(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding without which kdcache can run."""
    return Finding(subject, "note", text, remedy)


def fault(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding with which kdcache cannot run."""
    return Finding(subject, "fault", text, remedy)


def failed(subject: str, opening: str, outcome: Outcome, remedy: str, state: State = "fault") -> Finding:
    """Return the finding of a failed trial.

    Args:
        opening: clause before the cause, such as "It cannot be used".
        remedy: action for a failure whose ending and errno imply none.
    """
    failure = outcome.failure or ""
    if outcome.ending == "refusal":
        return Finding(subject, state, failure)
    known = {"timeout": _TIMEOUT, "kill": _KILL}.get(outcome.ending) or REMEDIES.get(outcome.errno or 0)
    return Finding(subject, state, f"{opening}: {failure.rstrip('.')}.", known or remedy)
