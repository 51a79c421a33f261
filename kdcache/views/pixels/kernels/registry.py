"""The kernels of all operations, from the modules that hold them, checked against the table of operations."""

from collections.abc import Mapping

from kdcache.views.operations import Operation
from kdcache.views.pixels.kernels import blur, colours, tables, warp
from kdcache.views.pixels.kernels.binding import AffineWarp, Kernels


def bind_kernels(*modules: Mapping[str, Kernels]) -> dict[Operation, Kernels]:
    """Bind each operation to its kernels.

    Args:
        modules: kernels of each module, by the operation's name.

    Raises:
        ValueError: an operation has no kernels or has them twice, kernels belong to no operation, or an operation is a
            warp in its row and none in its kernels. `IDENTITY` alone has no kernels: nothing is computed for it.
    """
    bound: dict[Operation, Kernels] = {}
    for name, kernels in ((name, kernels) for module in modules for name, kernels in module.items()):
        if name not in Operation.__members__:
            raise ValueError(
                f"There are kernels for an operation {name}, but kdcache/views/operations.py has no row for it. "
                "Add the row, or take the kernels away."
            )
        operation = Operation[name]
        if operation in bound:
            raise ValueError(f"There are kernels for the operation {name} in two modules. Keep one.")
        if operation.spec.is_warp != isinstance(kernels.batched, AffineWarp):
            raise ValueError(
                f"The operation {name} has is_warp={operation.spec.is_warp} in its row, but its batched kernel is of "
                f"the kind {type(kernels.batched).__name__}. A warp has an AffineWarp, and no other operation has one."
            )
        bound[operation] = kernels
    missing = [operation.name for operation in Operation if operation not in bound and operation != Operation.IDENTITY]
    if missing:
        raise ValueError(
            f"There are no kernels for the operation {', '.join(missing)}, which has a row in "
            "kdcache/views/operations.py. Add them to one of the modules in kdcache/views/pixels/kernels."
        )
    return bound


KERNELS = bind_kernels(tables.KERNELS, warp.KERNELS, blur.KERNELS, colours.KERNELS)
