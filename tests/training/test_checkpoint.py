import json
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from safetensors import safe_open
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from kdcache.errors import CorruptError, RunError
from kdcache.models import run_checkpoint
from kdcache.models.load import load_model
from kdcache.models.run_checkpoint import ManifestWriter
from kdcache.models.students import StudentOptions, create_student
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.ranks import Ranks
from kdcache.training import checkpoint
from kdcache.training.checkpoint import Checkpoints, restore_torch_random_state, torch_random_state
from kdcache.training.export import export_model
from support.forked import CONTEXT

ALONE = Distributed(Ranks(), torch.device("cpu"))
OPTIMIZERS = {
    "adamw": {"lr": 1e-2, "weight_decay": 0.1},
    "sgd": {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1},
    "lamb": {"lr": 1e-2, "weight_decay": 0.1},
    "adafactor": {"lr": 1e-2},
    "lion": {"lr": 1e-3},
}


@pytest.fixture(autouse=True)
def _threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Trainer:
    """A small but whole training: a model with drop path and batch norm, an optimiser, a schedule, an average."""

    def __init__(self, optimizer, layout=torch.contiguous_format):
        student = create_student("test_resnet", num_classes=3, size=32, seed=1, options=StudentOptions(drop_path=0.3))
        self.model = student.module.to(memory_format=layout)
        self.optimizer = create_optimizer_v2(self.model, opt=optimizer, **OPTIMIZERS[optimizer])
        self.scheduler = CosineLRScheduler(self.optimizer, t_initial=12, warmup_t=3, t_in_epochs=False)
        self.average = ModelEmaV3(self.model, decay=0.9)
        self.step = 0
        torch.manual_seed(9)
        # Steps this small are lost in the meeting of threads, above all on cores that others use.
        torch.set_num_threads(1)

    def run(self, steps):
        """Train on inputs that depend on the step alone, with drop path that depends on torch's random state."""
        losses = []
        for _ in range(steps):
            inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(self.step))
            loss = nn.functional.cross_entropy(self.model(inputs), torch.tensor([0, 1, 2, 0]))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.step += 1
            self.scheduler.step_update(self.step)
            self.average.update(self.model, step=self.step)
            losses.append(loss.item())
        return losses

    def save(self, folder):
        trainer = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": torch_random_state(ALONE),
            "epoch": 1,
        }
        Checkpoints(folder).save(
            self.step, model=self.model.state_dict(), ema=self.average.module.state_dict(), trainer=trainer
        )

    def restore(self, folder):
        checkpoint = Checkpoints(folder).latest(pytest.fail)
        self.model.load_state_dict(checkpoint.model)
        self.average.module.load_state_dict(checkpoint.ema)
        self.optimizer.load_state_dict(checkpoint.trainer["optimizer"])
        self.scheduler.load_state_dict(checkpoint.trainer["scheduler"])
        restore_torch_random_state(checkpoint.trainer["random"], ALONE)
        self.step = checkpoint.step

    def state(self):
        return {
            **self.model.state_dict(),
            **{f"ema.{name}": value for name, value in self.average.module.state_dict().items()},
        }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_training_goes_on_bit_for_bit(tmp_path, optimizer, layout):
    whole = Trainer(optimizer, layout)
    before, after = whole.run(4), whole.run(4)
    first = Trainer(optimizer, layout)
    assert first.run(4) == before
    first.save(tmp_path)
    second = Trainer(optimizer, layout)
    second.run(1)
    second.restore(tmp_path)
    assert second.run(4) == after
    assert_same(second.state(), whole.state())


def test_the_random_state_is_part_of_it(tmp_path):
    """Without it drop path draws other numbers: the test above would not notice a state that is never used."""
    first = Trainer("sgd")
    first.run(4)
    first.save(tmp_path)
    after = first.run(4)
    second = Trainer("sgd")
    second.restore(tmp_path)
    torch.manual_seed(1234)
    assert second.run(4) != after


def _gone_on(folder):
    trainer = Trainer("lamb")
    trainer.restore(folder)
    return trainer.run(3)


def test_a_restored_training_goes_on_in_another_process(tmp_path):
    whole = Trainer("lamb")
    whole.run(3)
    whole.save(tmp_path / "checkpoints")
    losses = whole.run(3)
    with ProcessPoolExecutor(1, CONTEXT) as elsewhere:
        assert elsewhere.submit(_gone_on, tmp_path / "checkpoints").result() == losses


TENSORS = {"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.float16)}


def saved(folder, *steps, keep=2, scores=None):
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, model=TENSORS, trainer={"at": step})
        if scores is not None:
            checkpoints.note_score(step, scores[step])
    return checkpoints


def test_nothing_is_found_where_nothing_was_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.latest(pytest.fail) is None
    assert checkpoints.steps() == []
    assert checkpoints.best_step() is None


