"""Python's functions refuse what the command line refuses: other types, and values outside limits and choices."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

import kdcache
from kdcache.errors import UsageError
from kdcache.runtime.arguments import with_arguments_of
from kdcache.runtime.option import Option


@dataclass(frozen=True)
class Options:
    name: Annotated[str, Option("A name.")]
    count: Annotated[int, Option("A number.", minimum=1, maximum=9)] = 1
    share: Annotated[float | None, Option("A share.", minimum=0.0)] = None
    how: Annotated[str, Option("A way.", choices=("slow", "quick"))] = "slow"
    loud: Annotated[bool, Option("A flag.")] = False
    place: Annotated[Path | None, Option("A file.")] = None
    anything: Any = None


@with_arguments_of(Options, positional=1)
def job(options: Options) -> Options:
    return options


def test_what_the_command_line_takes_is_taken() -> None:
    assert job("a", count=9, share=0, how="quick", loud=True, place="x", anything=[]) == Options(
        "a", 9, 0, "quick", True, Path("x"), []
    )
    assert job(Path("a")).name == "a"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0: give at least 1 and at most 9."),
        ({"count": 10}, "count is 10: give at least 1 and at most 9."),
        ({"count": 2.5}, "count is 2.5: give a whole number."),
        ({"count": True}, "count is true: give a whole number."),
        ({"count": "3"}, "count is '3': give a whole number."),
        ({"share": -0.1}, "share is -0.1: give at least 0.0."),
        ({"share": float("nan")}, "share is nan: give at least 0.0."),
        ({"share": "half"}, "share is 'half': give a number or None."),
        ({"how": "loud"}, "how is 'loud': give slow or quick."),
        ({"loud": 1}, "loud is 1: give True or False."),
        ({"place": 3}, "place is 3: give a path or None."),
    ],
)
def test_what_it_refuses_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        job("a", **arguments)
    assert str(refused.value).lower() == message.lower()


@pytest.mark.parametrize(
    "call",
    [
        lambda: kdcache.verify("no-cache", data="data", teacher="all", samples=0),
        lambda: kdcache.verify("no-cache", data="data", teacher="all", max_kl=-1.0),
        lambda: kdcache.inspect("no-cache", samples=0),
        lambda: kdcache.inspect("no-cache", samples="5"),  # type: ignore[arg-type]
        lambda: kdcache.dump_logits("test_resnet", "data", "no-cache", views="3"),  # type: ignore[arg-type]
        lambda: kdcache.dump_logits("test_resnet", "data", "no-cache", seed=-1),
        lambda: kdcache.train("test_resnet", "data", "no-cache", renderer="cairo"),
        lambda: kdcache.evaluate("test_resnet", "data", image_size=0),
        lambda: kdcache.evaluate("test_resnet", "data", bins=0),
    ],
)
def test_each_job_refuses_it_before_anything_is_opened(call: Any) -> None:
    with pytest.raises(UsageError, match=r"^\w+ is '?[\w.-]+'?: give "):
        call()
