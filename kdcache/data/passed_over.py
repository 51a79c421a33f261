"""Members of shards that are neither images nor labels: counted by the scan, and reported when the index is built."""

from collections import Counter
from dataclasses import dataclass, field

from kdcache.data.member_names import HIDDEN, METADATA, NO_EXTENSION

_KINDS_SHOWN = 5
_PLURALS = {HIDDEN: "hidden files", METADATA: "metadata members (__x__)", NO_EXTENSION: "names without an extension"}


@dataclass
class PassedOver:
    """Counts of members of shards that are not in the index.

    Attributes:
        names: number of members that belong to no sample, by the kind of their name.
        examples: first member of each kind.
        components: number of components of samples that kdcache does not use, by extension.
        joined: shards that hold several archives, one after another.
    """

    names: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    components: Counter[str] = field(default_factory=Counter)
    joined: list[str] = field(default_factory=list)

    def set_aside(self, kind: str, name: str, shard: str) -> None:
        """Count a member whose name is of a kind that belongs to no sample."""
        self.names[kind] += 1
        self.examples.setdefault(kind, f"{name.encode('utf-8', 'backslashreplace').decode()} in {shard}")

    def add(self, other: "PassedOver") -> None:
        """Add the counts of another shard."""
        self.names += other.names
        self.components += other.components
        self.joined += other.joined
        for kind, example in other.examples.items():
            self.examples.setdefault(kind, example)

    def line(self) -> str | None:
        """Return the skipped members with reasons and counts; None if there are none."""
        groups = []
        if self.names:
            kinds = [
                f"{count:,} {_PLURALS[kind] if count > 1 else kind} (such as {self.examples[kind]})"
                for kind, count in self.names.most_common()
            ]
            groups.append(f"members that belong to no sample: {', '.join(kinds)}")
        if self.components:
            kinds = [f"{count:,} .{extension}" for extension, count in self.components.most_common(_KINDS_SHOWN)]
            more = len(self.components) - len(kinds)
            kinds += [f"{more:,} other kinds"] if more else []
            groups.append(f"components of samples that are neither images nor labels: {', '.join(kinds)}")
        return f"passed over {'; '.join(groups)}" if groups else None

    def joined_line(self) -> str | None:
        """Return a warning about shards of which most readers see only a part; None if there are none."""
        if not self.joined:
            return None
        count = len(self.joined)
        return (
            f"{count:,} shard{'s hold' if count > 1 else ' holds'} several archives one after another, as "
            f"`cat b.tar >> a.tar` makes them (such as {self.joined[0]}). All of them are indexed; most other readers "
            "stop at the first"
        )
