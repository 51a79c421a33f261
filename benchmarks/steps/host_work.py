"""Host work of a step of training by kind of targets: operations of torch, readings of the device, and CPU time.

The student is one layer, so that what remains is what a step does beside the model: labels, rows of targets, losses,
optimiser and sums of losses. Targets have gone through their codec, as a cache gives them.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdcache.loader.batches import Batch
from kdcache.objectives.base import LossSpec
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.ranks import Ranks
from kdcache.targets.base import TargetCodec, Targets
from kdcache.targets.embedding import EmbeddingCodec
from kdcache.targets.full import FullCodec
from kdcache.targets.head import Head
from kdcache.targets.topk_codec import TopKCodec
from kdcache.training.config import load_config
from kdcache.training.epoch import EpochLosses, loss_values
from kdcache.training.train_state import TrainState

SIZE, FEATURES = 8, 64
#: Operations for which the host waits until a GPU has computed: it needs a number, or how many there are.
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.masked_select", "aten.unique")
WARM_UP = 3


@dataclass(frozen=True)
class HostWork:
    """What one step did, and the CPU seconds that it took as the median of several.

    Attributes:
        labelling: operations that give stored targets their labels, once a batch is there.
        operations: operations of the step itself.
        waiting: those of the step for which a host would wait for its GPU.
    """

    labelling: int
    operations: int
    waiting: int
    seconds: float


class Operations(TorchDispatchMode):
    """Counts the operations of torch that are dispatched while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waiting(self) -> int:
        """How many of them wait for a GPU."""
        return sum(count for name, count in self.found.items() if name.startswith(WAITING))


def codecs(classes: int) -> dict[str, TargetCodec]:
    """Every kind of targets that a cache holds, by the name that the table gives it."""
    head = Head.of(torch.randn(classes, FEATURES, generator=torch.Generator().manual_seed(1)), torch.zeros(classes))
    return {
        "topk": TopKCodec(classes),
        "full, float32": FullCodec(classes),
        "full, uint8": FullCodec(classes, "uint8"),
        "embedding, uint8": EmbeddingCodec(classes, FEATURES, "uint8", head),
        "embedding, float16": EmbeddingCodec(classes, FEATURES, "float16", head),
    }


def stored_targets(codec: TargetCodec, rows: int) -> tuple[Targets, Tensor]:
    """Return targets as they come out of a chunk, without labels, and the labels; every row is mixed with another."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(rows, FEATURES, generator=random).relu()
    log_probs = torch.log_softmax(torch.randn(rows, codec.num_classes, generator=random) * 3, 1)
    own = log_probs.argmax(1)
    labels = torch.stack([own, own.roll(1)], 1)
    targets = codec.select(log_probs, labels, features)
    return codec.decode(codec.encode(targets, rows), rows), labels


def host_work(codec: TargetCodec | None, *, rows: int = 128, classes: int = 1000, runs: int = 10) -> HostWork:
    """Return the host work of a step on the CPU with targets of a codec; supervised without one."""
    state, sums = _state(codec is None, rows, classes), EpochLosses(("kd", "label"))
    found, labels = (None, torch.arange(rows)[:, None] % classes * torch.ones(2, dtype=torch.int64))
    if codec is not None:
        found, labels = stored_targets(codec, rows)
    images = torch.randn(rows, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    bare = Batch(images, labels, torch.full((rows,), 0.7), torch.arange(rows), None)

    def labelled() -> Batch:
        return bare if found is None else replace(bare, targets=found.with_labels(labels))

    def step(batch: Batch) -> None:
        sums.add(loss_values(state.train_step(batch)))

    for _ in range(WARM_UP):
        step(labelled())
    with Operations() as labelling:
        batch = labelled()
    with Operations() as operations:
        step(batch)
    seconds = sorted(_cpu_seconds(lambda: step(labelled()), runs))[runs // 2]
    return HostWork(labelling.found.total(), operations.found.total(), operations.waiting, seconds)


def table(rows: int, classes: int, runs: int) -> Iterator[str]:
    """Yield the lines of a Markdown table of the host work by kind of targets."""
    yield "| targets | operations to label | operations a step | that wait for a device | CPU ms |"
    yield "|---|---:|---:|---:|---:|"
    for name, codec in {"none: supervised": None, **codecs(classes)}.items():
        work = host_work(codec, rows=rows, classes=classes, runs=runs)
        yield f"| {name} | {work.labelling} | {work.operations} | {work.waiting} | {work.seconds * 1000:.2f} |"


def _cpu_seconds(work: Callable[[], None], runs: int) -> Iterator[float]:
    for _ in range(runs):
        start = time.process_time()
        work()
        yield time.process_time() - start


def _state(supervised: bool, rows: int, classes: int) -> TrainState:
    config = load_config("fashion-mnist", assignments=["objective.name=kd", "objective.label_loss=ce"])
    if supervised:
        config = replace(config, objective=config.objective.without_teacher())
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, classes))
    processes = Distributed(Ranks(), torch.device("cpu"))
    return TrainState(module, config, steps_per_epoch=100, spec=LossSpec(classes, None, rows), processes=processes)
