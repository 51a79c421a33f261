"""What a cache belongs to, as frozen values with one canonical JSON form. No I/O.

Two levels: the view set (which images the rows are) and the teacher (whose targets they hold, and how they
were had and stored). Things with equal identity may be used together; anything else is refused by the name
of the field.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Annotated, Any, ClassVar, TypeVar, get_origin

import numpy as np
from jaxtyping import Int32

from kdcache.errors import CacheError, ConfigError, IdentityError
from kdcache.io.checked import Fault, Setting, read
from kdcache.io.limits import MAX_BATCH, MAX_CLASSES, MAX_SIZE

Kind = TypeVar("Kind", bound="Identity")

#: The format of the caches that this version makes. It stands in every cache.
FORMAT = 4
#: The oldest format that is read, verified and grown: its records do not say which block they are of.
OLDEST_FORMAT = 3

#: Fields of identities that say nothing about the stored targets, and so are not part of `Identity.digest`.
_NOT_OF_TARGETS = frozenset({"format", "name"})
#: Bytes of such a digest. It tells caches of honest origin apart, of which nobody has more than thousands: of 10,000
#: some two are alike with a probability of 3e-12. Whoever forges a record can write any digest, however long.
_DIGEST_BYTES = 8

#: Far more than anybody has: what a cache says is believed up to here, so that none can ask for all of the memory.
MAX_BLOCKS = 2**20
#: Likewise the size, batch size and number of classes of a teacher.
MAX_NUMBERS = (MAX_SIZE, MAX_BATCH, MAX_CLASSES)

#: Names of teachers are folder names and parts of object keys, beside the zarr.json of the folder that holds them.
TEACHER_NAME = re.compile(r"(?!zarr\.json$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def canonical(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with a checksum of its canonical JSON under `check`."""
    return {**content, "check": _digest(canonical(dict(content)).encode(), 8)}


def unseal(value: Any, where: str) -> dict[str, Any]:
    """Return the content of a sealed value. Raises CacheError, naming `where`, where it is none or was altered."""
    if not isinstance(value, dict) or "check" not in value:
        raise CacheError(f"{where} holds no kdcache metadata; it was altered or belongs to something else.")
    content = {name: part for name, part in value.items() if name != "check"}
    try:
        intact = seal(content)["check"] == value["check"]
    except (ValueError, RecursionError):  # values that did not come through `parse_json`
        intact = False
    if not intact:
        raise CacheError(f"{where} was altered: its checksum does not fit.", "Restore the file from a copy.")
    return content


def windows_checksum(windows: Int32[np.ndarray, " n"]) -> str:
    """BLAKE2b-256 of the window ids as little-endian 32-bit integers, in hex."""
    return _digest(np.ascontiguousarray(windows, "<i4").view(np.uint8).data, 32)


def _digest(data: bytes | memoryview, size: int) -> str:
    return hashlib.blake2b(data, digest_size=size).hexdigest()


