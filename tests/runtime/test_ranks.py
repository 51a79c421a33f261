"""Which process this is among several: read from the launcher's variables."""

import pytest

from kdcache.errors import UsageError
from kdcache.runtime.device import share_of_cores
from kdcache.runtime.ranks import Ranks


def environment(rank: int, world: int, local_rank: int, local_world: int) -> dict[str, str]:
    values = map(str, (rank, world, local_rank, local_world))
    return dict(zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), values, strict=True))


def test_without_a_launcher_a_process_is_alone() -> None:
    alone = Ranks.from_environment({})
    assert alone == Ranks(0, 1, 0, 1)
    assert alone.is_main


def test_a_launched_process_knows_its_place() -> None:
    ranks = Ranks.from_environment(environment(5, 8, 1, 4))
    assert ranks == Ranks(5, 8, 1, 4)
    assert not ranks.is_main


@pytest.mark.parametrize("place", [(2, 2, 0, 1), (0, 2, 2, 2), (0, 1, 0, 2)])
def test_places_that_cannot_be_are_refused(place: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match="torchrun"):
        Ranks.from_environment(environment(*place))
    with pytest.raises(UsageError, match="RANK=x"):
        Ranks.from_environment({"RANK": "x"})


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_THREADS", "8")
    assert share_of_cores() == 8
    for name, value in environment(0, 6, 0, 3).items():
        monkeypatch.setenv(name, value)
    assert share_of_cores() == 2
    monkeypatch.setenv("KDCACHE_THREADS", "2")
    assert share_of_cores() == 1
