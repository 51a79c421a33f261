"""`--for`: what is kept follows from what shall be trained."""

import dataclasses

import pytest
import torch

from kdcache.cache.store import Cache
from kdcache.dumping.choice import codec_for, parse_objectives, require_no_labels
from kdcache.dumping.dump import dump
from kdcache.errors import ConfigError, ModelError, UsageError
from kdcache.models.teachers import Teacher
from kdcache.objectives.base import require
from kdcache.objectives.registry import OBJECTIVES
from kdcache.targets.embedding import EmbeddingCodec
from kdcache.targets.full import FullCodec
from kdcache.targets.topk_codec import TopKCodec
from kdcache.training.train import train
from support.capabilities import CAPABILITIES
from support.small_job import MODEL, Heard, dump_request, train_request


class TeacherOf(Teacher):
    """A teacher of so many classes and features that runs nothing; no features: its classifier is not one layer."""

    def __init__(self, classes, features, linear=True):
        self.name = self.architecture = "somebody"
        self.num_classes, self._features, self._linear = classes, features, linear

    @property
    def class_vectors(self):
        return torch.ones(self.num_classes, self._features) if self._features else None

    @property
    def num_features(self):
        return self._features

    def linear_head(self):
        if not self._linear:
            raise ModelError("Its classifier is not one linear layer.")
        return self.class_vectors, self.class_vectors[:, 0]


def chosen(names, teacher):
    heard = Heard()
    return codec_for(teacher, parse_objectives(names), heard), heard.said


@pytest.mark.parametrize(
    ("names", "teacher", "kind", "why"),
    [
        ("kd", (1000, 512), TopKCodec, "kd needs no more than the likely classes"),
        ("kd,bkl,wsld-cifar", (1000, 512), EmbeddingCodec, "wsld needs every class, and 512 features take less"),
        ("kd, dkd,dist", (1000, 512), EmbeddingCodec, "dkd and dist need every class, and 512 features"),
        ("dist", (10, 512), FullCodec, "10 classes take no more than the 512 features"),
        ("dist", (512, 512), FullCodec, "take no more than"),
        ("kd-cifar", (1000, None), FullCodec, "not one linear layer"),
        ("dkd", (1000, 512, False), FullCodec, "cannot be rebuilt"),
        ("dkd", (21843, 6144), FullCodec, "cannot be rebuilt"),
        ("kd,rkd", (10, 512), EmbeddingCodec, "rkd needs the teacher's features"),
    ],
)
def test_the_smallest_kind_that_serves_all_is_chosen_and_said(names, teacher, kind, why):
    codec, said = chosen(names, TeacherOf(*teacher))
    assert type(codec) is kind
    assert getattr(codec, "dtype", "uint8") == "uint8"
    assert len(said) == 1
    assert why in said[0]
    assert "\n" not in said[0]


def test_the_choice_is_what_training_accepts(job, tmp_path):
    """Whatever is chosen for an objective, training with it is not refused for want of anything."""
    for names in ("kd", "dkd,dist", "rkd"):
        cache = tmp_path / names
        dump(dump_request(job.data, cache, job.weights, job.policy, targets=None, objectives=names, views=1))
        for name in names.split(","):
            request = train_request(
                job.data, tmp_path / f"run-{name}", cache=str(cache), epochs=1, overrides=(f"objective.name={name}",)
            )
            assert train(request).steps == 5
    kinds = {
        path.name: Cache.open(path).entry(MODEL).codec.kind for path in tmp_path.iterdir() if "run" not in path.name
    }
    assert kinds == {"kd": "topk", "dkd,dist": "full", "rkd": "embedding"}


def test_features_of_a_teacher_without_a_linear_classifier_are_refused():
    with pytest.raises(ModelError, match="linear"):
        chosen("rkd", TeacherOf(10, 512, False))


