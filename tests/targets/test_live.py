import pytest
import torch
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.targets.base import Targets
from kdcache.targets.full import FullCodec
from kdcache.targets.live import LiveTargets
from support.targets_contract import CLASSES, labels_for, same, teacher_log_probs

ROWS = 10


def live(features: bool = True, maps: bool = True) -> LiveTargets:
    random = torch.Generator().manual_seed(0)
    return LiveTargets(
        FullCodec(CLASSES).select(teacher_log_probs(ROWS), labels_for(ROWS)),
        torch.randn(ROWS, 6, generator=random) if features else None,
        tuple(torch.randn(ROWS, 3, side, side, generator=random).bfloat16() for side in (4, 2)) if maps else (),
    )


@pytest.mark.parametrize("rows", [slice(2, 7), torch.tensor([7, 0, 7, 3])])
@pytest.mark.parametrize("features", [True, False])
def test_everything_goes_with_its_row(rows: slice | Tensor, features: bool) -> None:
    whole = live(features)
    part: Targets = whole[rows] if isinstance(rows, slice) else whole.take(rows)
    assert torch.equal(part.log_probs(num_classes=CLASSES), whole.log_probs(num_classes=CLASSES)[rows])
    assert torch.equal(part.label_log_prob().nan_to_num(), whole.label_log_prob()[rows].nan_to_num())
    if features:
        assert torch.equal(part.features(), whole.features()[rows])
    for level, other in zip(part.maps(), whole.maps(), strict=True):
        assert level.dtype == torch.float32
        assert torch.equal(level, other[rows])


@pytest.mark.parametrize(("features", "maps"), [(True, True), (True, False), (False, True)])
def test_parts_make_a_whole(features: bool, maps: bool) -> None:
    whole = live(features, maps)
    joined = LiveTargets.concat([whole[:3], whole[3:3], whole[3:]]).to("cpu")
    assert same(joined.targets, whole.targets)
    assert torch.equal(
        joined.log_probs(num_classes=CLASSES, temperature=2.0), whole.log_probs(num_classes=CLASSES, temperature=2.0)
    )
    if features:
        assert torch.equal(joined.features(), whole.features())
    if maps:
        assert all(torch.equal(a, b) for a, b in zip(joined.maps(), whole.maps(), strict=True))


def test_what_was_not_asked_for_is_refused() -> None:
    with pytest.raises(UsageError, match='targets="embedding"'):
        live(features=False).features()
    with pytest.raises(UsageError, match=r"kdcache.train\(online_teacher=...\)"):
        live(maps=False).maps()
