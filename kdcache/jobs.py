"""The jobs of the command line as functions with keyword arguments and typed reports; the command line calls them.

What can be asked for is declared once, in the options of each job; these functions take the same names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, overload

from torch import nn

from kdcache.dumping.dump import dump as run_dump
from kdcache.dumping.options import DumpOptions
from kdcache.dumping.report import DumpReport
from kdcache.errors import UsageError
from kdcache.evaluation.evaluate import (
    EvaluateOptions,
    EvaluateSettings,
    TableOptions,
    evaluate_module,
    evaluate_table,
)
from kdcache.evaluation.evaluate import evaluate as run_evaluate
from kdcache.evaluation.report import Scores, ScoreTable
from kdcache.exporting.export import ExportReport
from kdcache.exporting.export import export as run_export
from kdcache.exporting.options import ExportOptions
from kdcache.inspection.contents import InspectReport
from kdcache.inspection.health import VerifyReport
from kdcache.inspection.inspect import InspectOptions
from kdcache.inspection.inspect import inspect as run_inspect
from kdcache.inspection.options import VerifySettings
from kdcache.inspection.rerun import RerunOptions
from kdcache.inspection.verify import VerifyOptions
from kdcache.inspection.verify import verify as run_verify
from kdcache.loader.dataset import mixture_text
from kdcache.models.teacher_module import TeacherModule, restored_afterwards
from kdcache.report.charts import require_charts
from kdcache.report.report import write_evaluation as write_evaluation
from kdcache.report.report import write_inspection as write_inspection
from kdcache.report.running import write_running_report
from kdcache.runtime.arguments import require_declared, values_of, with_arguments_of
from kdcache.runtime.progress import Progress, logged
from kdcache.runtime.python_words import LoggedInPython, arguments_of, in_python_words
from kdcache.sharing.export import push_export, require_model_name
from kdcache.sharing.jobs import pull as pull
from kdcache.sharing.jobs import push as push
from kdcache.sharing.jobs import write_card as write_card
from kdcache.training.options import TEACHERS, TrainOptions
from kdcache.training.train import TrainReport
from kdcache.training.train import train as run_train


@dataclass(frozen=True)
class TrainArguments(TrainOptions):
    """The options of a training, with teachers by name as `open_cache` takes them, and where its messages go."""

    teachers: Annotated[str | Mapping[str, int | float] | None, TEACHERS] = None  # type: ignore[assignment]
    progress: Progress = logged


@with_arguments_of(TrainArguments, positional=3)
def train(options: TrainArguments) -> TrainReport:
    """Train a student from a cache, from labels alone or with the teacher live, as `kdcache train` does.

    Arguments are the options of the command, in its words; `overrides` is a list of those of `--set`, and `teachers`
    may also have weights by name, as `open_cache` takes them. A run that was stopped goes on where its last checkpoint
    was made. Under torchrun every process calls it. Messages go to `progress`, by default to the logger `kdcache`.
    Sizes are in pixels a side. With `dry_run` nothing is trained or written.

    Returns:
        The report: `report.folder`, `report.epochs` and `report.steps` done, `report.loss` (mean of the last epoch),
        `report.images_per_s`, `report.evaluation` (`top1`, `top5` and `loss` on `val`); of a dry run `report.plan`:
        settings, steps, learning rates and memory. `report.lines()` is what the command prints.

    Raises:
        KdcacheError: what does not belong together, before the first step; names it, and what to do.

    Example:
        >>> report = kdcache.train("resnet50", "data", "cache", val="val", epochs=100, overrides=["student.size=160"])
        >>> report.evaluation.top1
        0.781
    """
    after_epoch = None
    if options.report:
        require_charts()  # before anything is trained
        after_epoch = partial(write_running_report, progress=options.progress)
    mixture = options.teachers if isinstance(options.teachers, str | None) else mixture_text(options.teachers)
    values = values_of(TrainOptions, options) | {"teachers": mixture}
    return run_train(TrainOptions(**values), options.progress, after_epoch=after_epoch)


@dataclass(frozen=True)
class DumpArguments(DumpOptions):
    """The options of a dump, with a teacher that may be a module, and where its messages go."""

    teacher: str | TeacherModule  # type: ignore[assignment] # of Python alone: a command line has no module
    progress: Progress = logged


@with_arguments_of(DumpArguments, positional=3)
def dump_logits(options: DumpArguments) -> DumpReport:
    """Run a teacher over every view of a data set and keep its targets in a cache, as `kdcache dump-logits` does.

    Arguments are the options of the command, in its words; `objectives` are those of `--for`. The teacher is a name or
    folder as there, or any module in a `TeacherModule`, which needs neither `weights` nor `size`; a module alone is
    refused, because it tells neither its preprocessing nor its name and version. Stopped and called again it goes on
    where it was. Messages go to `progress`, by default to the logger `kdcache`.

    Returns:
        The report: `report.samples`, `report.views`, `report.written` of `report.blocks`, `report.bytes_per_view` of a
        sample, `report.images_per_s`, `report.top1` of the teacher. `report.lines()` is what the command prints.

    Raises:
        UsageError: a module that is no `TeacherModule`, or options that make no sense.
        KdcacheError: anything else that a user can put right; what was written before stays.

    Example:
        >>> report = kdcache.dump_logits("beitv2_b", "data", "cache", policy="a2", views=300)
        >>> report.bytes_per_view
        21.4
    """
    teacher = options.teacher
    values = values_of(DumpOptions, options)
    if isinstance(teacher, TeacherModule):
        with restored_afterwards(teacher):
            return run_dump(DumpOptions(**(values | {"teacher": teacher.name})), options.progress, own=teacher)
    require_named(teacher)
    return run_dump(DumpOptions(**values), options.progress)


def require_named(teacher: Any) -> None:
    """Raise UsageError for a bare module, which does not tell its preprocessing."""
    if isinstance(teacher, nn.Module):
        raise UsageError(
            "A module alone does not tell its preprocessing and its identity: give kdcache.TeacherModule(module, "
            "name=..., version=..., mean=..., std=..., image_size=..., num_classes=...) as the teacher."
        )


@dataclass(frozen=True)
class InspectArguments(InspectOptions):
    """The options of `inspect`, and where its messages go."""

    progress: Progress = logged


@with_arguments_of(InspectArguments, positional=1)
def inspect(options: InspectArguments) -> InspectReport:
    """Return what a cache belongs to, what it holds and lacks, and statistics of its targets.

    Args:
        cache: path or URL of the cache.
        data: its shards, for the statistics that need labels; None for none of these.
        samples: approximate number of targets of each teacher that are read for the statistics.
        progress: receives the messages; by default Python's logger `kdcache` does.

    Returns:
        The report: `report.lines()` is what the command prints, `report.to_json()` the same as plain values. Sizes are
        in bytes, entropies and KL in nats.

    Raises:
        CacheError: there is no cache.
        IdentityError: `data` does not hold the samples of the cache.

    Example:
        >>> print("\\n".join(kdcache.inspect("cache", data="data").lines()))
    """
    return run_inspect(InspectOptions(**values_of(InspectOptions, options)), options.progress)


#: Options of `verify` that belong to the comparison with the teacher.
_RERUN = ("weights", "samples", "max_kl", "seed", "device", "renderer", "decode", "imports")


@dataclass(frozen=True)
class VerifyArguments(VerifySettings):
    """The options of `verify`, with a teacher that may be a module, and where its messages go."""

    teacher: str | TeacherModule | None = None  # type: ignore[assignment] # of Python alone
    name: str | None = None
    progress: Progress = logged


@with_arguments_of(VerifyArguments, positional=1)
def verify(options: VerifyArguments) -> VerifyReport:
    """Read everything that a cache holds and compare it with what was written, as `kdcache verify` does.

    Args:
        cache: path or URL of the cache.
        data, teacher: with both, the teacher is run again on some views and its outputs are compared with the cache. A
            `TeacherModule` is to be given again as it was given to `dump_logits`.
        name: name of the entry in the cache, of a `TeacherModule` alone; None for the module's own.
        weights: checkpoint of the teacher, where it was dumped from one.
        samples: number of targets that are compared.
        max_kl: largest accepted mean KL divergence from the teacher's outputs, in nats, beside the encoding's error.
        seed: seed of the choice of targets.
        device, renderer, decode: as `kdcache verify` has them.
        imports: modules or files that are imported first, as `--import` does.
        repair: whether to drop damaged blocks, so that the next dump makes them again.
        progress: receives the messages; by default Python's logger `kdcache` does.

    Returns:
        The report; `report.whole` tells whether nothing was found, `report.lines()` what. With a teacher,
        `report.comparison` has its agreement with the cache: `top1`, and `kl` in nats.

    Raises:
        CacheError: there is no cache.
        UsageError: of data and teacher only one is given, or options of the comparison without them; or the teacher is
            a module that is no `TeacherModule`.
        KdcacheError: the comparison cannot be made, in a cache without damage; says what to do.

    Example:
        >>> kdcache.verify("cache", data="data", teacher="beitv2_b", samples=256).whole
        True
    """
    data, teacher, name = options.data, options.teacher, options.name
    if (data is None) != (teacher is None):
        raise UsageError("data and teacher make targets again together: give both, or none of them.")
    if name is not None and not isinstance(teacher, TeacherModule):
        raise UsageError("name belongs to a teacher that is a TeacherModule: name the entry as the teacher instead.")
    rerun = {option: getattr(options, option) for option in _RERUN}
    if data is None or teacher is None:
        given = sorted(option for option, value in rerun.items() if value != getattr(VerifySettings, option))
        if given:
            raise UsageError(f"{given[0]} belongs to data and teacher: give these too, or leave it out.")
        return run_verify(VerifyOptions(cache=options.cache, repair=options.repair), options.progress)
    if isinstance(teacher, TeacherModule):
        if options.weights is not None:
            raise UsageError("A module has its weights: leave weights out, or give the name of a teacher.")
        again = RerunOptions(data=data, teacher=name or teacher.name, module=teacher, **rerun)
        with restored_afterwards(teacher):
            return run_verify(VerifyOptions(options.cache, again, options.repair), options.progress)
    require_named(teacher)
    again = RerunOptions(data=data, teacher=teacher, **rerun)
    return run_verify(VerifyOptions(options.cache, again, options.repair), options.progress)


_EVALUATE_ARGUMENTS = arguments_of(EvaluateSettings, {"size": "image_size"})


@overload
def evaluate(  # type: ignore[overload-overlap] # a text is a sequence of texts, too; it is taken for one name
    model: str | Path | nn.Module,
    data: str | Path,
    *,
    weights: str | Path | None = ...,
    image_size: int | None = ...,
    crop_pct: float | None = ...,
    bins: int = ...,
    real_labels: str | Path | None = ...,
    reference: str | Path | None = ...,
    reference_weights: str | Path | None = ...,
    seed: int = ...,
    device: str = ...,
    precision: str = ...,
    batch_size: int = ...,
    imports: tuple[str, ...] = ...,
    progress: Progress = ...,
) -> Scores: ...


@overload
def evaluate(
    model: Sequence[str | Path],
    data: str | Path | Sequence[str | Path],
    *,
    weights: str | Path | None = ...,
    image_size: int | None = ...,
    crop_pct: float | None = ...,
    bins: int = ...,
    real_labels: str | Path | None = ...,
    reference: str | Path | None = ...,
    reference_weights: str | Path | None = ...,
    seed: int = ...,
    device: str = ...,
    precision: str = ...,
    batch_size: int = ...,
    imports: tuple[str, ...] = ...,
    progress: Progress = ...,
) -> ScoreTable: ...


@in_python_words(_EVALUATE_ARGUMENTS)
def evaluate(
    model: str | Path | nn.Module | Sequence[str | Path],
    data: str | Path | Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    crop_pct: float | None = None,
    bins: int = EvaluateSettings.bins,
    real_labels: str | Path | None = None,
    reference: str | Path | None = None,
    reference_weights: str | Path | None = None,
    seed: int = EvaluateSettings.seed,
    device: str = EvaluateSettings.device,
    precision: str = EvaluateSettings.precision,
    batch_size: int = EvaluateSettings.batch_size,
    imports: tuple[str, ...] = (),
    progress: Progress = logged,
) -> Scores | ScoreTable:
    """Score models on labelled images, seen as timm evaluates, as `kdcache evaluate` does.

    Args:
        model: a run folder, RUN@epoch=N or a timm model name; a timm module of one's own training, which is scored
            where it lies and left in the mode that it had; or a list of names.
        data: labelled shards; beside a list of models, one data set or a list of them.
        weights: checkpoint of the one model that is given by name.
        image_size: pixels a side at which the model is tested; None for the size in its own configuration.
        crop_pct: share of the resized image that is kept, in 0..1, as in timm; None for the model's own.
        bins: number of bins of the confidence, for calibration.
        real_labels: JSON file of several right labels for each image, such as ImageNet-ReaL's.
        reference: name of a teacher or another run; agreement, KL (nats) and difference in accuracy are measured to it.
        reference_weights: checkpoint of the reference.
        seed: seed of the bootstrap interval.
        device: "auto", "cpu", "cuda" or "cuda:N"; of a module it is not asked.
        precision: "fp32", "bf16" or "fp16".
        batch_size: images at a time.
        imports: modules or files that are imported first, as `--import` does; for names.
        progress: receives the messages; by default Python's logger `kdcache` does.

    Returns:
        The scores of one model, among them `top1`, `top5` and `loss`, the mean cross-entropy in nats; `lines()` has
        them as text. Of a list of models a table, whose `rows` are such scores, and `cells()` the rows of text that the
        command prints.

    Raises:
        ModelError: no such model, or weights that do not fit it.
        DataError: data that cannot be read, or have no labels or other classes.
        UsageError: weights of a module, or options that make no sense.

    Example:
        >>> kdcache.evaluate(model, "val", image_size=224).top1
        0.781
        >>> table = kdcache.evaluate(["runs/a", "runs/b"], ["val", "imagenet-v2"], reference="beitv2_b")
        >>> [row.comparison.agreement for row in table.rows if row.comparison]
    """
    files = {"weights": weights, "real_labels": real_labels, "reference_weights": reference_weights}
    values: dict[str, Any] = {name: None if path is None else Path(path) for name, path in files.items()}
    values |= {"size": image_size, "crop_pct": crop_pct, "bins": bins, "seed": seed, "device": device}
    values |= {"precision": precision, "batch_size": batch_size, "imports": imports}
    values["reference"] = None if reference is None else str(reference)
    require_declared(EvaluateSettings, values, {"size": "image_size"})
    progress = LoggedInPython(_EVALUATE_ARGUMENTS) if progress is logged else progress
    if isinstance(model, nn.Module):
        if weights is not None:
            raise UsageError("A module has its weights: leave weights out, or give the name of a model.")
        return evaluate_module(model, str(data), EvaluateSettings(**values), progress)
    if isinstance(model, str | Path) and isinstance(data, str | Path):
        return run_evaluate(EvaluateOptions(str(model), str(data), **values), progress)
    models, sets = ((str(part),) if isinstance(part, str | Path) else tuple(map(str, part)) for part in (model, data))
    return evaluate_table(TableOptions(models, sets, **values), progress)


@dataclass(frozen=True)
class ExportArguments(ExportOptions):
    """The options of an export, and where its messages go."""

    progress: Progress = logged


@with_arguments_of(ExportArguments, positional=1)
def export(options: ExportArguments) -> ExportReport:
    """Write the model of a run for timm, torchvision, ONNX or TorchScript, with a model card, as `kdcache export` does.

    Args:
        run: a run folder, "RUN@epoch=N", or the folder of an export.
        ema: True for the moving average of the weights, False for the weights themselves, of a checkpoint of the run;
            None for the average where the run has one.
        format: "timm", "torchvision", "onnx" or "torchscript".
        dtype: number format of the weights, "float32" or "float16".
        out: folder of the export; None for exports/RUN-FORMAT.
        push_to_hub: OWNER/NAME of a model on the Hugging Face hub that the export is brought to; None for none.
        imports: modules that are imported first, as `--import` names them.
        progress: receives the messages; by default Python's logger `kdcache` does.

    Returns:
        The report: folder, files with their bytes, architecture, and the largest difference of logits between the
        model and the written files.

    Raises:
        ModelError: no such run, epoch or average, or a model that cannot be written in this format.
        UsageError: an unknown format, or options that do not suit what was named.
        RunError: the folder cannot be written, or holds something else; or the hub refuses the export.

    Example:
        >>> report = kdcache.export("runs/first", format="onnx", out="first-onnx")
        >>> report.files["model.onnx"]
        102418733
    """
    name = options.push_to_hub
    if name is not None:
        require_model_name(name)
    report = run_export(ExportOptions(**values_of(ExportOptions, options)), options.progress)
    if name is None:
        return report
    return replace(report, address=push_export(report.folder, [*report.files], name, options.progress))
