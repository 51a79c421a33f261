"""What a message calls by the name of an option is called by that of the argument where Python calls."""

import pytest

from kdcache.errors import CorruptError, UsageError
from kdcache.runtime.python_words import in_python_words, python_words

SENTENCES = {
    "choose one with --teacher, or mix them with --teachers.": "choose one with teacher, or mix them with teachers.",
    "give a --batch-size that is a multiple of 4.": "give a batch_size that is a multiple of 4.",
    "use --decode cpu, or --renderer dali.": 'use decode="cpu", or renderer="dali".',
    "use --precision fp32 or bf16.": 'use precision="fp32" or bf16.',
    "dump again with --targets embedding, or train with --online-teacher.": (
        'dump again with targets="embedding", or train with kdcache.train(online_teacher=...).'
    ),
    # A command stays one, and so does what only a command has.
    "run `kdcache dump-logits --teacher NAME` with another --cache.": (
        "run `kdcache dump-logits --teacher NAME` with another cache."
    ),
    "as before, with --views 4, or run it with --drop-bad.": "as before, with --views 4, or run it with --drop-bad.",
    "--teacher-weights and --no-cache are other options.": "--teacher-weights and --no-cache are other options.",
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_options_are_called_by_the_names_of_arguments(sentence):
    assert python_words(sentence) == SENTENCES[sentence]
    assert python_words(python_words(sentence)) == SENTENCES[sentence]


def test_errors_keep_their_kind_and_all_of_their_parts():
    @in_python_words()
    def refuse(error):
        raise error

    for error in (UsageError("give --data"), CorruptError("--data is damaged.", "Give another --cache.")):
        with pytest.raises(type(error)) as refused:
            refuse(error)
        assert refused.value is error
    assert str(error) == "data is damaged. Give another cache."
    assert (error.problem, error.remedy) == ("data is damaged.", "Give another cache.")
    with pytest.raises(KeyError, match="--data"):
        refuse(KeyError("--data"))
