"""A run folder that not every process sees is refused before a process reads nothing where another has written."""

from functools import partial

import torch

from kdcache.runtime.distributed import Distributed
from kdcache.runtime.ranks import Ranks
from kdcache.training.shared_folder import require_shared
from support.ranks import on_ranks
from support.shared_folders import recalled, refusal


def test_a_folder_that_all_see_is_accepted_and_left_as_it_was(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    assert on_ranks(partial(refusal, [folder] * 3), 3, tmp_path) == [""] * 3
    assert not list(folder.iterdir())


def test_a_process_that_sees_another_folder_is_named_to_all(tmp_path):
    folders = [tmp_path / "a", tmp_path / "a", tmp_path / "b"]
    for folder in set(folders):
        folder.mkdir()
    said = on_ranks(partial(refusal, folders), 3, tmp_path)
    assert all("Process 2 of 3" in line and "all nodes share" in line and "--out" in line for line in said)
    assert not [file for folder in folders for file in folder.iterdir()]


def test_one_process_writes_nothing(tmp_path):
    require_shared(tmp_path / "nowhere", Distributed(Ranks(), torch.device("cpu")))
    assert not (tmp_path / "nowhere").exists()


def test_processes_that_share_it_recall_what_each_other_said(tmp_path):
    for sums in on_ranks(partial(recalled, tmp_path), 2, tmp_path):
        assert all(abs(total - 1) < 1e-3 for total in sums)