class Identity:
    """A frozen dataclass with a canonical JSON form.

    A field with `metadata={"neutral": value}` is left out of the JSON where it has that value, so that an
    option that came later leaves the identity of older caches as it was.
    """

    #: How the thing is called in messages, and what to do when a field differs (by name, else "").
    noun: ClassVar[str] = ""
    remedies: ClassVar[Mapping[str, str]] = {}
    #: What pydantic is told: a field that is not known is refused.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, without neutral fields; names are in the order of the canonical JSON at each level.

        The order is that of the bytes in zarr.json, which a copy has to repeat.
        """
        found = {}
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            if "neutral" not in entry.metadata or value != entry.metadata["neutral"]:
                found[entry.name] = value
        stored: dict[str, Any] = _as_stored(found)
        return stored

    @property
    def digest(self) -> str:
        """BLAKE2b-64, in hex, of the canonical JSON of all fields that the stored targets depend on.

        Neither the version of the format is among them nor the name of an entry: a cache that is copied into a newer
        format, or an entry that gets another name, holds the same targets.
        """
        content = {name: value for name, value in self.to_json().items() if name not in _NOT_OF_TARGETS}
        return _digest(canonical(content).encode(), _DIGEST_BYTES)

    @classmethod
    def from_json(cls: type[Kind], data: Any, where: str) -> Kind:
        """Return the identity of plain JSON values.

        Raises CacheError, naming `where`, for unknown or missing fields and wrong types.
        """
        if not isinstance(data, dict):
            raise CacheError(f"{where} holds no {cls.noun}: {_short(data)}.")
        try:
            found = read(cls, data, sentence=partial(_sentence, cls.noun, where))
        except ConfigError as error:
            raise CacheError(str(error)) from None
        for entry in fields(cls):  # type: ignore[arg-type]
            if entry.name not in data and "neutral" not in entry.metadata:  # a default is meant for new identities
                raise CacheError(_missing_field(cls.noun, where, entry.name))
        return found


def _sentence(noun: str, where: str, fault: Fault) -> str:
    if fault.kind == "unknown":
        return (
            f"{where} has a field '{fault.name}' that this version of kdcache does not know. "
            "It was written by a newer one: update kdcache."
        )
    if fault.kind == "missing":
        return _missing_field(noun, where, fault.name)
    wanted = (get_origin(fault.type) or fault.type).__name__
    return f"The field {fault.name} in {where} is {_short(fault.value)}, which is no {wanted}."


def _missing_field(noun: str, where: str, name: str) -> str:
    return f"{where} lacks the field '{name}'; it is no {noun}, or it is damaged."


@dataclass(frozen=True)
class ViewSetIdentity(Identity):
    """The images that the rows of a cache are views of."""

    fingerprint: Annotated[str, Setting("The index's: keys, labels, encoded lengths and sizes of all samples.")]
    samples: Annotated[int, Setting("Number of samples.")]
    windows: Annotated[str, Setting("`windows_checksum` of the window ids that the orders are made with.")]
    policy: Annotated[dict[str, Any], Setting("Canonical JSON of the policy.")]
    seed: Annotated[int, Setting("Seed of all random draws, 32 bits.")]
    block_rows: Annotated[int, Setting("Rows of a block, a power of two.")]
    format: Annotated[int, Setting("Version of the format that the cache has.")] = FORMAT

    noun: ClassVar[str] = "view set"
    remedies: ClassVar[Mapping[str, str]] = {
        "fingerprint": "It was made from other images or labels, or before bad ones were left out: "
        "use the data as they were, or another --cache.",
        "samples": "It was made from other images, or before bad ones were left out: "
        "use the data as they were, or another --cache.",
        "policy": "Use the policy that it was made with, or another --cache.",
        "seed": "Pass --seed {stored}, or use another --cache.",
        "block_rows": "Leave the number to the cache, or use another --cache.",
    }

    @property
    def records_name_blocks(self) -> bool:
        """Whether each record in such a cache says which block it is of."""
        return self.format > 3

    def __post_init__(self) -> None:
        rows = self.block_rows
        if self.samples < 1 or not 0 <= self.seed < 2**32:
            raise CacheError(f"A view set of {self.samples} samples with seed {self.seed} cannot be.")
        if not 2 <= rows <= 2**24 or rows & (rows - 1):
            raise CacheError(f"Blocks of {rows} rows cannot be; the number must be a power of two, at least 2.")
        if self.samples > MAX_BLOCKS * rows:
            raise CacheError(f"A view of {self.samples} samples in blocks of {rows} rows cannot be: it has too many.")


@dataclass(frozen=True)
class TeacherIdentity(Identity):
    """The teacher of an entry, how its targets were computed, and how they are stored."""

    name: Annotated[str, Setting("Name of the entry in the cache.")]
    architecture: Annotated[str, Setting("The timm name, or module:NAME@VERSION of a module that Python gave.")]
    weights: Annotated[str, Setting("Hash of the weights.")]
    mean: Annotated[tuple[float, ...], Setting("Mean of the normalisation, for pixels in 0..1.", exact=True)]
    std: Annotated[tuple[float, ...], Setting("Deviation of the normalisation, for pixels in 0..1.", exact=True)]
    size: Annotated[int, Setting("Pixels a side of the square input.")]
    precision: Annotated[str, Setting("Number format of the layers: fp32, bf16 or fp16.")]
    batch_size: Annotated[int, Setting("Rows of the one batch shape that the teacher runs.")]
    targets: Annotated[dict[str, Any], Setting("Kind and parameters of the codec.")]
    num_classes: Annotated[int, Setting("Number of the teacher's classes.")]
    label_space: Annotated[str, Setting("`teacher` where the labels are classes of the teacher's, else `none`.")] = (
        field(default="teacher", metadata={"neutral": "teacher"})
    )

    noun: ClassVar[str] = "teacher"
    remedies: ClassVar[Mapping[str, str]] = {
        "architecture": "Use the teacher that was used before, or store these targets under another name "
        "(dump-logits --name NAME).",
        "weights": "Use the weights that were used before, or store these targets under another name "
        "(dump-logits --name NAME).",
        "targets": "Use the settings that were used before, or store these targets under another name "
        "(dump-logits --name NAME).",
    }

    def __post_init__(self) -> None:
        if not TEACHER_NAME.fullmatch(self.name):
            raise CacheError(
                f"'{self.name}' cannot be the name of a teacher in a cache; "
                "use letters, digits, '.', '_' and '-' (100 at most), beginning with a letter or digit; not zarr.json."
            )
        if self.label_space not in ("teacher", "none"):
            raise CacheError(f"The label space '{self.label_space}' is not known; use teacher or none.")
        numbers = (self.size, self.batch_size, self.num_classes)
        if not all(1 <= number <= most for number, most in zip(numbers, MAX_NUMBERS, strict=True)):
            raise CacheError(
                f"A teacher of size {self.size}, batch size {self.batch_size} and {self.num_classes} classes cannot be."
            )


def require_same(stored: Identity, wanted: Identity, what: str) -> None:
    """Raise IdentityError for the first field that differs, with both values and what to do.

    `what` names the stored thing in the message ("The cache PATH"). Fields of nested values are named with
    dots.
    """
    ours, theirs = _flat(stored.to_json()), _flat(wanted.to_json())
    order = [entry.name for entry in fields(stored)]  # type: ignore[arg-type]

    def rank(name: str) -> tuple[int, bool, str]:
        """Fields in their order; within one, what both have (a kind) before what only one has (its details)."""
        return order.index(name.split(".")[0]), not (name in ours and name in theirs), name

    names = sorted(ours.keys() | theirs.keys(), key=rank)
    for name in names:
        have, want = ours.get(name), theirs.get(name)
        if have != want or type(have) is not type(want):
            remedy = stored.remedies.get(name.split(".")[0], "Use the same setting, or another --cache.")
            raise IdentityError(
                f"{what} has {name} {_short(have)}, and {_short(want)} was asked for. "
                + remedy.format(stored=_short(have)),
                field=name,
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted names; lists and scalars as they are, nothing where a field is left out."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, part in value.items():
        found |= _flat(part, f"{prefix}.{name}" if prefix else name)
    return found


def _as_stored(value: Any) -> Any:
    """Return a plain value as it comes back from its canonical JSON: tuples are lists, and names are sorted."""
    if isinstance(value, dict):
        return {name: _as_stored(value[name]) for name in sorted(value)}
    return [_as_stored(part) for part in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    """Return a value as it appears in a message."""
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
