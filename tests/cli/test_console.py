"""Progress is a bar on a terminal and a few plain lines elsewhere; reports and tables are plain text on stdout."""

import io
import os
import pty
import subprocess
import sys

import pytest

from kdcache.runtime.progress import Progress
from kdcache_cli.console import PLAIN_INTERVAL, ConsoleProgress, print_table
from kdcache_cli.meter import Meter


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_meter_knows_rate_and_time_left(clock: Clock) -> None:
    meter = Meter(6000, "images", clock=clock)
    assert meter.state() == "0 of 6,000 images"
    clock.now += 10
    meter.advance(1000, {"loss": 1.23456})
    assert meter.state() == "1,000 of 6,000 images, 100/s, 0:50 left, loss 1.235"
    assert meter.summary() == "1,000 images in 0:10, 100/s, loss 1.235"


def test_shares_bytes_and_whole_numbers_are_shown_as_what_they_are(clock: Clock) -> None:
    meter = Meter(10, "images", clock=clock)
    meter.advance(
        5, {"epoch": 3, "step": 12_345, "lr": 0.00123456, "wait_share": 0.1234, "memory_bytes": 2_500_000_000}
    )
    assert meter.state() == "5 of 10 images, epoch 3, step 12,345, lr 0.001235, wait 12%, memory 2.5 GB"


def test_what_was_there_before_does_not_count_as_speed(clock: Clock) -> None:
    meter = Meter(100, "blocks", done=90, clock=clock)
    clock.now += 50
    meter.advance(5, {})
    assert meter.state() == "95 of 100 blocks, 0.1/s, 0:50 left"
    assert meter.summary() == "5 blocks in 0:50, 0.1/s"


def test_a_slow_start_is_forgotten(clock: Clock) -> None:
    meter = Meter(10_000, "images", clock=clock)
    clock.now += 100
    meter.advance(10, {})
    for _ in range(60):
        clock.now += 1
        meter.advance(50, {})
    assert meter.rate == pytest.approx(50)


def test_long_times_are_readable(clock: Clock) -> None:
    meter = Meter(2 * 86400 + 3 * 3600 + 65 + 1, "steps", clock=clock)
    clock.now += 1
    meter.advance(1, {})
    assert meter.state().endswith("2d 3:01:05 left")


def test_elsewhere_than_on_a_terminal_lines_are_few_and_plain(clock: Clock) -> None:
    stream = io.StringIO()
    progress = ConsoleProgress(stream, clock)
    seconds, rate = 95, 10
    with progress.task("Dump", total=seconds * rate) as task:
        for _ in range(seconds):
            clock.now += 1
            task.advance(rate, loss=0.5)
    assert PLAIN_INTERVAL == 30
    assert stream.getvalue().splitlines() == [
        "Dump: 0 of 950 images",
        "Dump: 300 of 950 images, 10/s, 1:05 left, loss 0.5",
        "Dump: 600 of 950 images, 10/s, 0:35 left, loss 0.5",
        "Dump: 900 of 950 images, 10/s, 0:05 left, loss 0.5",
        "Dump: 950 images in 1:35, 10/s, loss 0.5",
    ]


def test_work_that_fails_is_not_said_to_have_ended(clock: Clock) -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), ConsoleProgress(stream, clock).task("Dump", total=10):
        raise KeyboardInterrupt
    assert stream.getvalue() == "Dump: 0 of 10 images\n"


def test_facts_and_warnings_are_lines_of_their_own() -> None:
    stream = io.StringIO()
    progress: Progress = ConsoleProgress(stream)
    progress.say("300 views")
    progress.warn("shards in class order")
    assert stream.getvalue() == "300 views\nwarning: shards in class order\n"


def test_tables_align_words_to_the_left_and_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("model", "top-1", "bytes"), [("teacher", "91.10%", "-"), ("student alone", "6.30%", "1,024.5")])
    assert capsys.readouterr().out.splitlines() == [
        "model           top-1    bytes",
        "teacher        91.10%        -",
        "student alone   6.30%  1,024.5",
    ]


ON_A_TERMINAL = """
import time
from kdcache_cli.console import ConsoleProgress
progress = ConsoleProgress()
with progress.task("Outer", total=100) as outer:
    outer.advance(40, loss=1.5)
    progress.say("a fact [in brackets]")
    with progress.task("Inner", total=2, unit="steps") as inner:
        inner.advance(2)
        time.sleep(0.3)  # bars are drawn ten times a second
    outer.advance(60, loss=0.5)
"""


def test_on_a_terminal_there_is_a_bar() -> None:
    keyboard, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40"}
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(keyboard, 65536)
            except OSError:  # Linux: the last one at the terminal has left
                break
            if not part:
                break
            shown += part
    os.close(keyboard)
    assert process.returncode == 0, shown.decode()
    text = shown.decode()
    assert "━" in text
    assert "40 of 100 images" in text
    assert "loss 1.5" in text
    assert "a fact [in brackets]" in text
    assert "Inner: 2 steps in" in text
    assert "Outer: 100 images in" in text
    assert "\x1b[?25h" in text  # the cursor is given back
