"""Relations and feature maps against torchdistill's independent code, where both follow the same formula."""

import pytest
import torch
from torchdistill.losses.mid_level import (
    ATLoss,
    CCKDLoss,
    CRDLoss,
    HierarchicalContextLoss,
    PKTLoss,
    RKDLoss,
    SPKDLoss,
)
from torchdistill.models.wrapper import AttentionBasedFusion

from kdcache.objectives.attention import attention
from kdcache.objectives.cc import cc_kernel
from kdcache.objectives.crd import Contrast
from kdcache.objectives.geometry import unit
from kdcache.objectives.pkt import pkt
from kdcache.objectives.reviewkd import Fusion, hierarchical_context
from kdcache.objectives.rkd import rkd
from kdcache.objectives.sp import sp
from support.relations import features

seeds = pytest.mark.parametrize("seed", range(3))


def at(values):
    """Something that a network said, at a place that both sides name alike."""
    return {"at": {"output": values}}


def maps(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@seeds
def test_rkd(seed):
    student, teacher = features(seed, rows=12)
    theirs = RKDLoss("at", "at", 25.0, 50.0, "mean")(at(student), at(teacher))
    torch.testing.assert_close(rkd(student, teacher), theirs, rtol=1e-6, atol=0)


@seeds
def test_pkt(seed):
    student, teacher = features(seed, rows=12)
    theirs = PKTLoss("at", "output", "at", "output")(at(student.clone()), at(teacher.clone()))
    torch.testing.assert_close(pkt(student, teacher), theirs, rtol=1e-6, atol=0)


@seeds
def test_sp(seed, monkeypatch):
    student, teacher = features(seed, rows=12)
    # Its rows have a sum of 1 where the paper's have a length of 1.
    monkeypatch.setattr("torchdistill.losses.mid_level.normalize", lambda rows, _: unit(rows))
    theirs = SPKDLoss("at", "at", "batchmean")(at(student), at(teacher))
    torch.testing.assert_close(sp(student, teacher), theirs, rtol=1e-6, atol=0)


@seeds
def test_the_kernel_of_cc(seed):
    student, teacher = map(unit, features(seed, rows=12))
    # Its distance is not squared.
    theirs = CCKDLoss("at", "at", {"type": "gaussian", "gamma": 0.4, "max_p": 2}, "sum")(at(student), at(teacher))
    torch.testing.assert_close(cc_kernel(student, teacher), theirs**2 / 12**2, rtol=1e-6, atol=0)


@seeds
def test_attention(seed):
    student, teacher = maps(seed, 3, 4, 6, 6), maps(seed + 1, 3, 5, 6, 6)
    place = {"io": "output", "path": "at"}
    theirs = ATLoss({"one": {"student": place, "teacher": place}})(at(student), at(teacher))
    torch.testing.assert_close(attention([student], [teacher]), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 14])
def test_hierarchical_context(size):
    student, teacher = maps(0, 2, 3, size, size), maps(1, 2, 3, size, size)
    theirs = HierarchicalContextLoss("at", "output", "at", "output")(at((student, None)), at(teacher))
    torch.testing.assert_close(hierarchical_context([student], [teacher]), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("fuses", [True, False])
def test_fusion(fuses):
    torch.manual_seed(0)
    theirs, ours = AttentionBasedFusion(3, 4, 5, fuses).double(), Fusion(3, 4, 5, fuses=fuses).double()
    renamed = {"conv1": "inward", "conv2": "outward", "attention_conv": "weigh"}
    weights = {name.split(".", 1)[0]: None for name in theirs.state_dict()}
    assert {*weights} <= {*renamed}
    ours.load_state_dict(
        {f"{renamed[part]}.{rest}": value for (part, rest), value in _split(theirs.state_dict()).items()}
    )
    level, coarse = maps(2, 2, 3, 8, 8), maps(3, 2, 4, 4, 4)
    for one, other in zip(ours(level, coarse, (8, 8)), theirs(level, coarse, 8), strict=True):
        torch.testing.assert_close(one, other)


def _split(state):
    return {tuple(name.split(".", 1)): value for name, value in state.items()}


def test_crd():
    samples, width, negatives = 20, 4, 6
    ours = Contrast(6, 5, samples, torch.Generator().manual_seed(1), width=width).double()
    # Its own table of aliases cannot be made, and is not asked where negatives are given.
    theirs = CRDLoss.__new__(CRDLoss)
    torch.nn.Module.__init__(theirs)
    theirs.student_norm_module_path = theirs.teacher_norm_module_path = "at"
    theirs.student_empty_module_path = "rows"
    theirs.eps, theirs.num_samples, theirs.probs = 1e-7, samples, torch.ones(1)
    theirs.params = torch.tensor([negatives, 0.07, -1, -1, 0.5], dtype=torch.float64)
    theirs.memory_v1, theirs.memory_v2 = ours.student_memory.clone(), ours.teacher_memory.clone()
    random = torch.Generator().manual_seed(2)
    for step in range(4):
        student, teacher = features(step, rows=3, student=6, teacher=5)
        own = torch.randperm(samples, generator=random)[:3]
        others = torch.randint(samples, (3, negatives), generator=random)
        compared = {"pos_idx": own, "contrast_idx": torch.cat([own[:, None], others], dim=1)}
        said = (unit(ours.embed_student(student)), unit(ours.embed_teacher(teacher)))
        expected = theirs({**at(said[0]), "rows": {"input": compared}}, at(said[1]))
        torch.testing.assert_close(ours(student, teacher, own, others), expected.squeeze(), rtol=1e-6, atol=0)
        torch.testing.assert_close(ours.student_memory, theirs.memory_v1)
        torch.testing.assert_close(ours.teacher_memory, theirs.memory_v2)
