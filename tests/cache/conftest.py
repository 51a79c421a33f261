"""What tests of the cache share."""

import pytest

from support.small_cache import in_files


@pytest.fixture(params=[(4, 4), (4, 2), (4, 1), (2, 2), (2, 1), (1, 1)], ids="files of {0[0]}, chunks of {0[1]}".format)
def file_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of 4 rows in files of this many."""
    in_files(*request.param, monkeypatch)
    return int(request.param[0])
