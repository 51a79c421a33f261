"""What processes with run folders of their own, or one for all, say of it."""

import time

import torch

from kdcache.errors import RunError
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.ranks import Ranks
from kdcache.training import shared_folder
from kdcache.training.prediction_history import PredictionHistory
from kdcache.training.shared_folder import require_shared


def refusal(folders, rank, world):
    """What a process is told whose run folder is the one of its rank; nothing where it may go on."""
    shared_folder._VISIBILITY_TIMEOUT = 0.2
    try:
        require_shared(folders[rank], Distributed(Ranks(rank, world), torch.device("cpu")))
    except RunError as error:
        return str(error)
    return ""


def recalled(folder, rank, world):
    """The past of all samples in the next round, after each process has said its part of them at a time of its own."""
    processes = Distributed(Ranks(rank, world), torch.device("cpu"))
    settings = {"samples": 8, "num_classes": 3, "epochs_per_round": 1, "is_main": processes.is_main, "warn": print}
    history = PredictionHistory(folder / "past", barrier=processes.barrier, **settings)
    own = torch.arange(rank, 8, world)
    history.read(0, own, torch.ones(len(own)))
    time.sleep(0.3 * rank)
    history.write(0, own, torch.full((len(own), 3), float(rank)))
    return history.read(1, torch.arange(8), torch.ones(8)).sum(1).tolist()
