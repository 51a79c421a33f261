"""The registry of target kinds: its rows agree with the codecs, which say what can be done with their targets."""

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from kdcache.errors import UsageError
from kdcache.targets.base import Capabilities
from kdcache.targets.embedding import EmbeddingCodec
from kdcache.targets.full import FullCodec
from kdcache.targets.kinds import DEFAULT_KIND, KINDS, codec_class, create_codec, require_options_of
from kdcache.targets.mixture import mixed_capabilities
from kdcache.targets.topk_codec import TopKCodec
from kdcache_cli.dump_logits import dump_logits

#: The options of `dump-logits` that belong to some kinds of targets.
OPTIONS = ("k", "min_prob", "dtype")


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_agrees_with_its_codec(kind: str) -> None:
    codec = codec_class(kind)
    names = [field.name for field in fields(codec)]  # type: ignore[arg-type] # a dataclass, as `Kind.codec` says
    assert codec.kind == kind
    assert [*KINDS[kind].options] == [option for option in OPTIONS if option in names]


@pytest.mark.parametrize("codec", [TopKCodec(10), FullCodec(10), EmbeddingCodec(10, 4)])
def test_the_names_of_tables_are_those_of_their_specifications(codec: TopKCodec | FullCodec | EmbeddingCodec) -> None:
    assert codec.table_names == codec.table_specs().keys()


def test_the_command_offers_every_kind() -> None:
    choices = get_type_hints(dump_logits)["targets"]
    assert get_args(get_args(choices)[0]) == (*KINDS,)
    assert DEFAULT_KIND in KINDS


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("full", {"k": 3}, "--k belongs to --targets topk; full targets take --dtype."),
        ("embedding", {"min_prob": 0.0}, "--min-prob belongs to --targets topk; embedding targets take --dtype."),
        ("topk", {"dtype": "uint8"}, "--dtype belongs to --targets full or embedding; topk targets take --k and "),
    ],
)
def test_options_of_other_kinds_are_refused(kind: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require_options_of(kind, dict.fromkeys(OPTIONS) | given)


@pytest.mark.parametrize("kind", KINDS)
def test_options_of_a_kind_are_taken(kind: str) -> None:
    require_options_of(kind, dict.fromkeys(KINDS[kind].options, 1))
    require_options_of(kind, dict.fromkeys(OPTIONS))


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="'best' are not known; use topk, "):
        create_codec("best", 10)


TOPK, FULL, EMBEDDING = (codec.capabilities for codec in (TopKCodec, FullCodec, EmbeddingCodec))


@pytest.mark.parametrize(
    ("parts", "mixed"),
    [
        ((FULL, FULL), FULL),
        ((FULL, TOPK), TOPK),
        ((EMBEDDING, TOPK), TOPK),
        ((EMBEDDING, FULL), FULL),
        ((EMBEDDING, EMBEDDING), Capabilities("embedding targets", every_class=True)),
    ],
)
def test_a_mixture_can_give_what_each_of_its_parts_can_but_features(
    parts: tuple[Capabilities, ...], mixed: Capabilities
) -> None:
    assert mixed_capabilities(parts) == mixed_capabilities(parts[::-1]) == mixed
