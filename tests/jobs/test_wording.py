"""Numbers as reports word them."""

import pytest

from kdcache.jobs.common.wording import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.04 seconds"),
        (4.0, "4 seconds"),
        (119.0, "119 seconds"),
        (130.0, "2.2 minutes"),
        (3600.0, "60 minutes"),
        (9000.0, "2.5 hours"),
        (100_000.0, "28 hours"),
        (1_000_000.0, "11.6 days"),
    ],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words
