"""The text of a cache card: README.md with the front matter of the Hugging Face hub."""

from collections.abc import Iterator, Mapping

from huggingface_hub import DatasetCardData

from kdcache.errors import printable
from kdcache.runtime.formatting import format_bytes, format_count, format_ranges
from kdcache.runtime.markdown import markdown_table, markdown_text
from kdcache.sharing.card_files import SHEET, with_mark
from kdcache.sharing.facts import CacheFacts, TeacherFacts
from kdcache.version import __version__

#: What stands for a repository that is not known yet.
SOMEWHERE = "hf://datasets/OWNER/NAME"

#: Names of the hub for numbers of images, each with the number that it stays under.
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGER = "10M<n<100M"

_USE = """\
## Use

```sh
kdcache cache pull {place} cache
kdcache train --student resnet50 --data DATA --cache cache
```

The first command copies the cache and checks every byte; `--views 0:50` takes a part. The second trains a student from
it without the teacher (`--cache {place}` reads it where it lies). `DATA` are the shards of the very
images that the teacher saw: they are not in this repository, and kdcache compares their fingerprint.
"""

_LICENCE = """\
## Licence

To be filled in, here and as `license` at the top of this file. Outputs of a model may be bound by the licence of its
weights, and by that of the images that it was run on.

| of | licence |
|---|---|
| the images | to be filled in |
{teachers}
| this cache | to be filled in |
"""


def cache_card(facts: CacheFacts, place: str | None, *, has_sheet: bool) -> str:
    """Return the text of a cache's card.

    Args:
        facts: what the cache is.
        place: URL of its repository on the hub; None where it has none yet.
        has_sheet: whether a contact sheet lies beside the card.
    """
    names = ", ".join(teacher.identity["name"] for teacher in facts.teachers)
    licences = "\n".join(
        f"| the weights of {markdown_text(teacher.identity['name'])} | to be filled in |" for teacher in facts.teachers
    )
    parts = [
        f"---\n{_front_matter(facts, names)}\n---\n",
        f"# Outputs of {markdown_text(names) or 'no teacher yet'} for knowledge distillation\n",
        f"What {'these teachers say' if len(facts.teachers) > 1 else 'this teacher says'} of augmented views of "
        f"{format_count(facts.samples, 'image')}, stored by kdcache {__version__}. A student is trained on "
        "the same views\nwithout the teacher: kdcache makes each of them again from its image.\n",
        _USE.format(place=place or SOMEWHERE),
        markdown_table("Data", dict(_data_rows(facts))),
        markdown_table("Policy", dict(_policy_rows(facts))),
        f"![Views of some of the images]({SHEET})\n" if has_sheet else "",
        *(_teacher_part(teacher) for teacher in facts.teachers),
        _LICENCE.format(teachers=licences) if licences else _LICENCE.replace("{teachers}\n", ""),
    ]
    return with_mark("\n".join(part for part in parts if part))


def _front_matter(facts: CacheFacts, names: str) -> str:
    data = DatasetCardData(
        license="unknown",
        pretty_name=printable(f"Outputs of {names} for knowledge distillation"),
        task_categories=["image-classification"],
        size_categories=[next((name for most, name in _SIZES if facts.samples < most), _LARGER)],
        tags=["kdcache", "knowledge-distillation", "zarr"],
        viewer=False,  # the files are chunks of arrays, of which the hub's viewer makes nothing
    )
    return str(data.to_yaml())


def _data_rows(facts: CacheFacts) -> Iterator[tuple[str, str]]:
    yield "images", f"{facts.samples:,}"
    yield "fingerprint", f"`{facts.fingerprint}` (keys, labels, lengths and sizes of all images)"
    if facts.lost:
        yield "lost images", f"{facts.lost:,}, whose pairs a training passes over"


def _policy_rows(facts: CacheFacts) -> Iterator[tuple[str, str]]:
    yield "policy", markdown_text(facts.policy)
    yield "seed", str(facts.seed)
    fields = ", ".join(f"{name}={value}" for name, value in sorted(facts.policy_fields.items()))
    yield "its fields", markdown_text(fields)


def _teacher_part(teacher: TeacherFacts) -> str:
    table = markdown_table(f"Teacher {markdown_text(teacher.identity['name'])}", dict(_teacher_rows(teacher)))
    if teacher.kl is not None:
        return table
    return (
        f"{table}\nHow far the stored targets are from the teacher's outputs was not measured when they were stored.\n"
    )


def _teacher_rows(teacher: TeacherFacts) -> Iterator[tuple[str, str]]:
    who = teacher.identity
    yield "architecture", markdown_text(who["architecture"])
    yield "weights", f"`{markdown_text(who['weights'])}`"
    yield "classes", f"{who['num_classes']:,}"
    yield "images", f"{who['size']} pixels a side, computed in {markdown_text(who['precision'])}"
    targets = who["targets"]
    if isinstance(targets, Mapping):
        yield "targets", markdown_text(", ".join(f"{name}={str(value)[:16]}" for name, value in targets.items()))
    yield "views", _views(teacher)
    if teacher.rows:
        yield "bytes", f"{format_bytes(teacher.size)}, {teacher.size / teacher.rows:,.1f} a view of an image"
    if teacher.kl is not None:
        part = "" if teacher.measured == teacher.blocks else f" (of {teacher.measured:,} of {teacher.blocks:,} blocks)"
        yield "KL", f"{teacher.kl:.3g} nats: mean KL divergence of the targets from the teacher's outputs{part}"


def _views(teacher: TeacherFacts) -> str:
    whole = f"{len(teacher.whole):,}" + (f" ({format_ranges(teacher.whole)})" if teacher.whole else "")
    return whole + (f", and parts of {format_ranges(teacher.begun)}" if teacher.begun else "")
