import csv
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdcache.errors import RunError
from kdcache.training.metrics import MetricsTable, TensorBoard, read_metrics
from support.small_disk import files_of

COLUMNS = ("loss", "top1")


def filled(file, steps, **options):
    table = MetricsTable(file, COLUMNS, **options)
    for step in steps:
        table.append(step, {"loss": 1 / (step + 2), "top1": step / 3 if step % 2 else None})
    return table


def test_a_table_has_a_header_and_a_row_for_each_report(tmp_path):
    filled(tmp_path / "metrics.csv", [1, 2])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["step", "loss", "top1"],
            ["1", str(1 / 3), str(1 / 3)],
            ["2", "0.25", ""],
        ]


def test_numbers_read_back_as_they_were(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv", COLUMNS)
    table.append(3, {"loss": 0.1 + 0.2, "top1": 7})
    table.append(4, {"loss": math.inf})
    table.append(5, {"loss": math.nan})
    rows = table.rows()
    assert rows[0] == {"step": 3, "loss": 0.1 + 0.2, "top1": 7}
    assert rows[1]["loss"] == math.inf
    assert math.isnan(rows[2]["loss"])


@pytest.mark.parametrize("killed_at", [0, 1, 3, 5])
def test_a_resumed_table_is_that_of_an_uninterrupted_run(tmp_path, killed_at):
    filled(tmp_path / "whole.csv", range(1, 6))
    filled(tmp_path / "resumed.csv", range(1, 6))
    filled(tmp_path / "resumed.csv", range(killed_at + 1, 6), resume_step=killed_at)
    assert (tmp_path / "resumed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_every_half_written_row_is_dropped(tmp_path):
    filled(tmp_path / "whole.csv", [1, 2])
    whole = (tmp_path / "whole.csv").read_bytes()
    one_row = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(one_row, len(whole)):
        (tmp_path / "cut.csv").write_bytes(whole[:cut])
        filled(tmp_path / "cut.csv", [2], resume_step=1)
        assert (tmp_path / "cut.csv").read_bytes() == whole
        (tmp_path / "cut.csv").write_bytes(whole[:cut])
        assert [row["step"] for row in read_metrics(tmp_path / "cut.csv")] == [1]


def test_other_columns_are_refused(tmp_path):
    filled(tmp_path / "metrics.csv", [1])
    with pytest.raises(RunError, match="--fresh"):
        MetricsTable(tmp_path / "metrics.csv", ("loss", "top5"))


def test_columns_that_an_earlier_version_did_not_have_are_empty(tmp_path):
    filled(tmp_path / "metrics.csv", [1, 2])
    table = MetricsTable(tmp_path / "metrics.csv", ("lr", *COLUMNS, "wait_share"), resume_step=1)
    table.append(2, {"lr": 0.1, "loss": 0.25, "wait_share": 0.5})
    assert table.rows() == [
        {"step": 1, "lr": None, "loss": 1 / 3, "top1": 1 / 3, "wait_share": None},
        {"step": 2, "lr": 0.1, "loss": 0.25, "top1": None, "wait_share": 0.5},
    ]


def test_a_name_that_is_no_column_is_refused(tmp_path):
    with pytest.raises(RunError, match="top5"):
        filled(tmp_path / "metrics.csv", []).append(1, {"top5": 1.0})


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match="Cannot write"):
        MetricsTable(tmp_path / "none" / "metrics.csv", COLUMNS)


def test_bytes_that_are_no_table_are_refused(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\n")
    with pytest.raises(RunError, match="cannot be read"):
        MetricsTable(tmp_path / "metrics.csv", COLUMNS)


def events(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("loss")]


def test_tensorboard_has_the_same_numbers(tmp_path):
    board = TensorBoard(tmp_path, warn=pytest.fail)
    board.append(1, {"loss": 0.5, "top1": None})
    board.append(2, {"loss": 0.25})
    board.close()
    assert events(tmp_path) == [(1, 0.5), (2, 0.25)]


def test_tensorboard_has_each_row_once_whenever_the_run_was_killed(tmp_path):
    """The row that a run goes on with is written again, and what came after it is forgotten."""
    for last_row, steps in ((None, (1, 2, 3)), ({"step": 2.0, "loss": 2.0, "top1": None}, (3, 4))):
        board = TensorBoard(tmp_path, warn=pytest.fail, last_row=last_row)
        for step in steps:
            board.append(step, {"loss": float(step)})
        # No close: killed.
    assert events(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    board = TensorBoard(tmp_path, warn=pytest.fail)
    board.append(1, {"loss": 7.0})
    assert events(tmp_path) == [(1, 7.0)], "a run that begins anew"


def test_a_disk_that_takes_no_events_is_warned_of_once_and_ends_nothing(tmp_path, recwarn):
    warnings = []
    with files_of(10):
        TensorBoard(tmp_path / "new", warn=warnings.append).append(1, {"loss": 1.0})
    board = TensorBoard(tmp_path, warn=warnings.append)
    board.append(1, {"loss": 0.5})
    with files_of(next(tmp_path.glob("events*")).stat().st_size + 10):
        board.append(2, {"loss": 0.25})
        board.append(3, {"loss": 0.125})
        board.close()
    assert len(warnings) == 2
    assert all("metrics.csv has all numbers. Make room" in warning for warning in warnings)
    assert events(tmp_path) == [(1, 0.5)]
    assert not recwarn.list, "of a thread that ended by an error"


def test_a_place_that_takes_no_events_is_warned_of(tmp_path):
    (tmp_path / "events").write_text("a file")
    warnings = []
    board = TensorBoard(tmp_path / "events", warn=warnings.append)
    board.append(1, {"loss": 0.5})
    board.close()
    assert len(warnings) == 1


def test_without_tensorboard_there_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.summary.writer.record_writer", None)
    warnings = []
    board = TensorBoard(tmp_path, warn=warnings.append)
    board.append(1, {"loss": 0.5})
    board.close()
    assert len(warnings) == 1
    assert list(tmp_path.iterdir()) == []
