"""What tests of dumps share."""

import pytest

from kdcache.models.teachers import Teacher


@pytest.fixture
def launched_rows(monkeypatch) -> list[int]:
    """The rows of each batch that the teacher was given."""
    rows, compute_output = [], Teacher.compute_output

    def counted(teacher, pixels, *arguments, **choice):
        rows.append(len(pixels))
        return compute_output(teacher, pixels, *arguments, **choice)

    monkeypatch.setattr(Teacher, "compute_output", counted)
    return rows
