"""What `kdcache doctor` found: one sentence about each thing, and one of remedy where it is not well."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `ok`, `note` and `fault` make one.

    Attributes:
        subject: what it is, in a word or two.
        state: "ok"; "note" where the main job runs, though not as well as it could or only in part; "fault" where it
            does not.
        says: what is so.
        remedy: what to do, for whatever is not ok.
    """

    subject: str
    state: State
    says: str
    remedy: str | None = None


def ok(subject: str, says: str) -> Finding:
    """A thing that is well."""
    return Finding(subject, "ok", says)


def note(subject: str, says: str, remedy: str) -> Finding:
    """A thing that the main job can do without."""
    return Finding(subject, "note", says, remedy)


def fault(subject: str, says: str, remedy: str) -> Finding:
    """A thing that the main job cannot do without."""
    return Finding(subject, "fault", says, remedy)
