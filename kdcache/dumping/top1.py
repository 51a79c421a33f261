"""The teacher's top-1 accuracy on the first blocks, which shows whether labels and classes match."""

import math

from kdcache.dumping.pipeline import TeacherBatch
from kdcache.runtime.progress import Progress


class Top1:
    """A count of how often the teacher's likeliest class is the label with the larger share of a mixed image."""

    def __init__(self) -> None:
        self.right = self.seen = 0

    def count(self, batch: TeacherBatch) -> None:
        first = batch.first.numpy()
        labelled = batch.label >= 0
        self.right += int((first == batch.label)[labelled].sum())
        self.seen += int(labelled.sum())

    @property
    def share(self) -> float | None:
        return self.right / self.seen if self.seen else None

    def say(self, num_classes: int, label_space: str, progress: Progress) -> None:
        """Log the share, with a warning if it is near chance; log nothing if labels are not the teacher's classes."""
        if label_space != "teacher" or self.share is None:
            return
        progress.say(f"The teacher's top-1 on the first block of this run: {self.share:.1%} of {self.seen:,}.")
        if near_chance(self.right, self.seen, num_classes):
            progress.warn(
                f"That is near chance ({1 / num_classes:.1%}): check that the labels are in the order of the teacher's "
                "classes, and that these are the right weights. Use --label-space none if the classes are others."
            )


def near_chance(right: int, seen: int, num_classes: int) -> bool:
    """Return whether accuracy is within a tenth of the way from chance to 100 %, with 95 % confidence.

    The upper end of the confidence interval must lie there, so that a few images give no false alarm.
    """
    share, chance = right / seen, 1 / num_classes
    upper = share + 1.96 * math.sqrt(max(share * (1 - share), chance * (1 - chance)) / seen)
    return upper < chance + 0.1 * (1 - chance)
