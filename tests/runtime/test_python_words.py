"""What a message calls by the name of an option is called by that of the argument where Python calls."""

import pytest

from kdcache.errors import CorruptError, UsageError
from kdcache.exporting.options import ExportOptions
from kdcache.runtime.python_words import arguments_of, in_python_words, python_words
from kdcache.training.options import TrainOptions

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
    # The command line calls the same functions, and has its own words.
    assert error.option_words == "--data is damaged. Give another --cache."


@pytest.mark.parametrize(
    ("options", "of_the_command_line", "of_python"),
    [
        (TrainOptions, "--set optimizer.lr= is no number.", "overrides optimizer.lr= is no number."),
        (
            TrainOptions,
            "start anew with --fresh, or in another --out.",
            "start anew with fresh=True, or in another out.",
        ),
        (TrainOptions, "give --teacher-weights FILE, or --decode gpu.", 'give teacher_weights=FILE, or decode="gpu".'),
        (TrainOptions, "--import models.py and --for kd.", "imports models.py and --for kd."),
        (ExportOptions, "leave --no-ema out: --format is onnx.", "leave ema=False out: format is onnx."),
    ],
)
def test_a_job_has_the_names_of_its_own_options(options, of_the_command_line, of_python):
    assert python_words(of_the_command_line, arguments_of(options)) == of_python
