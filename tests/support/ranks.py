"""Functions that run in several processes at once, which speak to each other through gloo."""

from concurrent.futures import ProcessPoolExecutor

from torch import distributed

from support.forked import CONTEXT


def on_ranks(function, world, folder):
    """What `function(rank, world)`, found by its name, returns on each rank, in a group of their own."""
    meeting = f"file://{folder / 'meeting'}"
    with ProcessPoolExecutor(world, mp_context=CONTEXT) as processes:
        return list(processes.map(_in_group, [function] * world, range(world), [world] * world, [meeting] * world))


def _in_group(function, rank, world, meeting):
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    try:
        return function(rank, world)
    finally:
        distributed.destroy_process_group()
