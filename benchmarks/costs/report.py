"""Results as Markdown: means and spreads over seeds, and arms against the live teacher with the same seed."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from costs.arms import SOURCES
from costs.results import Result

_WORDS = {
    "alone": "none: labels alone",
    "live": "live teacher",
    "full": "`full`",
    "topk": "adaptive top-k, the default",
    "top-3": "fixed top-3",
    "embedding": "`embedding`",
}


def tables(results: Sequence[Result], epochs: int) -> str:
    """A table for each setting and objective, and one of all of them: rows are sources of targets.

    Spreads are sample standard deviations, over the seeds that both arms have where two are compared; in the last
    table, standard errors of means.
    """
    found: dict[tuple[str, str], dict[str, dict[int, Result]]] = {}
    for result in results:
        if result.epochs == epochs:
            setting, objective, source, seed = result.arm.split("/")
            found.setdefault((setting, objective), {}).setdefault(source, {})[int(seed)] = result
    parts = [_table(*part, by_source) for part, by_source in found.items()]
    return "\n".join([*parts, *_overall(list(found.values()))])


def _table(setting: str, objective: str, by_source: Mapping[str, Mapping[int, Result]]) -> str:
    seeds = sorted({seed for results in by_source.values() for seed in results})
    images = next(iter(next(iter(by_source.values())).values())).images
    lines = [
        f"**{setting}, {objective}**: top-1 on {images:,} test images, in percent; differences in points.",
        "",
        f"| targets | bytes a view | mean KL | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | against live |",
        f"|---|---|---|{'---|' * len(seeds)}---|---|",
    ]
    live = by_source.get("live", {})
    for source in filter(by_source.__contains__, SOURCES):
        results = by_source[source]
        one = next(iter(results.values()))
        paired = [100 * (results[seed].top1 - live[seed].top1) for seed in seeds if seed in results and seed in live]
        cells = [
            _WORDS[source],
            "" if one.bytes_per_view is None else f"{one.bytes_per_view:.1f}",
            "" if one.kl is None else f"{fmean(result.kl or 0 for result in results.values()):.2g}",
            *(f"{100 * results[seed].top1:.2f}" if seed in results else "" for seed in seeds),
            _spread([100 * result.top1 for result in results.values()], ".2f"),
            "" if source == "live" or not paired else _spread(paired, "+.2f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _overall(parts: Sequence[Mapping[str, Mapping[int, Result]]]) -> list[str]:
    """The table of all pairs of an arm and its live one; none where no mean of them has an error."""
    lines = []
    for source in [source for source in SOURCES if source != "live"]:
        pairs = [
            (result, part["live"][seed])
            for part in parts
            for seed, result in part.get(source, {}).items()
            if seed in part.get("live", {})
        ]
        if len(pairs) > 1:
            top1 = _mean([100 * (ours.top1 - live.top1) for ours, live in pairs], "+.2f")
            loss = _mean([ours.loss - live.loss for ours, live in pairs], "+.4f")
            lines.append(f"| {_WORDS[source]} | {len(pairs)} | {top1} | {loss} |")
    if not lines:
        return []
    title = "**All of these**: test images, against the live teacher with the same seed; ± is the standard error."
    return [
        "\n".join(
            [title, "", "| targets | pairs | top-1, in points | loss, in nats |", "|---|---|---|---|", *lines, ""]
        )
    ]


def _mean(values: Sequence[float], form: str) -> str:
    return f"{fmean(values):{form}} ± {stdev(values) / len(values) ** 0.5:{form[1:]}}"


def _spread(values: Sequence[float], form: str) -> str:
    mean = f"{fmean(values):{form}}"
    return mean if len(values) < 2 else f"{mean} ± {stdev(values):.2f}"
