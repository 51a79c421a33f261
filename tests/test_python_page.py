"""What docs/python.md shows is run, block after block in one module, on a small cache in an empty folder."""

import pytest
import torch
from torch import distributed, nn

import kdcache
from support.documented import code_blocks
from support.small_job import CLASSES, MODEL

#: What is printed, and what a small cache allows in its place.
SMALLER = {
    '"resnet50"': f'"{MODEL}"', "batch_size=256": "batch_size=64", "epochs=100": "epochs=1", "range(100)": "range(1)",
    '"crd", dataset': '"crd", negatives=32, dataset', "views=300": "views=1",
    "image_size=224": "image_size=32", "num_classes=102": f"num_classes={CLASSES}",
}  # fmt: skip


class Encoder(nn.Module):
    """What open_clip's models are to a reader: images in, features out."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def encode_image(self, images):
        """Return features [b, 8]."""
        return self.body(images)


class Classifier(nn.Module):
    """A model of the reader's own, whose logits a linear layer computes."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, images):
        return self.classifier(self.body(images))


@pytest.fixture
def folder(job, tmp_path, monkeypatch):
    """Where the names of the page are those of files: shards, and a cache that has features."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(job.data)
    kdcache.dump_logits(MODEL, "data", "cache", weights=job.weights, policy=job.policy, views=1, targets="embedding",
                        batch_size=16)  # fmt: skip
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield tmp_path
    distributed.destroy_process_group()


def test_the_page_runs_from_its_first_block_to_its_last(folder, project_root):
    page = (project_root / "docs" / "python.md").read_text(encoding="utf-8")
    assert not [printed for printed in SMALLER if printed not in page]
    ten_lines, loop, teacher, zero_shot, ddp, own_loss, beyond = code_blocks(page, "python")
    names = {}

    def run(block):
        for printed, used in SMALLER.items():
            block = block.replace(printed, used)
        exec(compile(block, "docs/python.md", "exec"), names)

    run(ten_lines)
    assert names["loader"].step == names["loader"].steps == 2
    run(loop)
    assert names["losses"].keys() == {"loss", "kd", "label"}
    student = names["model"]
    names["model"] = Classifier()
    run(teacher)
    assert dict(kdcache.open_cache("cache", data="data", teacher="clip-flowers").entries) == {"clip-flowers": 1}
    names |= {"clip": Encoder(), "class_vectors": torch.randn(CLASSES, 8)}
    run(zero_shot)
    kdcache.dump_logits(names["teacher"], "data", "zero-shot", views=1, policy="crop", device="cpu", batch_size=64)
    assert kdcache.verify("zero-shot", data="data", teacher=names["teacher"], samples=32, device="cpu").whole
    names["model"] = student
    names["loader"].set_epoch(0)
    run(ddp)
    run(own_loss)
    assert names["loss"].isfinite()
    run(beyond)
    before = [parameter.clone() for parameter in names["objective"].parameters()]
    names["loader"].set_epoch(0)
    run(ddp)  # in which the objective learns as well
    assert before
    assert not any(map(torch.equal, before, names["objective"].parameters()))
