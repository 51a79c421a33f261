"""Numbers are sorted by (rank, word, number), however few of the word's bits a key has room for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.data.sorting import PIECE, sorted_numbers


def literally(words, ranks):
    """By definition."""
    return sorted(range(len(words)), key=lambda number: (ranks[number], words[number], number))


#: Words that differ in their upper bits, in their lower bits alone, or not at all.
some_words = st.one_of(
    st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]), st.integers(0, 7)
)


@given(st.lists(st.tuples(some_words, st.integers(0, 5)), max_size=60), st.sampled_from([1, 2, 5, 64]))
def test_numbers_are_sorted_by_rank_then_word_then_number(rows, word_bits):
    words = np.array([word for word, _ in rows], np.uint64)
    ranks = np.array([rank for _, rank in rows], np.int64)
    found = sorted_numbers(
        len(rows), lambda numbers: words[numbers], rank=lambda numbers: ranks[numbers], ranks=6, word_bits=word_bits
    )
    assert found.tolist() == literally(words.tolist(), ranks.tolist())
    assert found.dtype == np.int64


@given(st.lists(some_words, max_size=60), st.sampled_from([1, 64]))
def test_without_ranks_they_are_sorted_by_word_then_number(words, word_bits):
    array = np.array(words, np.uint64)
    found = sorted_numbers(len(words), lambda numbers: array[numbers], word_bits=word_bits)
    assert found.tolist() == literally(words, [0] * len(words))


@pytest.mark.parametrize("word_bits", [3, 64])
def test_equal_neighbours_are_found_across_pieces(word_bits):
    count = 2 * PIECE + 100
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, count, dtype=np.uint64)
    words[rng.integers(0, count, 5000)] = words[0]
    ranks = rng.integers(0, 3, count)
    found = sorted_numbers(
        count, lambda numbers: words[numbers], rank=lambda numbers: ranks[numbers], ranks=3, word_bits=word_bits
    )
    assert np.array_equal(found, np.lexsort((np.arange(count), words, ranks)))


def test_it_can_be_given_up_between_two_pieces():
    seen = []

    class GivenUpError(Exception):
        pass

    def pause():
        seen.append(len(asked))
        if len(seen) == 2:
            raise GivenUpError

    asked = []

    def word(numbers):
        asked.append(numbers)
        return numbers.astype(np.uint64)

    with pytest.raises(GivenUpError):
        sorted_numbers(5 * PIECE, word, pause=pause)
    assert len(asked) == 1
