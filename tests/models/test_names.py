import subprocess
import sys

import pytest
import timm

from kdcache.errors import ModelError
from kdcache.models.names import STUDENTS, TEACHERS, architecture, resolve_name


@pytest.mark.parametrize("known", TEACHERS + STUDENTS, ids=lambda known: known.short)
def test_every_short_name_stands_for_a_model_of_timm(known):
    assert resolve_name(known.short) == known.timm
    assert timm.is_model(known.timm.partition(".")[0])


@pytest.mark.parametrize("known", TEACHERS, ids=lambda known: known.short)
def test_every_teacher_stands_for_weights_that_timm_has(known):
    assert timm.models.is_model_pretrained(known.timm)
    assert known.timm in timm.list_pretrained()


def test_no_name_is_given_twice():
    names = [known.short for known in TEACHERS + STUDENTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet50", "resnet50.a1_in1k", "hf-hub:somebody/something", "hf-hub:gpt2"),
        *("hf-hub:a/b@main", "hf-hub:a/b@refs/pr/3", "hf-hub:a/b@v1.0"),
    ],
)
def test_names_of_timm_pass_as_they_are(name):
    assert resolve_name(name) == name


def test_the_architecture_is_the_name_without_its_tag():
    assert architecture("resnet34") == "resnet34"
    assert architecture("convnext_xl") == "convnext_xlarge"
    assert architecture("resnet50.a1_in1k") == "resnet50"
    with pytest.raises(ModelError, match="architecture"):
        architecture("hf-hub:somebody/something")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("resnet51", "resnet50"), ("beitv2-b", "beitv2_b"), ("vit_smal_patch16_224", "vit_small_patch16_224")],
)
def test_an_unknown_name_is_refused_with_the_nearest(wrong, nearest):
    with pytest.raises(ModelError, match=nearest):
        resolve_name(wrong)


def test_an_unknown_tag_is_refused_with_those_that_are_there():
    with pytest.raises(ModelError, match="tv_in1k"):
        resolve_name("resnet50.tv_in22k")


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "hf-hub:",
            "hf-hub:../x",
            "hf-hub:a/../b",
            "hf-hub:a/b/c",
            "hf-hub:/etc",
            "hf-hub:a/b\x1b[31m",
            "hf-hub:a/\u202eb",
        ),
        *("hf-hub:a/b@", "hf-hub:a/b@../../c", "hf-hub:a/b@/etc", "hf-hub:a/b@c@d", "hf-hub:a/b@c/.."),
    ],
)
def test_what_could_be_no_name_of_the_hubs_is_refused(wrong):
    with pytest.raises(
        ModelError, match=r"no name that the Hugging Face hub could have: give hf-hub:OWNER/MODEL"
    ) as it:
        resolve_name(wrong)
    assert str(it.value).isprintable()


@pytest.mark.parametrize("wrong", ["", "../weights", "local-dir:/nowhere", "a/b"])
def test_what_is_no_name_at_all_is_refused(wrong):
    with pytest.raises(ModelError, match="no model called"):
        resolve_name(wrong)


def test_the_table_of_names_does_not_need_torch():
    code = "import sys, kdcache.models.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
