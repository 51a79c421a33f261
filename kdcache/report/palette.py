"""The colours and line styles that tell the series of a chart apart, in light and dark.

The colours are those of Okabe and Ito 2008, "Color Universal Design", which people with any form of colour blindness
can tell apart. Not all eight have a contrast of 3:1 to white and to black paper, as WCAG 2.2 asks for graphics, so each
theme takes those that have. From the sixth series on, the line is dashed, and from the eleventh on, dotted.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """The colours of one theme, as CSS has them.

    Attributes:
        ink, paper, faint, rule, accent: text, background, secondary text, lines of tables and grids, and links.
        series: colours of the series of a chart.
    """

    ink: str
    paper: str
    faint: str
    rule: str
    accent: str
    series: tuple[str, ...]

    def to_css(self) -> str:
        """Return the colours as declarations of CSS variables."""
        named = {name: getattr(self, name) for name in ("ink", "paper", "faint", "rule", "accent")}
        named |= {f"series-{number}": colour for number, colour in enumerate(self.series)}
        return " ".join(f"--{name}: {colour};" for name, colour in named.items())


BLACK, ORANGE, SKY, GREEN = "#000000", "#e69f00", "#56b4e9", "#009e73"
YELLOW, BLUE, VERMILLION, PURPLE = "#f0e442", "#0072b2", "#d55e00", "#cc79a7"

LIGHT = Theme("#1a1a1a", "#ffffff", "#595959", "#d9dce1", BLUE, (BLUE, VERMILLION, GREEN, BLACK, PURPLE))
DARK = Theme("#e8e8e8", "#16181b", "#b3b7bd", "#3a3f47", SKY, (SKY, ORANGE, GREEN, YELLOW, PURPLE))

#: Lengths of dashes and gaps in pixels, for every five series; none is a solid line.
DASHES: tuple[tuple[int, ...], ...] = ((), (7, 4), (2, 3))
COLOURS = len(LIGHT.series)
#: Number of series that can be told apart.
MOST_SERIES = COLOURS * len(DASHES)


def colour_of(series: int) -> str:
    """Return the colour of a series, as a CSS variable that follows the theme."""
    return f"var(--series-{series % COLOURS})"


def dashes_of(series: int) -> tuple[int, ...]:
    """Return the dashes of a series, in pixels."""
    return DASHES[series // COLOURS % len(DASHES)]
