import pytest
import torch

from kdcache.errors import DeviceError, UsageError
from kdcache.runtime.device import autocast, resolve_device, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_where_there_is_no_gpu():
    assert resolve_device("auto") == CPU
    assert resolve_precision("auto", CPU) == "fp32"


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("name", "device"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu")])
def test_gpus_are_had_by_name_and_number(name, device):
    assert resolve_device(name) == torch.device(device)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_beyond_the_last_is_refused():
    with pytest.raises(DeviceError, match="cuda:0 to cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("build", "said"), [(None, "build for the CPU"), ("12.6", "driver")])
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_missing_gpu_is_refused_with_the_cause_and_a_remedy(monkeypatch, build, said, name):
    monkeypatch.setattr(torch.version, "cuda", build)
    with pytest.raises(DeviceError, match=f"{said}.*--device cpu"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:", "mps", ""])
def test_a_device_that_nobody_knows_is_refused(name):
    with pytest.raises(UsageError, match="no device called"):
        resolve_device(name)


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "fp16")])
def test_auto_is_mixed_precision_on_a_gpu(monkeypatch, bf16, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    assert resolve_precision("auto", CUDA) == precision


def test_a_named_precision_holds():
    assert [resolve_precision(name, CUDA) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    with pytest.raises(DeviceError, match="fp32 or bf16"):
        resolve_precision("fp16", CPU)
    with pytest.raises(UsageError, match="fp8"):
        resolve_precision("fp8", CPU)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_its_precision(precision, dtype):
    with autocast(precision, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
