"""The model card of an export: README.md with the front matter of the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData

from kdcache.errors import printable
from kdcache.exporting.origin import Origin, RunFacts
from kdcache.models.card import ModelCard
from kdcache.runtime.formatting import format_count
from kdcache.runtime.markdown import markdown_table, markdown_text
from kdcache.version import __version__

#: The scores of metrics.csv, each with its name in the card; shares, but for the loss.
_SCORES = {"val_top1": "top-1 accuracy", "val_top5": "top-5 accuracy", "val_loss": "cross-entropy (nats)"}
#: As many names of classes are listed.
_LISTED = 20


@dataclass(frozen=True)
class Exported:
    """What is known of an export beside its model.

    Attributes:
        origin: the weights.
        format, dtype: names of its format and number format.
        is_average: whether the weights are a moving average; None where nothing tells.
        usage: Python that loads it, with FOLDER for its folder.
        library: library that loads it, by its name on the hub.
    """

    origin: Origin
    format: str
    dtype: str
    is_average: bool | None
    usage: str
    library: str


def model_card(exported: Exported, card: ModelCard, facts: RunFacts) -> str:
    """Return the text of a model card: front matter, the facts as tables, and code that loads the model."""
    parts = [
        f"---\n{_front_matter(exported, card, facts)}\n---\n",
        f"# {markdown_text(exported.origin.label)}\n",
        f"{markdown_text(card.architecture)} for the classification of images, trained with kdcache "
        f"{__version__}{' by knowledge distillation' if facts.teacher else ''}.\n",
        markdown_table("Model", dict(_model_rows(exported, card))),
        markdown_table("Training", dict(_training_rows(exported, facts))),
        markdown_table(
            "Scores", dict(_score_rows(facts)), "On the images of `--val` of the training, after the same epoch."
        ),
        f"## Use\n\n```python\n{exported.usage}\n```\n",
        f"`FOLDER` is the folder that this file lies in. Images are {_colours(card)}, resized and cropped as the table "
        "of the model "
        "says,\nthen divided by 255, less the mean, over the standard deviation.\n",
        "## Licence\n\nTo be filled in: the licences of the training data and of the teacher may bind the model too.\n",
    ]
    return "\n".join(part for part in parts if part)


def _colours(card: ModelCard) -> str:
    return 'grey (`convert("L")` of Pillow)' if card.input_size[0] == 1 else "RGB"


def _front_matter(exported: Exported, card: ModelCard, facts: RunFacts) -> str:
    tags = ["image-classification", "kdcache", *(["knowledge-distillation"] if facts.teacher else []), exported.library]
    top1 = (facts.scores or {}).get("val_top1")
    results = None
    if top1 is not None:
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type="validation",
                dataset_name="the images of --val",
                metric_type="accuracy",
                metric_value=top1,
            )
        ]
    data = ModelCardData(
        library_name=exported.library,
        pipeline_tag="image-classification",
        license="unknown",
        tags=list(dict.fromkeys(tags)),
        eval_results=results,
        model_name=printable(exported.origin.label),
    )
    return str(data.to_yaml())


def _model_rows(exported: Exported, card: ModelCard) -> Iterator[tuple[str, str]]:
    yield "architecture", markdown_text(card.architecture)
    if card.model_args:
        yield (
            "arguments",
            markdown_text(", ".join(f"{name}={value}" for name, value in sorted(card.model_args.items()))),
        )
    yield "format", f"{exported.format}, {exported.dtype}"
    if exported.is_average is not None:
        yield "weights", "moving average" if exported.is_average else "of the last step, not averaged"
    yield "classes", f"{card.num_classes:,}"
    if card.class_names:
        more = f" and {len(card.class_names) - _LISTED:,} more" if len(card.class_names) > _LISTED else ""
        yield "names of classes", markdown_text(", ".join(card.class_names[:_LISTED])) + more
    yield "images", f"{' x '.join(map(str, card.input_size))} (channels, height, width)"
    yield "mean, standard deviation", f"{_numbers(card.mean)}; {_numbers(card.std)}"
    yield (
        "evaluation",
        f"{markdown_text(card.interpolation)} interpolation, {card.crop_pct:g} of the image kept, {card.crop_mode}",
    )


def _training_rows(exported: Exported, facts: RunFacts) -> Iterator[tuple[str, str]]:
    if facts.samples is not None:
        yield "training images", f"{facts.samples:,}"
    if facts.fingerprint is not None:
        yield "fingerprint of the data", f"`{markdown_text(facts.fingerprint)}`"
    if facts.teacher is not None:
        teacher = facts.teacher
        yield "teacher", markdown_text(f"{teacher.get('name', '?')} ({teacher.get('architecture', '?')})")
        if isinstance(teacher.get("weights"), str):
            yield "weights of the teacher", f"`{markdown_text(teacher['weights'])}` (BLAKE2b-256)"
        targets = teacher.get("targets")
        if isinstance(targets, Mapping):
            yield "targets", markdown_text(", ".join(f"{name}={value}" for name, value in targets.items()))
    if facts.config is not None:
        config = facts.config
        yield "recipe", markdown_text(config.recipe)
        yield "objective", markdown_text(config.objective.name)
        yield "epochs", f"{exported.origin.epoch or config.schedule.epochs} of {config.schedule.epochs}"
        yield "optimiser", markdown_text(f"{config.optimizer.name}, weight decay {config.optimizer.weight_decay:g}")
        yield "batch", format_count(config.batch_size, "image")
        yield "precision, seed", f"{config.precision}, {config.seed}"


def _score_rows(facts: RunFacts) -> Iterator[tuple[str, str]]:
    for column, name in _SCORES.items():
        value = (facts.scores or {}).get(column)
        if value is not None:
            yield name, f"{value:.4f}" if column == "val_loss" else f"{value:.2%}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
