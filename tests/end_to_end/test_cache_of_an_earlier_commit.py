"""A cache, its shards and its teacher as an earlier commit wrote them: opened, verified, extended and trained from."""

import json
import tarfile
from pathlib import Path

import pytest

from kdcache.cache.store import Cache
from kdcache.dumping.dump import dump
from kdcache.inspection.verify import VerifyOptions, verify
from kdcache.training.train import train
from support.small_job import Heard, dump_request, train_request, tree_bytes

#: Made with `support.small_job` at the last commit before the code was brought into its rooms: shards of 26 images,
#: the teacher's weights, a cache of two views with the entries `test_resnet` (topk) and `all` (full), and the losses of
#: a training of two steps from `all`.
GOLDEN = Path(__file__).parents[1] / "golden/format-4.tar.xz"


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder with all of it, unpacked."""
    with tarfile.open(GOLDEN) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "format-4"


def test_it_is_whole_without_a_warning(earlier: Path) -> None:
    report = verify(VerifyOptions(str(earlier / "cache")))
    assert report.whole
    assert report.format_warning is None
    assert Cache.open(str(earlier / "cache")).names() == ["all", "test_resnet"]


def test_more_views_leave_every_byte_that_is_there(earlier: Path) -> None:
    """The samples, the policy, the teacher and the preprocessing are found to be those that it was made with."""
    before = tree_bytes(earlier / "cache")
    heard = Heard()
    policy, weights = str(earlier / "policy.json"), earlier / "teacher"
    dump(dump_request(str(earlier / "data"), earlier / "cache", weights, policy, views=3, name="all"), heard)
    after = tree_bytes(earlier / "cache")
    assert {key: after[key] for key in before} == before
    assert Cache.open(str(earlier / "cache")).entry("all").complete_views() == 3
    assert verify(VerifyOptions(str(earlier / "cache"))).whole


def test_a_student_learns_from_it_what_it_learned_then(earlier: Path, tmp_path: Path) -> None:
    """The first loss needs no step: processors differ in its last bits. The second has one step behind it."""
    request = train_request(
        str(earlier / "data"),
        tmp_path / "run",
        cache=str(earlier / "cache"),
        teacher="all",
        epochs=2,
        renderer="pillow",
    )
    first, second = train(request, keep_losses=True).losses
    then = json.loads((earlier / "losses.json").read_text())
    assert first == pytest.approx(then[0], rel=1e-4)
    assert second == pytest.approx(then[1], rel=1e-2)
