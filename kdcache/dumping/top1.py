"""A first check of a teacher: does it know these labels at all?"""

import math

import numpy as np

from kdcache.loader.teacher_views import TeacherBatch
from kdcache.runtime.progress import Progress
from kdcache.views.stream import Views


class Top1:
    """How often the teacher's first class is the label that holds most of the image."""

    def __init__(self) -> None:
        self.right = self.seen = 0

    def count(self, views: Views, answered: TeacherBatch) -> None:
        labels = views.rows.labels
        main = np.where(views.rows.weight >= 0.5, labels[:, 0], labels[:, 1])
        first = answered.first.numpy()
        labelled = main >= 0
        self.right += int((first == main)[labelled].sum())
        self.seen += int(labelled.sum())

    @property
    def share(self) -> float | None:
        return self.right / self.seen if self.seen else None

    def say(self, num_classes: int, label_space: str, progress: Progress) -> None:
        """Tell the share, with a warning where it is near chance; nothing where labels are no classes of its."""
        if label_space != "teacher" or self.share is None:
            return
        progress.say(f"The teacher's top-1 on the first block of this run: {self.share:.1%} of {self.seen:,}.")
        if near_chance(self.right, self.seen, num_classes):
            progress.warn(
                f"That is near chance ({1 / num_classes:.1%}): are the labels in the order of the teacher's classes, "
                "and are these the weights you meant? Use --label-space none if the teacher's classes are others."
            )


def near_chance(right: int, seen: int, num_classes: int) -> bool:
    """Whether a teacher surely knows little of these labels: within a tenth of the way from chance to all.

    Surely means that the upper end of a 95 % interval lies there too, so that a few images give no alarm.
    """
    share, chance = right / seen, 1 / num_classes
    upper = share + 1.96 * math.sqrt(max(share * (1 - share), chance * (1 - chance)) / seen)
    return upper < chance + 0.1 * (1 - chance)
