"""A plan in words, for those who look at pictures."""

from collections.abc import Callable

from kdcache.views.operations import Operation
from kdcache.views.plan import Plan


def crop_words(plan: Plan, row: int) -> str:
    """The part of the source image that a row shows: "crop 210 x 180 at row 12, column 40, flipped"."""
    top, left, height, width = plan.shown_box()[row].tolist()
    about = "" if plan.crop_pct is None else "about "
    flipped = ", flipped" if plan.flip[row] else ""
    return f"crop {about}{height} x {width} at row {top}, column {left}{flipped}"


def change_words(plan: Plan, row: int) -> tuple[str, ...]:
    """What is done to a row's crop, in order: shift, operations with their arguments, erased boxes."""
    down, right = plan.shift[row].tolist()
    ways = (down, "down", "up"), (right, "right", "left")
    moves = [f"{abs(by)} {toward if by > 0 else back}" for by, toward, back in ways if by]
    words = [f"moved {' and '.join(moves)} pixels"] if moves else []
    words += [
        _OPERATIONS[Operation(op)](magnitude)
        for op, magnitude in zip(plan.op[row].tolist(), plan.magnitude[row].tolist(), strict=True)
        if op != Operation.IDENTITY
    ]
    words += [
        f"erase {bottom - top} x {right - left} at row {top}, column {left}"
        for top, left, bottom, right in plan.erase[row].tolist()
        if bottom > top
    ]
    return tuple(words)


def mixing_words(plan: Plan, pair: int) -> str:
    """How the rows of a pair are mixed; both keep the same share of themselves."""
    weight, (top, left, bottom, right) = float(plan.weight[pair]), plan.cut[pair].tolist()
    if bottom > top:
        return f"cutmix: {bottom - top} x {right - left} swapped at row {top}, column {left}; keeps {weight:.1%}"
    return f"mixup: keeps {weight:.1%}" if weight < 1 else "not mixed"


def _plain(name: str) -> Callable[[float], str]:
    return lambda magnitude: name


def _with(text: str, factor: float = 1.0) -> Callable[[float], str]:
    return lambda magnitude: text.format(magnitude * factor)


def _translation(toward: str, back: str) -> Callable[[float], str]:
    return lambda magnitude: f"move {abs(magnitude):.0%} {toward if magnitude >= 0 else back}"


_OPERATIONS: dict[Operation, Callable[[float], str]] = {
    Operation.AUTO_CONTRAST: _plain("auto-contrast"),
    Operation.EQUALIZE: _plain("equalize"),
    Operation.INVERT: _plain("invert"),
    Operation.ROTATE: _with("rotate {:+.1f} degrees"),
    Operation.POSTERIZE: lambda magnitude: f"posterize to {magnitude:.0f} bit{'s' * (magnitude != 1)}",
    Operation.SOLARIZE: _with("solarize from {:.0f}"),
    Operation.SOLARIZE_ADD: _with("solarize, add {:.0f}"),
    Operation.COLOR: _with("colour x {:.2f}"),
    Operation.CONTRAST: _with("contrast x {:.2f}"),
    Operation.BRIGHTNESS: _with("brightness x {:.2f}"),
    Operation.SHARPNESS: _with("sharpness x {:.2f}"),
    Operation.SHEAR_X: _with("shear rows {:+.2f}"),
    Operation.SHEAR_Y: _with("shear columns {:+.2f}"),
    Operation.TRANSLATE_X: _translation("left", "right"),
    Operation.TRANSLATE_Y: _translation("up", "down"),
    Operation.GAUSSIAN_BLUR: _with("blur {:.1f} pixels"),
    Operation.HUE: _with("turn hue {:+.0f} degrees", 360.0),
}