@pytest.mark.parametrize("name", ["dkd", "dkd-cifar", "lskd", "lskd-dkd"])
def test_a_teacher_of_too_few_classes_is_refused(name):
    with pytest.raises(UsageError, match=r"needs at least 3 classes, and somebody has 2: leave it out"):
        chosen(f"kd,{name}", TeacherOf(2, 512))


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        ("at", UsageError, r"at compares feature maps.*--online-teacher"),
        ("kd,reviewkd", UsageError, "reviewkd compares feature maps"),
        ("ps-kd", UsageError, "ps-kd learns without a teacher"),
        ("dkx", ConfigError, "dkd"),
        ("distt", ConfigError, r"There is no objective 'distt'\. Did you mean dist\?"),
        ("kd,", ConfigError, "There is no objective ''. Known: kd, kd-cifar, bkl, .*reviewkd-cifar"),
    ],
)
def test_what_no_cache_can_serve_is_refused_before_anything_is_read(names, error, match, tmp_path):
    with pytest.raises(error, match=match):
        dump(dump_request(str(tmp_path / "none"), tmp_path / "cache", tmp_path, None, targets=None, objectives=names))


@pytest.mark.parametrize(
    ("option", "value"), [("targets", "full"), ("k", 5), ("min_prob", 0.1), ("dtype", "uint8"), ("targets", "topk")]
)
def test_a_second_opinion_is_refused(option, value, tmp_path):
    request = dump_request(str(tmp_path / "none"), tmp_path / "cache", tmp_path, None, targets=None, objectives="kd")
    with pytest.raises(UsageError, match=f"so does --{option.replace('_', '-')}: give one"):
        dump(dataclasses.replace(request, **{option: value}))


@pytest.mark.parametrize("name", [*OBJECTIVES])
def test_without_a_label_space_only_what_learns_without_labels_is_kept(name):
    needs = OBJECTIVES[name].needs
    if not needs.teacher or needs.maps:
        return
    heard = Heard()
    if name.removesuffix("-cifar") in ("dkd", "lskd-dkd", "wsld", "ipwd"):
        with pytest.raises(UsageError, match=r"by the label.*--label-space none.*leave it out of --for"):
            require_no_labels(parse_objectives(f"kd,{name}"), heard)
        assert not heard.said
        return
    require_no_labels(parse_objectives(name), heard)
    objective = OBJECTIVES[name]
    beside = " --set objective.vanilla_weight=1" if objective.needs.teacher_features else ""
    assert f"{objective.name} will need --set objective.label_loss=none{beside}." in heard.said[0]
    alone = dataclasses.replace(objective, **objective.without_labels)
    require(alone.needs, targets=CAPABILITIES["live"], unlabelled="1 of 2 images have none", num_classes=10)


def test_what_each_will_want_without_a_label_space_is_said():
    heard = Heard()
    require_no_labels(parse_objectives("kd,rkd,dist,pkt"), heard)
    assert (
        "kd and dist will need --set objective.label_loss=none; "
        "rkd and pkt will need --set objective.label_loss=none --set objective.vanilla_weight=1." in heard.said[0]
    )


def test_a_dump_without_a_label_space_refuses_before_anything_is_read(tmp_path):
    request = dump_request(str(tmp_path / "none"), tmp_path / "cache", tmp_path, None, targets=None, objectives="dkd")
    with pytest.raises(UsageError, match="by the label"):
        dump(dataclasses.replace(request, label_space="none", weights=None))


def test_training_may_be_content_with_less(job, tmp_path):
    cache = tmp_path / "cache"
    dump(dump_request(job.data, cache, job.weights, job.policy, targets="topk", views=1))

    def run(name, **choice):
        settings = {"cache": str(cache), "epochs": 1, "overrides": (f"objective.name={name}",)}
        return train(train_request(job.data, tmp_path / name, **settings, **choice))

    for name in ("kd-cifar", "dkd", "dist", "wsld"):
        with pytest.raises(UsageError, match=r"--approximate.*--targets full or embedding"):
            run(name)
        assert run(name, approximate=True).steps == 5
    with pytest.raises(UsageError, match=r"objective\.name=kd.*--targets full or embedding"):
        run("lskd")
    assert run("lskd", approximate=True).steps == 5
    for name, remedy in (("rkd", "--targets embedding"), ("at", "--online-teacher")):
        with pytest.raises(UsageError, match=remedy):
            run(name, approximate=True)
