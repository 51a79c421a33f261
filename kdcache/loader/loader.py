"""The loader of a training: the batches of its steps, wherever their targets come from."""

from collections.abc import Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from kdcache.data.reader import SampleReader
from kdcache.loader.batches import Batch, Steps, cached_batches, live_batches, supervised_batches
from kdcache.loader.cached_teachers import CachedTeachers
from kdcache.loader.following import AwaitedBlocks
from kdcache.loader.live_teacher import LiveTeacher
from kdcache.loader.schedule import Schedule
from kdcache.models.network import Normaliser
from kdcache.render.opening import open_renderer
from kdcache.runtime.ranks import Ranks
from kdcache.views.orders import OrdersAhead
from kdcache.views.pixels.fused.launch import runs_on
from kdcache.views.pixels.normalisation import Normalisation
from kdcache.views.stream import Views, stream_views
from kdcache.views.viewset import RowIndices, RowRange, ViewSet


@dataclass(frozen=True)
class Loader:
    """The batches of one process, step after step.

    Attributes:
        view_set: view set of the data set.
        schedule: schedule of the training, which gives the rows of each step.
        source: entries of a cache, or a live teacher, that targets come from; None for labels alone.
        image_size: size of the student's images, in pixels a side.
        renderer: "dali" or "pillow".
        decode: device that decodes images: "auto", "cpu", "gpu" or "hardware".
        device: device of images and targets.
        ranks: rank of this process, whose share of each step is loaded, and number of processes.
        normalise: normalisation of images in 0..255 for the student; None leaves them in 0..255.
        reused_orders: orders in which views are seen again, as of `Steps`.
        follows: whether blocks that are missing in the cache are waited for, as a dump elsewhere adds them.
    """

    view_set: ViewSet
    schedule: Schedule
    source: CachedTeachers | LiveTeacher | None
    image_size: int
    renderer: str
    decode: str
    device: torch.device
    ranks: Ranks
    normalise: Normaliser | None = None
    reused_orders: OrdersAhead | None = None
    follows: bool = False

    def batches(self, first_step: int = 0) -> Generator[Batch, None, None]:
        """Iterate over this process's batches of the schedule's steps, from `first_step` to the last.

        Raises:
            BrokenImageError: a sample cannot be decoded.
            CorruptError: targets in the cache are damaged, or belong to other rows.
        """
        view_set = self.view_set.with_own_orders()
        without_lost = view_set.without_lost if len(view_set.lost) else None
        steps = Steps(self.schedule, first_step, self.ranks, without_lost, self.reused_orders)
        awaited = AwaitedBlocks() if self.follows else None
        with (
            closing(SampleReader(view_set.index)) as reader,
            closing(self._from_source(steps, view_set, reader, awaited)) as batches,
            # Before the threads of the batches are joined, as none may wait for an order or a block then.
            closing(view_set),
            closing(steps),
            nullcontext() if awaited is None else closing(awaited),
        ):
            for batch in batches:
                later = None if self._normalisation is not None else self.normalise
                images = batch.images if later is None else later(batch.images)
                yield replace(batch, images=images, index=view_set.index)

    def _from_source(
        self, steps: Steps, view_set: ViewSet, reader: SampleReader, awaited: AwaitedBlocks | None
    ) -> Generator[Batch, None, None]:
        def open_stream(wanted: Iterable[RowRange | RowIndices], image_size: int) -> Generator[Views, None, None]:
            with open_renderer(
                self.renderer, size=image_size, max_batch=self._largest_batch, device=self.device, decode=self.decode
            ) as renderer:
                yield from stream_views(view_set, reader, renderer, wanted, normalisation=self._normalisation)

        if isinstance(self.source, CachedTeachers):
            return cached_batches(steps, open_stream, self.image_size, self.source, view_set, awaited)
        if isinstance(self.source, LiveTeacher):
            return live_batches(steps, open_stream, self.image_size, self.source, view_set)
        return supervised_batches(steps, open_stream, self.image_size, view_set)

    @cached_property
    def _normalisation(self) -> Normalisation | None:
        """The normalisation that is computed together with mixing; None where it comes afterwards.

        A live teacher sees the pixels before, and the images of a grey student are made of three channels.
        """
        if self.normalise is None or isinstance(self.source, LiveTeacher) or not runs_on(self.device):
            return None
        return None if self.normalise.is_grey else Normalisation(self.normalise.mean, self.normalise.std)

    @property
    def _largest_batch(self) -> int:
        """The largest number of rows that this process renders at once; the renderer reserves memory for as many."""
        own = self.schedule.largest_share(self.ranks.world_size)
        return max(own, self.source.teacher.batch_size) if isinstance(self.source, LiveTeacher) else own
