"""Opening what belongs together: data set, view set and cache, or a refusal that names the field that differs."""

import re
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32

from kdcache.cache.identity import ViewSetIdentity, require_same, windows_checksum
from kdcache.cache.layout import default_block_rows
from kdcache.cache.store import Cache
from kdcache.data.index import Index
from kdcache.data.order import derive_windows
from kdcache.errors import CorruptError
from kdcache.jobs.common.source import label_of
from kdcache.progress import Progress
from kdcache.views.policies import DEFAULT, describe_policy, load_policy
from kdcache.views.policy import Policy
from kdcache.views.viewset import ViewSet

DEFAULT_VIEWS = 300
"""Epochs of recipe A2 (Wightman, Touvron, Jegou 2021): one view an epoch."""


def entry_name(teacher: str) -> str:
    """What a cache calls a teacher unless told otherwise: its name, or its folder's, fit for a folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", label_of(teacher).removeprefix("hf-hub:"))


@dataclass(frozen=True)
class OpenViews:
    """A view set with its identity."""

    view_set: ViewSet
    identity: ViewSetIdentity


def stored_views(cache: Cache, index: Index) -> OpenViews:
    """The views that a cache's answers are about, on today's shards.

    Raises:
        IdentityError: the cache was made for other samples.
    """
    stored = cache.view_set
    wanted = replace(stored, fingerprint=index.fingerprint, samples=len(index))
    require_same(stored, wanted, f"The cache {cache.location}, of {stored.samples:,} samples where {len(index):,} are,")
    return OpenViews(ViewSet(index, Policy.from_json(stored.policy), stored.seed, _windows(cache, index)), stored)


def _windows(cache: Cache, index: Index) -> Int32[np.ndarray, "n"]:
    """The cache's windows; where they are damaged, today's, if the shards still lie as they did."""
    try:
        return cache.windows
    except CorruptError:
        ids = derive_windows(np.asarray(index.shard), np.asarray(index.label), len(index.shards)).ids
        if windows_checksum(ids) != cache.view_set.windows:
            raise
        return ids


def new_views(
    index: Index,
    policy: Policy,
    seed: int,
    progress: Progress,
    windows: Int32[np.ndarray, "n"] | None = None,
) -> OpenViews:
    """A view set of its own, with windows from today's shards unless they are given (from a run that has them)."""
    if windows is None or len(windows) != len(index):
        derived = derive_windows(np.asarray(index.shard), np.asarray(index.label), len(index.shards))
        if derived.warning:
            progress.warn(derived.warning)
        windows = derived.ids
    identity = ViewSetIdentity(
        fingerprint=index.fingerprint,
        samples=len(index),
        windows=windows_checksum(windows),
        policy=policy.to_json(),
        seed=seed,
        block_rows=default_block_rows(len(index)),
    )
    return OpenViews(ViewSet(index, policy, seed, windows), identity)


def views_for_dump(
    cache_path: str, index: Index, policy: str | None, seed: int | None, progress: Progress
) -> OpenViews:
    """The views of the cache at `cache_path`, or, where there is none, new ones of `policy` and `seed`.

    Raises:
        IdentityError: a policy or seed was asked for that the cache does not have.
    """
    if not Cache.exists(cache_path):
        opened = new_views(index, load_policy(policy or DEFAULT), seed or 0, progress)
        progress.say(f"Views of policy {describe_policy(opened.view_set.policy, opened.view_set.seed)}.")
        return opened
    opened = stored_views(Cache.open(cache_path), index)
    wanted = opened.identity
    if policy is not None:
        wanted = replace(wanted, policy=load_policy(policy).to_json())
    if seed is not None:
        wanted = replace(wanted, seed=seed)
    require_same(opened.identity, wanted, f"The cache {cache_path}")
    progress.say(f"Views of the cache's policy, {describe_policy(opened.view_set.policy, opened.view_set.seed)}.")
    return opened
