"""Numbers as reports word them."""

import pytest

from kdcache.dumping.report import DumpReport
from kdcache.inspection.contents import TargetSummary, TeacherReport
from kdcache.runtime.formatting import format_bytes, format_duration


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
    assert format_duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 bytes"), (999, "999 bytes"), (999.6, "1 KB"), (1000, "1 KB"), (999_600, "1 MB")]
)
def test_bytes_have_the_unit_that_suits_them(count: float, words: str) -> None:
    assert format_bytes(count) == words


def test_large_numbers_have_their_thousands_apart() -> None:
    dumped = DumpReport("cache", "big", 131, 2, 1, 1, 66091.0, None, None, dry_run=False)
    dry = DumpReport("cache", "big", 131, 2, 0, 1, 66091.0, 9.0, None, dry_run=True, kl=0.0)
    assert all("66,091.0 bytes a view" in report.lines()[0] for report in (dumped, dry))
    identity = {
        "name": "big",
        "architecture": "resnet50",
        "num_classes": 21841,
        "size": 224,
        "precision": "fp32",
        "batch_size": 128,
        "weights": "0",
        "targets": {"kind": "full", "dtype": "float32"},
    }
    statistics = TargetSummary(131, 1, 0.5, 21841.0, 1.0, 0.1, 0.0, None, ())
    stored = {"log_prob": 87364 * 131, "records": 131}
    text = "\n".join(TeacherReport(identity, (0,), {}, stored, 131, None, (), statistics).lines())
    assert "87,365.00 a view (log_prob 87,364.00, records 1.00)" in text
    assert "21,841.0 classes kept" in text
