"""The batched kernels on a device against Pillow's operations, and mixing and erasing against the CPU's."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from gpu.page import Line, Table, cause
from gpu.setting import Setting
from kdcache.models.network import Normaliser
from kdcache.views.pixels.augment import Augmenter
from kdcache.views.pixels.fused.launch import runs_on
from kdcache.views.pixels.kernels import batched
from kdcache.views.pixels.mix import mix
from kdcache.views.plan import Plan, make_plan
from kdcache.views.policies import NAMED
from kdcache.views.policy import Policy
from support.kernel_checks import CHECKS
from support.photographs import FILL, batch_as_timm_does, photographs


def kernels(setting: Setting) -> Iterator[Table]:
    """Every value must be the same."""
    device, size = setting.device, setting.size
    # Each operation alone, at real sizes, is most of the work; a rehearsal has several in a row on small images.
    chosen = {
        name: check for name, check in CHECKS.items() if setting.size >= 224 or not name.endswith(("-224", "-96"))
    }
    lines: list[Line] = []

    def table(line: Line) -> Table:
        lines.append(line)
        return Table("Augmenting and mixing on the device against the CPU", ("what", "every value is"), tuple(lines))

    for name in ("a2", "b", "three-augment"):
        yield table(held(f"policy {name}, mixed", check_policy, device, name, size))
    yield table(held("mixup and cutmix", check_mix, device, size))
    yield table(waiting(device, size))
    for name, check in chosen.items():
        yield table(held(name, check, device))
    for line in by_triton(device):
        yield table(line)


def by_triton(device: torch.device) -> list[Line]:
    """Triton's kernels against torch's; a dry run leaves them to the tests, which have Triton's interpreter."""
    if device.type != "cuda":
        return [Line(("Triton's kernels", "left out: they need a GPU"))]
    if not runs_on(device):
        return [Line(("Triton's kernels", "Triton cannot launch here: a warning above says why"), False)]
    from support.triton_checks import CHECKS as OF_TRITON

    return [held(f"Triton: {name}", check, device) for name, check in OF_TRITON.items()]


def held(what: str, check: Callable[..., None], *arguments: object, good: str = "the same") -> Line:
    """One check as a line: its message where it fails, `good` where it does not."""
    try:
        check(*arguments)
    except Exception as error:
        return Line((what, cause(error)), False)
    return Line((what, good), True)


def check_mix(device: torch.device, size: int) -> None:
    """Bit for bit, on every kind of pair."""
    pixels = photographs(size).repeat(10, 1, 1, 1)
    plan = plan_for(replace(NAMED["a2"], mix_prob=0.8), len(pixels))
    same(mixed(pixels, plan, device), mixed(pixels, plan, torch.device("cpu")))


def check_policy(device: torch.device, name: str, size: int) -> None:
    """A whole policy on identical pixels: operations, erasing and mixing."""
    pixels = photographs(size).repeat(10, 1, 1, 1)
    policy = NAMED[name]
    plan = plan_for(policy, len(pixels))
    with Augmenter(policy) as augmenter:
        on_cpu = augmenter.apply(pixels, plan)
        there = augmenter.apply(pixels.to(device), plan)
    same(mixed(there, plan, device), mixed(on_cpu, plan, torch.device("cpu")))
    # On the CPU the augmenter is Pillow itself; the batched kernels' turn comes here.
    same(batched.operate(pixels.to(device), plan, FILL).cpu(), batch_as_timm_does(pixels, plan))


def plan_for(policy: Policy, rows: int) -> Plan:
    """Rows of view 0 that are photographs of 400 x 400 pixels."""
    keys = np.random.default_rng(2).integers(0, 1 << 63, rows).astype(np.uint64)
    sides = np.full(rows, 400)
    return make_plan(policy, 0, 0, keys, sides, sides)


def mixed(pixels: torch.Tensor, plan: Plan, device: torch.device) -> torch.Tensor:
    """On the device, brought back."""
    return mix(pixels.to(device), plan.weight, plan.cut, 224).cpu()


def waiting(device: torch.device, size: int) -> Line:
    """Whether the host waits for the device anywhere between the renderer and a model: torch raises where it does."""
    what = "nothing waits for the device: operations, erasing, mixing, normalising"
    if device.type != "cuda":
        return Line((what, "left out: it needs a GPU"))
    return held(what, check_that_nothing_waits, device, size, good="so")


def check_that_nothing_waits(device: torch.device, size: int) -> None:
    """The second of two batches of a policy that does everything; the first may load kernels and copy constants."""
    policy = replace(NAMED["b"], erase_prob=0.5, erase_mode="pixel", color_jitter=(0.3, 0.3, 0.3, 0.1), mix_prob=0.8)
    pixels = photographs(size).repeat(10, 1, 1, 1).to(device)
    plan = plan_for(policy, len(pixels))
    normalise = Normaliser((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def made() -> torch.Tensor:
        return normalise(mix(augmenter.apply(pixels, plan), plan.weight, plan.cut, policy.reference_size))

    with Augmenter(policy) as augmenter:
        wanted = made()
        torch.cuda.synchronize(device)
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = made()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    same(got.cpu(), wanted.cpu())


def same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    apart = (got.double() - wanted.double()).abs()
    share = (apart > 0).double().mean().item()
    assert share == 0, f"{share:.2%} of the values differ, by up to {apart.max().item():.3g}"
