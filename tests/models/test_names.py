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


@pytest.mark.parametrize(
    ("name", "full"),
    [
        *(("resnet20", "cifar_resnet20"), ("cifar_resnet20", "cifar_resnet20"), ("ShuffleV1", "cifar_shufflenetv1")),
        *(("wrn_40_2", "cifar_wrn_40_2"), ("wrn_46_3", "cifar_wrn_46_3"), ("cifar_wrn_52_1", "cifar_wrn_52_1")),
        *(("mobile_half", "cifar_mobilenetv2_050"), ("densenet100_24", "cifar_densenet100_24")),
        *(("cifar_vgg13", "cifar_vgg13"), ("vgg13", "vgg13"), ("resnet50", "resnet50")),
        *(("mobilenetv2_050", "mobilenetv2_050"), ("mobilenetv2", "mobilenetv2_100"), ("resnet32ts", "resnet32ts")),
    ],
)
def test_names_of_networks_for_cifar_are_full_ones_where_timm_has_no_such_network(name, full):
    assert resolve_name(name) == architecture(name) == full
    assert timm.is_model(full)


@pytest.mark.parametrize("wrong", ["wrn_41_2", "cifar_wrn_4_1", "wrn_40_21", "wrn_2404_2", "wrn_40_" + "9" * 5000])
def test_a_wide_network_that_cannot_be_is_refused_with_the_rule(wrong):
    with pytest.raises(ModelError, match=r"no wide residual network .* the depth is 6 n \+ 4"):
        resolve_name(wrong)


@pytest.mark.parametrize(("wrong", "nearest"), [("resnet57", "resnet56"), ("wrn-40-2", "wrn_40_2"), ("vgg-8", "vgg8")])
def test_a_mistyped_network_for_cifar_is_refused_with_the_nearest(wrong, nearest):
    with pytest.raises(ModelError, match=rf"The nearest names: .*\b{nearest}\b"):
        resolve_name(wrong)


@pytest.mark.parametrize("name", ["wrn_58_7", "wrn_41_9"])
def test_a_model_of_the_users_own_keeps_a_name_that_would_be_short_for_one(name):
    def entrypoint(pretrained=False, **kwargs):
        raise NotImplementedError

    entrypoint.__name__ = name
    timm.models.register_model(entrypoint)
    assert resolve_name(name) == name


def test_a_network_for_cifar_has_no_tag():
    with pytest.raises(ModelError, match=r"no pretrained weights of cifar_resnet20, so that it has no tag 'a1'"):
        resolve_name("resnet20.a1")
