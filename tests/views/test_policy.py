"""A policy is its JSON form; nothing unknown passes."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import ConfigError
from kdcache.views.policies import NAMED, ORIGIN, describe_policy, load_policy, load_with_base
from kdcache.views.policy import Policy
from support.command_line import kdcache

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
        {"warp_interpolation": "bilinear"},
        {"reference_size": 2.5},
        {"reference_size": 0},
        {"cutmix_minmax": [0.0, 0.5]},
        {"crop": "center"},
        {"crop_pct": 0.0},
        {"pad": 4},
        {"color_jitter": [0.1, 0.1]},
        {"color_jitter": [0.1, 0.1, 0.1, 0.6]},
        {"color_jitter": -0.1},
        {"fill": [0, 0, 256]},
        {"erase_prob": 1.1},
        {"erase_mode": "noise"},
        {"erase_count": 0},
        {"repeats": 0},
        {"auto_augment": "rand-q"},
        {"auto_augment": 9},
        {"mixup_off_view": -1, "mixup": 0.1},
        {"mixup_off_view": 4, "mixup": 0.1, "repeats": 3},
        {"mixup_off_view": 4},
    ],
)
def test_a_wrong_value_is_refused_by_name(values):
    with pytest.raises(ConfigError, match=f"policy.{next(iter(values))}"):
        Policy.from_json(values)


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        (
            {"mixup": "0.8", "mixip": 1, "repeats": 2.5, "fill": 3, "cutmix_minmax": "x", "crop": 1},
            [
                "mixup is '0.8': give a number.",
                "mixip is no field. Did you mean mixup?",
                "repeats is 2.5: give a whole number.",
                "fill is 3: give three numbers.",
                "cutmix_minmax is 'x': give two numbers.",
                "crop is 1: use resized, centre, padded, evaluation.",
            ],
        ),
        (
            {"hflip": 3, "crop": "paded", "pad": 4, "erase_count": 0},
            [
                "hflip is 3.0: a probability lies in 0..1.",
                "crop is 'paded': use resized, centre, padded, evaluation.",
                "erase_count is 0: give a whole number from 1 to 64.",
            ],
        ),
        (
            {
                "mixip": 1,
                "mixup": 2,
                "hflip": "x",
                "pad": -1,
                "cutmix": 1e-4,
                "crop_scale": [1, 2],
                "fill": [0, 0, 256],
            },
            [
                "mixip is no field. Did you mean mixup?",
                "hflip is 'x': give a number.",
                "cutmix is 0.0001: alpha is 0 (off) or at least 0.001.",
                "crop_scale is (1.0, 2.0): shares of the image end at 1.",
                "fill is (0.0, 0.0, 256.0): give three values in 0..255.",
                "pad is -1 and policy.crop 'resized': a padded crop needs pad, 1 to reference_size pixels, and no "
                "other crop has it.",
            ],
        ),
    ],
)
def test_all_faults_of_a_kind_are_named_at_once(values, faults):
    with pytest.raises(ConfigError) as caught:
        Policy.from_json(values)
    assert str(caught.value) == " ".join(f"policy.{fault}" for fault in faults)


def test_a_policy_that_python_makes_is_checked_too():
    with pytest.raises(ConfigError, match=r"crop is 'x': use .*hflip is True: give a number"):
        Policy(hflip=True, crop="x")
    assert Policy(mixup=1, fill=[0, 0, 0]) == Policy(mixup=1.0, fill=(0.0, 0.0, 0.0))


def test_a_padded_crop_needs_its_padding():
    with pytest.raises(ConfigError, match=r"policy.pad is 0.*a padded crop needs pad"):
        Policy(crop="padded")


def test_timms_short_forms_of_the_jitter_are_read():
    assert Policy.from_json({"color_jitter": 0.3}).color_jitter == (0.3, 0.3, 0.3, 0.0)
    assert Policy.from_json({"color_jitter": [0.1, 0.2, 0.3]}).color_jitter == (0.1, 0.2, 0.3, 0.0)


def test_named_policies_come_back_from_their_json_and_differ():
    for policy in NAMED.values():
        assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    assert len(set(NAMED.values())) == len(NAMED) == len(ORIGIN)
    assert all(ORIGIN[name] for name in NAMED)


def test_released_policies_never_change():
    """Caches in use are told apart by these values."""
    assert NAMED["crop"].to_json() == {}
    assert NAMED["crop-mix"].to_json() == {"mixup": 0.1, "cutmix": 1.0}
    assert NAMED["fashion-mnist"].to_json() == {"crop_scale": [0.7, 1.0], "reference_size": 32}


@pytest.mark.parametrize(
    ("prefix", "scheme", "interpolation"),
    [("", "rand-m7-mstd0.5", "random"), ("rsb-", "rand-m7-mstd0.5-inc1", "bicubic")],
)
def test_procedures_a1_and_a2_differ_in_mixup_alone(prefix, scheme, interpolation):
    """Without a prefix as the code of VanillaKD has them, with one as ResNet strikes back does."""
    a1, a2 = NAMED[f"{prefix}a1"].to_json(), NAMED[f"{prefix}a2"].to_json()
    assert (a1.pop("mixup"), a2.pop("mixup")) == (0.2, 0.1)
    assert a1 == a2 == {"auto_augment": scheme, "interpolation": interpolation, "cutmix": 1.0, "repeats": 3}


def test_what_a2_was_before_has_no_name_and_is_described_by_its_fields():
    """A cache keeps its policy as fields, so that a name that gets another meaning does not change it."""
    former = Policy(auto_augment="rand-m7-mstd0.5-inc1", cutmix=1.0, mixup=0.1, repeats=3)
    assert describe_policy(former, 0).startswith("auto_augment rand-m7-mstd0.5-inc1, repeats 3, mixup 0.1, cutmix 1.0")


def test_a_policy_is_described_by_its_name_or_its_fields():
    assert describe_policy(NAMED["a2"], 7) == "a2 (seed 7)"
    assert describe_policy(Policy(mixup=0.3, pad=2, crop="padded"), 0) == "crop padded, pad 2, mixup 0.3 (seed 0)"


def test_a_name_that_is_nearly_right_is_recognised():
    with pytest.raises(ConfigError, match=r"no policy called 'three-augmnt'.*Did you mean three-augment"):
        load_policy("three-augmnt")
    with pytest.raises(ConfigError, match=r"Did you mean a2\?$"):
        load_policy("A2")


def test_a_policy_is_loaded_by_name_or_from_a_file(tmp_path):
    assert load_policy("crop-mix") is NAMED["crop-mix"]
    (tmp_path / "own.json").write_text('{"mixup": 0.3}')
    (tmp_path / "own.yaml").write_text("mixup: 0.3\ncrop_scale: [0.2, 1]\n")
    assert load_policy(str(tmp_path / "own.json")) == Policy(mixup=0.3)
    assert load_policy(str(tmp_path / "own.yaml")) == Policy(mixup=0.3, crop_scale=(0.2, 1.0))


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-03", "0.1e-2", "+1.e-3", "10e-4"])
def test_small_numbers_are_read_however_they_are_written(tmp_path, number):
    (tmp_path / "own.yaml").write_text(f"mixup: {number}\ncutmix_minmax: [{number}, 1e0]\n")
    assert load_policy(str(tmp_path / "own.yaml")) == Policy(mixup=0.001, cutmix_minmax=(0.001, 1.0))
    if "+" not in number and ".e" not in number:
        (tmp_path / "own.json").write_text(f'{{"mixup": {number}}}')
        assert load_policy(str(tmp_path / "own.json")) == Policy(mixup=0.001)


@pytest.mark.parametrize(
    ("name", "text"),
    [("own.yaml", "mixup: 0.1\nmixup: 0.2\n"), ("own.json", '{"mixup": 0.1, "mixup": 0.2}')],
)
def test_a_field_that_comes_twice_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"{name} cannot be read as (JSON|YAML): it has 'mixup' twice"):
        load_policy(str(tmp_path / name))


def test_a_json_file_is_json(tmp_path):
    (tmp_path / "own.json").write_text("mixup: 0.1\n")
    with pytest.raises(ConfigError, match=r"own\.json cannot be read"):
        load_policy(str(tmp_path / "own.json"))


def test_a_file_may_start_from_a_named_policy(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("base: a2\nmixup: 0.4\nrepeats: 1\n")
    assert load_policy(str(file)) == replace(NAMED["a2"], mixup=0.4, repeats=1)
    file.write_text("base: a2\n")
    assert load_policy(str(file)) == NAMED["a2"]


def test_a_field_of_the_base_can_be_set_back_to_its_default(tmp_path):
    file = tmp_path / "own.json"
    file.write_text('{"base": "crop-mix", "mixup": 0.0, "cutmix": 0}')
    assert load_policy(str(file)).to_json() == {}


def test_the_identity_knows_of_no_base(tmp_path):
    (tmp_path / "based.yaml").write_text("mixup: 0.2\nbase: a2\n")
    assert load_policy(str(tmp_path / "based.yaml")).to_json() == NAMED["a1"].to_json()
    assert "base" not in NAMED["a1"].to_json()
    with pytest.raises(ConfigError, match=r"policy\.base is no field"):
        Policy.from_json({"base": "a2"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: crop-mx\n", r"own\.yaml has the base 'crop-mx'.*Did you mean crop-mix"),
        ("base: 3\n", r"has the base 3, which is no named policy.*Known: crop, crop-mix"),
        ("base: a2\nmixip: 0.2\n", r"In .*own\.yaml, policy\.mixip is no field\. Did you mean mixup"),
        ("bsae: a2\n", r"policy\.bsae is no field\. Did you mean base"),
        ("base: a2\nmixup: -1\n", r"policy\.mixup is -1"),
    ],
)
def test_what_is_wrong_in_a_file_with_a_base_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_policy(str(tmp_path / "own.yaml"))


def test_the_command_says_every_field_of_a_file_in_lines_that_are_a_file_again(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("base: b\ncrop_ratio: [1e-05, 1.4]\ncutmix_minmax: [0.2, 0.8]\n")
    said = kdcache("policies", own)
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0] == "# a policy of its own: b with another crop_ratio and cutmix_minmax"
    assert [line.partition("  # ")[2] for line in lines if line.startswith("erase_mode")] == ["as in b"]
    assert [line for line in lines if "# in b: " in line] == [
        f"{'crop_ratio: [1.0e-05, 1.4]':{lines[1].index('#') - 2}}  # in b: [0.75, 1.3333333333333333]",
        f"{'cutmix_minmax: [0.2, 0.8]':{lines[1].index('#') - 2}}  # in b: null",
    ]
    again = tmp_path / "again.yaml"
    again.write_text(said.stdout)
    assert load_policy(str(again)) == load_policy(str(own))
    assert yaml.safe_load(said.stdout)["crop_ratio"] == [1e-5, 1.4]


def test_the_command_says_how_a_named_policy_differs_from_crop():
    lines = kdcache("policies", "a1").stdout.splitlines()
    assert lines[0] == "# the policy a1"
    told = {line.partition(":")[0]: line.partition("# ")[2] for line in lines[1:]}
    assert told.pop("mixup") == told.pop("cutmix") == "in crop: 0"
    assert (told.pop("auto_augment"), told.pop("repeats")) == ('in crop: ""', "in crop: 1")
    assert told.pop("interpolation") == 'in crop: "bilinear"'
    assert set(told.values()) == {"as in crop"}


def test_a_file_without_a_base_is_compared_with_crop(tmp_path):
    (tmp_path / "own.yaml").write_text("hflip: 0.25\n")
    policy, base = load_with_base(str(tmp_path / "own.yaml"))
    assert (policy, base) == (Policy(hflip=0.25), "crop")
    (tmp_path / "own.yaml").write_text("base:\nhflip: 0.25\n")
    assert load_with_base(str(tmp_path / "own.yaml")) == (policy, base)


def test_the_command_refuses_a_file_that_is_no_policy(tmp_path):
    (tmp_path / "own.yaml").write_text("base: a2\nmixip: 0.2\n")
    refused = kdcache("policies", tmp_path / "own.yaml")
    assert refused.returncode == 2
    assert refused.stderr == f"error: In {tmp_path}/own.yaml, policy.mixip is no field. Did you mean mixup?\n"
    assert not refused.stdout


@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", "[1, 2]"), ("b.yaml", "{"), ("c.json", None), ("no-such-policy", None)]
)
def test_an_unreadable_policy_is_an_error_that_names_it(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    target = name if "." not in name else str(tmp_path / name)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        load_policy(target)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", None, "There is no policy file {}. Check the path."),
        ("a.yaml", b"mixup: [1\nhflip: 1\n", "The policy file {} cannot be read as YAML: .* in line 2. Correct it."),
        ("a.json", b'{"mixup": }', "The policy file {} cannot be read as JSON: expecting value in line 1, column 11. "),
        (
            "a.yaml",
            b"mixup: \xff",
            "The policy file {} cannot be read as YAML: it is no UTF-8 text, from byte 7 on. Correct it.",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_plain_words(tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_policy(str(file))
    assert re.match(message.replace(".", r"\.").replace(r"\.*", ".*").format(re.escape(str(file))), str(caught.value))


def test_a_folder_is_no_policy_file(tmp_path):
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"a\.yaml cannot be read: it is a folder and not a regular file\."):
        load_policy(str(tmp_path / "a.yaml"))
