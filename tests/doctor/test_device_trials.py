"""What PyTorch and DALI are tried with; no GPU is needed to see how its errors are taken."""

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from kdcache.doctor import device_trials
from kdcache.doctor.device_trials import compute, compute_on_gpus, decode, is_out_of_memory, photograph
from kdcache.errors import DeviceError
from kdcache.render import opening


def test_a_device_that_computes_wrong_numbers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.nn.functional.conv2d
    assert compute()["torch"] == torch.__version__
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda image, kernel: right(image, kernel) + 1)
    with pytest.raises(ArithmeticError, match="wrong numbers on cpu"):
        compute()


def test_decoders_get_a_real_jpeg_with_something_in_it() -> None:
    image = Image.open(BytesIO(photograph()))
    assert (image.format, image.size) == ("JPEG", (160, 120))
    assert all(high - low > 200 for low, high in image.getextrema())


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("nvJPEG error (5): NVJPEG_STATUS_ALLOCATOR_FAILURE"),
    DeviceError("DALI failed once and not again on the same images (Can't allocate 4096 bytes on device 0)."),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL)
def test_a_gpu_that_is_full_is_known_by_what_every_library_says(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), ArithmeticError("wrong")])
def test_other_errors_are_not_taken_for_full_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Puts GPUs of these compute capabilities into the machine, and a PyTorch with code for 7.5 and later."""

    def put(*capabilities: tuple[int, int], tried: dict[str, Exception]) -> list[dict[str, Any]]:
        def require_right(device: str) -> None:
            if device in tried:
                raise tried[device]

        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90", "sm_120", "compute_120"])
        monkeypatch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda number: SimpleNamespace(
                name="GPU", total_memory=2**30, major=capabilities[number][0], minor=capabilities[number][1]
            ),
        )
        monkeypatch.setattr(device_trials, "_require_right", require_right)
        return compute_on_gpus()["gpus"]

    return put


@pytest.mark.parametrize("error", FULL)
def test_a_full_gpu_is_told_from_a_broken_one(gpus, error: Exception) -> None:
    found = gpus((9, 0), (9, 0), tried={"cuda:0": error, "cuda:1": RuntimeError("unspecified launch failure")})
    assert [gpu["state"] for gpu in found] == ["full", "broken"]
    assert found[1]["cause"] == "RuntimeError: unspecified launch failure"


def test_one_gpu_that_is_broken_or_too_old_does_not_end_the_trial_of_the_others(gpus) -> None:
    found = gpus(
        (7, 0), (7, 5), (12, 0), tried={f"cuda:{number}": RuntimeError("no kernel image") for number in (0, 1)}
    )
    assert [gpu["state"] for gpu in found] == ["old", "broken", "right"]
    assert "compute capability 7.0" in found[0]["cause"]
    assert "needs 7.5 or later" in found[0]["cause"]


@pytest.mark.parametrize("error", FULL)
def test_decoding_on_a_full_gpu_is_not_judged_and_on_the_cpu_it_is(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = opening.open_renderer

    def refuse(name: str, **options: Any) -> Any:
        if name == "dali":
            raise error
        return right(name, **options)

    monkeypatch.setattr(opening, "open_renderer", refuse)
    assert decode("gpu") == {"full": True}
    with pytest.raises(type(error)):
        decode("cpu")
