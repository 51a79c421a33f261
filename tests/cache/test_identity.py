"""Identities: canonical, complete, and refused by the name of the field that differs."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.identity import (
    TeacherIdentity,
    ViewSetIdentity,
    canonical,
    require_same,
    seal,
    unseal,
    windows_checksum,
)
from kdcache.errors import CacheError, IdentityError
from support.small_cache import TOPK, identity_of
from support.small_cache import VIEW_SET as SMALL

TEACHER = identity_of(TOPK)
# What a policy's JSON form looks like is no business of an identity's.
VIEW_SET = replace(SMALL, policy={"crop": {"scale": [0.08, 1.0]}, "hflip": 0.5})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_canonical_json_ignores_order_and_survives_a_file(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert canonical(backwards) == canonical(value) == canonical(json.loads(canonical(value)))


@given(st.dictionaries(st.text().filter(lambda name: name != "check"), json_values))
def test_a_seal_opens_to_what_was_sealed(value: dict[str, Any]) -> None:
    assert unseal(json.loads(json.dumps(seal(value))), "here") == value


@pytest.mark.parametrize("value", [None, [], {}, {"a": 1}, {"a": 1, "check": "x"}, {"a": float("nan"), "check": ""}])
def test_what_was_not_sealed_does_not_open(value: Any) -> None:
    with pytest.raises(CacheError, match="/some/file"):
        unseal(value, "/some/file")


@pytest.mark.parametrize("identity", [VIEW_SET, TEACHER, replace(TEACHER, label_space="none")])
def test_an_identity_comes_back_from_its_json(identity: ViewSetIdentity | TeacherIdentity) -> None:
    assert type(identity).from_json(json.loads(canonical(identity.to_json())), "here") == identity


def test_a_digest_is_of_all_that_targets_depend_on_and_of_nothing_else() -> None:
    assert replace(VIEW_SET, format=3).digest == VIEW_SET.digest
    assert replace(TEACHER, name="other").digest == TEACHER.digest
    changed: list[ViewSetIdentity | TeacherIdentity] = [
        *(replace(VIEW_SET, **change) for change in (
            {"fingerprint": "e" * 64}, {"samples": 10}, {"windows": "0"}, {"policy": {}}, {"seed": 8}, {"block_rows": 8}
        )),
        *(replace(TEACHER, **change) for change in (
            {"architecture": "resnet34"}, {"weights": "0124"}, {"mean": (0.5,)}, {"std": (0.3,)}, {"size": 225},
            {"precision": "bf16"}, {"batch_size": 8}, {"targets": {**TEACHER.targets, "k": 9}}, {"num_classes": 13},
            {"label_space": "none"},
        )),
    ]  # fmt: skip
    fields = len(VIEW_SET.to_json()) + len(replace(TEACHER, label_space="none").to_json())
    assert len(changed) == fields - 2, "each field but format and name"
    assert len({identity.digest for identity in [VIEW_SET, TEACHER, *changed]}) == len(changed) + 2


def test_neutral_values_are_left_out() -> None:
    assert "label_space" not in TEACHER.to_json()
    assert replace(TEACHER, label_space="none").to_json()["label_space"] == "none"


@pytest.mark.parametrize("identity", [VIEW_SET, TEACHER])
@pytest.mark.parametrize("wrong", [None, True, 1.5, "x", [1], [[]], {"a": []}, 10])
def test_every_wrong_type_is_a_cache_error(identity: ViewSetIdentity | TeacherIdentity, wrong: Any) -> None:
    for name, right in identity.to_json().items():
        if type(wrong) is not type(right) or isinstance(right, list):
            with pytest.raises(CacheError, match=f"{name} in /z.json"):
                type(identity).from_json({**identity.to_json(), name: wrong}, "/z.json")


@pytest.mark.parametrize("data", [None, [], 3, "x"])
def test_what_is_no_object_is_no_identity(data: Any) -> None:
    with pytest.raises(CacheError, match="holds no teacher"):
        TeacherIdentity.from_json(data, "here")


@pytest.mark.parametrize("identity", [VIEW_SET, TEACHER])
def test_missing_and_unknown_fields_are_named(identity: ViewSetIdentity | TeacherIdentity) -> None:
    data = identity.to_json()
    for name in data:
        with pytest.raises(CacheError, match=f"'{name}'"):
            type(identity).from_json({key: data[key] for key in data if key != name}, "here")
    with pytest.raises(CacheError, match=r"'colour'.*newer"):
        type(identity).from_json({**data, "colour": 1}, "here")


def test_equal_identities_belong_together() -> None:
    require_same(VIEW_SET, replace(VIEW_SET), "The cache")
    require_same(TEACHER, replace(TEACHER), "The teacher")


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"seed": 8}, "seed", ["has seed 7", "8 was asked", "--seed 7"]),
        ({"fingerprint": "e" * 64}, "fingerprint", ["other images"]),
        (
            {"policy": {"crop": {"scale": [0.5, 1.0]}, "hflip": 0.5}},
            "policy.crop.scale",
            ["[0.08, 1.0]", "[0.5, 1.0]"],
        ),
        ({"policy": {"crop": {"scale": [0.08, 1.0]}}}, "policy.hflip", ["0.5", "nothing"]),
        ({"policy": {**VIEW_SET.policy, "mixup": 0.8}}, "policy.mixup", ["nothing", "0.8"]),
        ({"block_rows": 8}, "block_rows", ["4", "8"]),
        ({"samples": 12, "seed": 8}, "samples", ["11", "12"]),
    ],
)
def test_the_first_field_that_differs_is_named(changes: dict[str, Any], field: str, words: list[str]) -> None:
    with pytest.raises(IdentityError) as caught:
        require_same(VIEW_SET, replace(VIEW_SET, **changes), "The cache /c")
    assert caught.value.field == field
    assert str(caught.value).startswith("The cache /c has")
    for word in words:
        assert word in str(caught.value)


def test_true_is_not_one() -> None:
    with pytest.raises(IdentityError, match="True"):
        require_same(replace(VIEW_SET, policy={"a": 1}), replace(VIEW_SET, policy={"a": True}), "It")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "ä", "a" * 101, "a\n", "zarr.json"])
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(CacheError, match="cannot be the name"):
        replace(TEACHER, name=name)


@pytest.mark.parametrize("changes", [{"block_rows": 6}, {"block_rows": 1}, {"samples": 0}, {"seed": 2**32}])
def test_impossible_view_sets_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(CacheError, match="cannot be"):
        replace(VIEW_SET, **changes)


def test_windows_are_told_apart_whatever_their_memory_layout() -> None:
    windows = np.arange(10, dtype=np.int32)
    assert windows_checksum(windows) == windows_checksum(np.repeat(windows, 2)[::2])
    assert windows_checksum(windows) != windows_checksum(windows[::-1])
