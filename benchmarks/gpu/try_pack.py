"""Try a folder of unpacked packages: import every one of them from there, decode with DALI, and render with kdcache.

    python benchmarks/gpu/try_pack.py FOLDER

`pack.py` runs it. It fails with the name of what cannot be imported, or with the pixels that are wrong.
"""

import importlib
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu.unpack import place_of

#: Mean difference from Pillow, in levels of 0..255, up to which DALI decodes and resizes as it should.
MAX_DIFFERENCE = 0.5


def modules_of(distribution: metadata.Distribution, site: Path) -> Iterator[str]:
    """Yield the modules at the top of a package, and those one below where packages share a folder, such as nvidia."""
    tops = set()
    for file in distribution.files or ():
        path = Path(place_of(str(file)))
        if path.suffix == ".py" and ".." not in path.parts and (site / path).exists():
            head = path.parts[0]
            if len(path.parts) == 1:
                tops.add(path.stem)
            elif head == "nvidia" or not (site / head / "__init__.py").exists():
                # Folders of data may hold scripts, which are no modules.
                if len(path.parts) == 3 and path.name == "__init__.py":
                    tops.add(".".join(path.parts[:2]))
            else:
                tops.add(head)
    yield from sorted(top for top in tops if not top.startswith("_"))


def import_all(site: Path) -> tuple[int, int]:
    """Import every package of the folder; return their number and that of their modules.

    Raises:
        SystemExit: a package cannot be imported, or is imported from elsewhere.
    """
    packages = modules = 0
    for distribution in metadata.distributions(path=[str(site)]):
        packages += 1
        for name in modules_of(distribution, site):
            try:
                module = importlib.import_module(name)
            except Exception as error:  # whatever a package's first line may raise
                raise SystemExit(f"{name} of {distribution.name} cannot be imported: {error!r}") from error
            place = Path(module.__file__ or "")
            if not place.is_relative_to(site):
                raise SystemExit(f"{name} of {distribution.name} was imported from {place}, not from {site}")
            modules += 1
    return packages, modules


def render() -> float:
    """Render a photograph with DALI and Pillow, and views of policy b; return the two's mean difference in levels."""
    import numpy as np

    from kdcache.doctor.device_trials import photograph
    from kdcache.render.opening import open_renderer
    from kdcache.views.pixels.augment import Augmenter
    from kdcache.views.pixels.mix import mix
    from kdcache.views.plan import make_plan
    from kdcache.views.policies import NAMED

    policy, files = NAMED["b"], [photograph()] * 4
    keys = np.arange(4, dtype=np.uint64)
    plan = make_plan(policy, 0, 0, keys, np.full(4, 120), np.full(4, 160))
    pixels = []
    for name in ("dali", "pillow"):
        with open_renderer(name, size=64, max_batch=4, threads=1) as renderer:
            pixels.append(renderer.render(files, plan.box, cubic=plan.cubic, flips=plan.flip))
    with Augmenter(policy) as augmenter:
        views = mix(augmenter.apply(pixels[0], plan), plan.weight, plan.cut, policy.reference_size)
    if views.shape != (4, 3, 64, 64) or not bool(views.isfinite().all()):
        raise SystemExit(f"views of policy b are wrong: {tuple(views.shape)}")
    return float((pixels[0].float() - pixels[1].float()).abs().mean())


def main() -> int:
    site = Path(sys.argv[1]).resolve()
    packages, modules = import_all(site)
    difference = render()
    if not difference <= MAX_DIFFERENCE:
        print(f"DALI's pixels differ from Pillow's by {difference:.2f} levels in the mean", file=sys.stderr)
        return 1
    print(
        f"{packages} packages with {modules} modules are imported; DALI's pixels differ from Pillow's by "
        f"{difference:.2f} levels; policy b renders"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
