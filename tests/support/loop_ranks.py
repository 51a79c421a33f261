"""The loop of examples/timm_train.py, as one process runs it or as each of several that torchrun has started."""

import importlib.util
import os
import socket
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from support.forked import CONTEXT


def on_ranks_of_torchrun(file: Path, words: list[str], world: int):
    """What `run_loop` returns on each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(world)}
    with ProcessPoolExecutor(world, mp_context=CONTEXT) as processes:
        jobs = [processes.submit(_as_rank, file, words, {**meeting, **_numbers(rank, world)}) for rank in range(world)]
        return [job.result() for job in jobs]


def run_loop(file: Path, words: list[str]):
    """Positions of the samples of each step, and weights by name after the last step, as arrays."""
    spec = importlib.util.spec_from_file_location("timm_train", file)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    steps, tasks, forward = [], set(), example.CachedTask.forward

    def keep(task, batch, *rest):
        tasks.add(task)
        steps.append(batch.samples.tolist())
        return forward(task, batch, *rest)

    example.CachedTask.forward = keep
    example.main(words)
    (task,) = tasks
    return steps, {name: value.detach().numpy().copy() for name, value in task.model.named_parameters()}


def _numbers(rank: int, world: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}


def _as_rank(file: Path, words: list[str], variables: dict[str, str]):
    os.environ.update(variables)
    return run_loop(file, words)
