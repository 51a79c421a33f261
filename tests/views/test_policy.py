"""A policy is its JSON form; nothing unknown passes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import ConfigError
from kdcache.views.policies import NAMED, load_policy
from kdcache.views.policy import Policy

shares = st.floats(0.01, 1.0)
policies = st.builds(
    Policy,
    crop_scale=st.tuples(shares, shares).map(sorted).map(tuple),
    hflip=st.floats(0, 1),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    mixup=st.just(0.0) | st.floats(1e-3, 5),
    cutmix=st.just(0.0) | st.floats(1e-3, 5),
    cutmix_minmax=st.none() | st.tuples(shares, shares).map(sorted).map(tuple),
    mix_prob=st.floats(0, 1),
    reference_size=st.integers(8, 512),
)


@given(policies)
def test_a_policy_comes_back_from_its_json(policy):
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


def test_defaults_are_left_out_of_the_identity():
    assert Policy().to_json() == {}
    assert Policy(mixup=0.1, cutmix=1.0).to_json() == {"mixup": 0.1, "cutmix": 1.0}


def test_an_unknown_field_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"mixip.*Did you mean mixup"):
        Policy.from_json({"mixip": 0.2})


@pytest.mark.parametrize(
    "values",
    [
        {"hflip": 1.5},
        {"hflip": "often"},
        {"crop_scale": [0.5, 0.2]},
        {"crop_scale": [0.5, 1.2]},
        {"crop_scale": 0.5},
        {"mixup": -1},
        {"mixup": True},
        {"interpolation": "nearest"},
        {"reference_size": 2.5},
        {"reference_size": 0},
        {"cutmix_minmax": [0.0, 0.5]},
    ],
)
def test_a_wrong_value_is_refused_by_name(values):
    with pytest.raises(ConfigError, match=f"policy.{next(iter(values))}"):
        Policy.from_json(values)


def test_a_policy_is_loaded_by_name_or_from_a_file(tmp_path):
    assert load_policy("crop-mix") is NAMED["crop-mix"]
    (tmp_path / "own.json").write_text('{"mixup": 0.3}')
    (tmp_path / "own.yaml").write_text("mixup: 0.3\ncrop_scale: [0.2, 1]\n")
    assert load_policy(str(tmp_path / "own.json")) == Policy(mixup=0.3)
    assert load_policy(str(tmp_path / "own.yaml")) == Policy(mixup=0.3, crop_scale=(0.2, 1.0))


@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", "[1, 2]"), ("b.yaml", "{"), ("c.json", None), ("no-such-policy", None)]
)
def test_an_unreadable_policy_is_an_error_that_names_it(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    target = name if "." not in name else str(tmp_path / name)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        load_policy(target)
