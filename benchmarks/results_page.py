"""The numbers that results.py finds, and the part of docs/results.md that is written from them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdcache.evaluation.scores import mean_and_deviation

BEGIN, END = "<!-- results: begin, written by benchmarks/results.py -->", "<!-- results: end -->"
#: The row of the students that no teacher helps.
ALONE = "labels alone"
#: Student's t, two-sided 95 %, by the number of values.
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


@dataclass(frozen=True)
class Scored:
    """The scores of one model: shares from 0 to 1, NLL and KL in nats; None beside itself for the teacher."""

    top1: float
    nll: float
    ece: float
    agreement: float | None = None
    kl: float | None = None


@dataclass(frozen=True)
class Findings:
    """All that the page tells: settings, scores of the teacher and by row and seed, commands, seconds, machine.

    Attributes:
        students: scores by row of the table, in the order of `scored_seeds`.
        commands: those of the data, the teacher, the cache and the first seed, as they were run.
        seconds: of wall-clock time, by stage.
        versions: of kdcache and the libraries.
    """

    chain: dict[str, Any]
    command: str
    test_images: int
    teacher: Scored
    students: dict[str, list[Scored]]
    scored_seeds: list[int]
    commands: list[str]
    seconds: dict[str, float]
    versions: dict[str, str]
    machine: str

    @classmethod
    def from_json(cls, text: str) -> "Findings":
        """Read what `to_json` wrote."""
        values = json.loads(text)
        rows = {row: [Scored(**one) for one in scored] for row, scored in values.pop("students").items()}
        return cls(teacher=Scored(**values.pop("teacher")), students=rows, **values)

    def to_json(self) -> str:
        """Return all attributes as JSON, each on a line of its own."""
        lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in asdict(self).items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


def block(found: Findings) -> str:
    """The part of the page that this script writes: the table and how it came about."""
    chain = found.chain
    settings = [
        f"{chain['images']:,} training images, the same for teacher and students; {found.test_images:,} test images.",
        f"Teacher: `{chain['teacher']}`, {chain['teacher_epochs']} epochs from labels. Students: `{chain['student']}`, "
        f"{chain['epochs']} epochs, each of which has its own views in the cache.",
    ]
    missing = [seed for seed in chain["seeds"] if seed not in found.scored_seeds]
    if missing:
        settings.append(
            f"**Not finished: {'seed' if len(missing) == 1 else 'seeds'} {_listed(missing)} of "
            f"{_listed(chain['seeds'])} not scored yet.**"
        )
    return "\n".join([*settings, "", *_table(found), "", *_origin(found)])


def _table(found: Findings) -> Iterator[str]:
    seeds = [f"seed {seed}" for seed in found.scored_seeds]
    yield _row(["model", *seeds, "top-1", "less labels alone", "95 % interval", "NLL", "ECE", "agreement", "KL"])
    yield "|---|" + "---|" * (len(seeds) + 7)
    teacher = found.teacher
    cells = [f"teacher, {found.chain['teacher']}", *("" for _ in seeds), f"{100 * teacher.top1:.2f}", "", ""]
    yield _row([*cells, f"{teacher.nll:.3f}", f"{100 * teacher.ece:.2f}", "", ""])
    for row, scored in found.students.items():
        gains = [100 * (ours.top1 - alone.top1) for ours, alone in zip(scored, found.students[ALONE], strict=True)]
        yield _row(
            [
                row,
                *(f"{100 * one.top1:.2f}" for one in scored),
                _spread([100 * one.top1 for one in scored], ".2f"),
                *(("", "") if row == ALONE else (_spread(gains, "+.2f"), _interval(gains))),
                _spread([one.nll for one in scored], ".3f"),
                _spread([100 * one.ece for one in scored], ".2f"),
                _spread([100 * (one.agreement or 0.0) for one in scored], ".2f"),
                _spread([one.kl or 0.0 for one in scored], ".3f"),
            ]
        )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], form: str) -> str:
    spread = mean_and_deviation(values)
    mean = f"{spread.mean:{form}}"
    return mean if spread.deviation is None else f"{mean} ± {spread.deviation:{form.removeprefix('+')}}"


def _interval(gains: Sequence[float]) -> str:
    """The interval of Student's t for the mean difference over seeds; a dash where it has none."""
    spread = mean_and_deviation(gains)
    if spread.deviation is None or len(gains) not in T_95:
        return "-"
    half = T_95[len(gains)] * spread.deviation / len(gains) ** 0.5
    return f"{spread.mean - half:+.2f} to {spread.mean + half:+.2f}"


def _origin(found: Findings) -> Iterator[str]:
    numbers = ", ".join(f"{name} {number}" for name, number in found.versions.items())
    yield f"On {found.machine}, which other jobs used too, with {numbers}."
    yield "This wrote it:"
    yield from ("", "```sh", found.command, "```", "")
    yield f"It ran these commands, the last five for every seed ({_listed(found.scored_seeds)}):"
    yield from ("", "```sh", *found.commands, "```", "")
    yield from ("| stage | seconds |", "|---|---|")
    yield from (f"| {stage} | {seconds:,.0f} |" for stage, seconds in found.seconds.items())


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def with_block(page: str, text: str) -> str:
    """The page with this text between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"The page has no markers; put {BEGIN} and {END} where the table belongs.")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