def test_the_latest_and_the_best_stay(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3, 4, 5, scores={1: 0.1, 2: 0.9, 3: 0.5, 4: 0.9, 5: 0.4})
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best_step() == 2
    assert checkpoints.latest(pytest.fail).trainer == {"at": 5}
    assert Checkpoints(tmp_path).best_step() == 2


def test_without_scores_only_the_latest_stay(tmp_path):
    assert saved(tmp_path, 1, 2, 3, 4, keep=3).steps() == [2, 3, 4]


def test_a_checkpoint_of_many_steps_is_still_found(tmp_path):
    assert saved(tmp_path, 99_999_999, 123_456_789).latest(pytest.fail).step == 123_456_789


def test_a_checkpoint_made_again_takes_the_place_of_the_other(tmp_path):
    saved(tmp_path, 7)
    Checkpoints(tmp_path).save(7, model={"a": torch.zeros(1)}, trainer={"at": "again"})
    assert Checkpoints(tmp_path).latest(pytest.fail).trainer == {"at": "again"}


FILES = ("model.safetensors", "ema.safetensors", "trainer.safetensors", "trainer.json", "manifest.json")


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def flip_at_the_end(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-3])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "harm", [flip, flip_at_the_end, truncate, lambda file: file.unlink(), lambda file: file.write_bytes(b"")]
)
def test_a_broken_checkpoint_is_passed_over_with_a_warning(tmp_path, name, harm):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, model=TENSORS, ema=TENSORS, trainer={"at": step, "t": torch.ones(3)})
    harm(tmp_path / "step-00000002" / name)
    with pytest.raises(CorruptError, match="step-00000002"):
        checkpoints.load(2)
    warnings = []
    assert checkpoints.latest(warnings.append).step == 1
    assert len(warnings) == 1
    shutil.rmtree(tmp_path / "step-00000001")
    assert checkpoints.latest(warnings.append) is None


def test_a_checkpoint_of_a_later_format_is_refused_and_not_passed_over(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    manifest = tmp_path / "step-00000002" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(RunError, match="format 2"):
        checkpoints.latest(pytest.fail)


@pytest.mark.parametrize(
    ("owner", "point"),
    [(checkpoint, "save_file"), (run_checkpoint, "_flush_and_fingerprint"), (ManifestWriter, "write")],
)
def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch, owner, point):
    checkpoints = saved(tmp_path, 1)
    before = sorted(path.name for path in tmp_path.iterdir())

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, point, fail)
    with pytest.raises(RunError, match="No space left"):
        checkpoints.save(2, model=TENSORS, trainer={})
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def _killed_in_the_midst(folder):
    ManifestWriter.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    Checkpoints(folder).save(2, model={"a": torch.ones(1)}, trainer={})


def test_what_a_kill_leaves_half_written_is_no_checkpoint_and_goes_with_the_next(tmp_path):
    """SIGKILL in the middle of a save, in a process of its own."""
    saved(tmp_path, 1)
    process = CONTEXT.Process(target=_killed_in_the_midst, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(left) == 1
    assert Checkpoints(tmp_path).latest(pytest.fail).step == 1
    saved(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_checkpoints_hold_no_pickle(tmp_path):
    trainer = Trainer("adamw")
    trainer.run(1)
    trainer.save(tmp_path)
    files = {path.name: path.read_bytes() for path in (tmp_path / "step-00000001").iterdir()}
    assert files.keys() == set(FILES)
    for name in FILES[:3]:
        assert int.from_bytes(files[name][:8], "little") < len(files[name])
        with safe_open(tmp_path / "step-00000001" / name, framework="pt") as stored:
            assert stored.metadata()["format"] == "pt"
    json.loads(files["trainer.json"])


def test_a_checkpoints_weights_describe_themselves(tmp_path):
    student = create_student("test_vit", num_classes=3, size=32, seed=1)
    tensors = student.module.state_dict()
    folder = Checkpoints(tmp_path / "checkpoints").save(
        5,
        model=tensors,
        ema={name: value * 2 for name, value in tensors.items()},
        trainer={},
        metadata=student.card.to_metadata(),
    )
    export_model(tmp_path / "export", student)
    assert load_model(None, folder).card == student.card
    of_average = load_model(None, folder).module.state_dict()
    assert torch.equal(of_average["head.weight"], tensors["head.weight"] * 2)
    assert_same(load_model(None, folder / "model.safetensors").module.state_dict(), tensors)
    assert_same(load_model(None, tmp_path).module.state_dict(), tensors)


def test_a_state_that_cannot_be_kept_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RunError, match="cannot keep"):
        Checkpoints(tmp_path / "new").save(1, model=TENSORS, trainer={"optimizer": object()})
    assert not (tmp_path / "new").exists()


def test_every_nth_stays_for_good_if_asked_for(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_every=10)
    for step in range(5, 40, 5):
        checkpoints.save(step, model={"a": torch.zeros(1)}, trainer={})
    assert checkpoints.steps() == [10, 20, 30, 35]
