"""Teachers that torch.compile compiles: the same outputs, and beside them what they were made by."""

import pytest
import torch
from torch import nn

from kdcache.cache.store import Cache
from kdcache.dumping.dump import dump
from kdcache.errors import ConfigError, ModelError
from kdcache.loader.provenance import warn_of_other_provenance
from kdcache.models.teacher_module import TeacherModule, restored_afterwards, run_as_teacher
from kdcache.models.teachers import load_teacher
from kdcache.training.train import train
from support.small_job import MODEL, Heard, dump_request, train_request

CPU = torch.device("cpu")


@pytest.fixture
def compiled(monkeypatch):
    """Backends that torch.compile was called with."""
    called, torch_compile = [], torch.compile

    def noting(module, *, backend):
        called.append(backend)
        return torch_compile(module, backend=backend)

    monkeypatch.setattr(torch, "compile", noting)
    return called


class Small(nn.Module):
    """A model that is traced in no time, with a layer that it does not run."""

    def __init__(self):
        super().__init__()
        self.pool, self.head, self.unused = nn.AvgPool2d(8), nn.Linear(48, 4), nn.Linear(48, 4)

    def forward(self, images):
        return self.head(self.pool(images).flatten(1))


def own_teacher(module, head):
    return TeacherModule(
        module, name="own", version="1", mean=[0.5] * 3, std=[0.5] * 3, image_size=32, num_classes=4, head=head
    )


def run(own, compiler):
    teacher = run_as_teacher(own, device=CPU, precision="fp32", batch_size=4)
    teacher.compile(compiler)
    return teacher


def pixels(rows):
    return torch.rand(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255


def require_same(teacher, other, **asked):
    found, expected = (each.compute_output(pixels(6), **asked) for each in (teacher, other))
    torch.testing.assert_close(found.log_probs, expected.log_probs)
    assert (found.features is None) == (expected.features is None)
    if found.features is not None:
        torch.testing.assert_close(found.features, expected.features)
    assert len(found.maps) == len(expected.maps)
    for level, theirs in zip(found.maps, expected.maps, strict=True):
        torch.testing.assert_close(level, theirs)


def test_a_compiled_module_gives_logits_and_features_and_keeps_no_hook(compiled):
    module = Small()
    own = own_teacher(module, module.head)
    with restored_afterwards(own):
        plain, ours = run(own, None), run(own, "eager")
        for asked in ({}, {"features": True}, {}):
            require_same(ours, plain, **asked)
        assert compiled == ["eager", "eager"], "once for each form of output, whatever the number of rows"
        ours.linear_head()
        assert ours.weight_hash == plain.weight_hash
        assert len(module.head._forward_pre_hooks) == 1
    assert not module.head._forward_pre_hooks
    unused = own_teacher(module, module.unused)
    with (
        restored_afterwards(unused),
        pytest.raises(ModelError, match="give that layer as the head of its TeacherModule"),
    ):
        run(unused, "eager").compute_output(pixels(4), features=True)


def test_a_compiled_timm_model_gives_maps(job, compiled):
    plain, ours = (load_teacher(MODEL, job.weights, device=CPU, precision="fp32", batch_size=4) for _ in range(2))
    ours.compile("eager")
    require_same(ours, plain, features=True, maps=(0, -1))
    assert compiled == ["eager"]


def test_a_backend_that_is_none_or_fails_is_explained():
    def fails(graph, inputs):
        raise RuntimeError("no compiler")

    torch._dynamo.register_backend(fails, name="kdcache_failing")
    module = Small()
    own = own_teacher(module, module.head)
    with pytest.raises(ConfigError, match=r"The compiler of the teacher is 'nosuch', which is no backend .* inductor"):
        run(own, "nosuch")
    with pytest.raises(ModelError, match=r"backend kdcache_failing of torch.compile fails on own \(.*no compiler"):
        run(own, "kdcache_failing").compute_output(pixels(4))


def test_blocks_note_the_compiler_and_targets_belong_to_one_entry(job, tmp_path, compiled):
    heard, cache = Heard(), tmp_path / "cache"

    def fill(views, **choice):
        dump(dump_request(job.data, cache, job.weights, job.policy, views=views, **choice), heard)
        entry = Cache.open(str(cache)).entry(MODEL)
        return [entry.record(view, 0).provenance.get("compile") for view in range(views)]

    assert fill(1, compile="eager") == ["eager"]
    assert compiled == ["eager"]
    assert any(line.endswith("in batches of 16, compiled by eager.") for line in heard.said)
    assert not heard.warned
    assert fill(2) == ["eager", None]
    (warning,) = heard.warned
    assert warning.startswith("Targets in this cache were computed with compile eager, and here it is none: ")
    warn_of_other_provenance(Cache.open(str(cache)).entry(MODEL), {"compile": "eager"}, 2, heard)
    assert "with compile none, and here it is eager" in heard.warned[1]
    with pytest.raises(ConfigError, match="--compile is 'nosuch'"):
        fill(3, compile="nosuch")


def test_a_live_teacher_is_compiled_by_a_setting(job, tmp_path):
    def begin(**choice):
        heard = Heard()
        overrides = ("compile_teacher=eager",)
        train(train_request(job.data, tmp_path / "run", dry_run=True, overrides=overrides, **choice), heard)
        return heard.said

    said = begin(online_teacher=MODEL, teacher_weights=job.weights)
    assert any("computes targets live" in line and "compiled by eager" in line for line in said)
    with pytest.raises(ConfigError, match="compile_teacher is set, and no teacher runs in this training"):
        begin(cache=str(job.cache))
