"""Texts that describe a plan to a person who looks at its images."""

from kdcache.views.operations import Operation
from kdcache.views.plan import Plan


def describe_crop(plan: Plan, row: int) -> str:
    """The part of the source image that a row shows: "crop 210 x 180 at row 12, column 40, flipped"."""
    top, left, height, width = plan.shown_box()[row].tolist()
    about = "" if plan.crop_pct is None else "about "
    flipped = ", flipped" if plan.flip[row] else ""
    return f"crop {about}{height} x {width} at row {top}, column {left}{flipped}"


def describe_changes(plan: Plan, row: int) -> tuple[str, ...]:
    """What is done to a row's crop, in order: its shift, its operations with their arguments, its erased boxes."""
    down, right = plan.shift[row].tolist()
    ways = (down, "down", "up"), (right, "right", "left")
    moves = [f"{abs(by)} {positive if by > 0 else negative}" for by, positive, negative in ways if by]
    texts = [f"moved {' and '.join(moves)} pixels"] if moves else []
    texts += [
        Operation(op).spec.describe(magnitude)
        for op, magnitude in zip(plan.op[row].tolist(), plan.magnitude[row].tolist(), strict=True)
        if op != Operation.IDENTITY
    ]
    texts += [
        f"erase {bottom - top} x {right - left} at row {top}, column {left}"
        for top, left, bottom, right in plan.erase[row].tolist()
        if bottom > top
    ]
    return tuple(texts)


def describe_mixing(plan: Plan, pair: int) -> str:
    """How the rows of a pair are mixed; both rows keep the same share of themselves."""
    weight, (top, left, bottom, right) = float(plan.weight[pair]), plan.cut[pair].tolist()
    if bottom > top:
        return f"cutmix: {bottom - top} x {right - left} swapped at row {top}, column {left}; keeps {weight:.1%}"
    return f"mixup: keeps {weight:.1%}" if weight < 1 else "not mixed"
