"""Opens data set, view set and cache together, and refuses a cache of other data or views by the field that differs."""

import re
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32, Int64

from kdcache.cache.identity import ViewSetIdentity, require_same, windows_checksum
from kdcache.cache.layout import default_block_rows
from kdcache.cache.store import Cache
from kdcache.data.classes import data_of
from kdcache.data.index import Index, key_hash
from kdcache.data.order import derive_windows
from kdcache.errors import CorruptError, IdentityError
from kdcache.models.card import ModelCard
from kdcache.models.source import label_of
from kdcache.runtime.formatting import format_count
from kdcache.runtime.progress import Progress
from kdcache.views.policies import (
    CENTRE,
    DEFAULT,
    FORMER_CENTRE,
    describe_policy,
    is_centre,
    load_policy,
    policy_name,
)
from kdcache.views.policy import FILTERS, Policy
from kdcache.views.viewset import ViewSet

#: Number of views of a dump, one for each epoch of recipe A2 (Wightman, Touvron, Jegou 2021).
DEFAULT_VIEWS = 300
#: Number of leading digits of a fingerprint that a message shows.
SHOWN_DIGITS = 16
#: Number of differing policy fields that a message names.
SHOWN_FIELDS = 3


def entry_name(teacher: str) -> str:
    """Return the default name of a teacher's entry: the name of the model or of its folder, in characters of a path."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", label_of(teacher).removeprefix("hf-hub:"))


@dataclass(frozen=True)
class OpenViews:
    """A view set with its identity.

    Attributes:
        view_set: view set of the data.
        identity: identity of the view set, as a cache stores it.
        is_new: whether there was no cache of these views when they were opened.
    """

    view_set: ViewSet
    identity: ViewSetIdentity
    is_new: bool = False


def stored_views(cache: Cache, index: Index) -> OpenViews:
    """Return the views of a cache, over the shards as they are now.

    Raises:
        IdentityError: the cache was made of other samples.
    """
    stored = cache.view_set
    if (stored.fingerprint, stored.samples) != (index.fingerprint, len(index)):
        raise IdentityError(
            f"{data_of(index)} holds other images or labels than the cache {cache.location} was made from: these are "
            f"{format_count(len(index), 'sample')} with fingerprint {index.fingerprint[:SHOWN_DIGITS]}, the cache's "
            f"{stored.samples:,} with {stored.fingerprint[:SHOWN_DIGITS]}. {_other_data(index)}",
            field="fingerprint",
        )
    policy, windows = Policy.from_json(stored.policy), _windows(cache, index)
    return OpenViews(ViewSet(index, policy, stored.seed, windows, _lost(cache, index)), stored)


def _other_data(index: Index) -> str:
    """Return the remedy of an error that says that the data are not those of the cache."""
    if not index.left_out or index.is_part:
        return "Use the data as they were, also those that were left out as bad since; or another --cache."
    return (
        f"Use the data as they were, or another --cache. If it was made before "
        f"{format_count(index.left_out, 'bad sample')} "
        f"{'was' if index.left_out == 1 else 'were'} left out, remove the index {index.path} and run `kdcache index "
        f"{index.data} --mark-bad`, which passes over bad samples and keeps such a cache usable."
    )


def _lost(cache: Cache, index: Index) -> Int64[np.ndarray, "k"]:
    """Return the positions of samples that are lost in the index or were lost in a dump into the cache, ascending."""
    hashes = np.array([key_hash(key) for key in cache.lost()], np.uint64)
    return np.union1d(index.lost, np.flatnonzero(np.isin(index.key_hash, hashes))).astype(np.int64)


def with_lost_of(opened: OpenViews, cache: Cache) -> OpenViews:
    """Return the same views with the samples that are lost now.

    To be called after the complete views of the cache have been counted. A dump that still runs records a sample as
    lost before it writes targets of its stand-in image, so no lost sample of a counted view is missed.
    """
    views = opened.view_set
    lost = _lost(cache, views.index)
    return replace(opened, view_set=ViewSet(views.index, views.policy, views.seed, views.windows, lost))


def log_lost(opened: OpenViews, progress: Progress) -> None:
    """Report how many samples are passed over, where there are any."""
    lost = len(opened.view_set.lost)
    if lost:
        progress.say(
            f"{format_count(lost, 'sample')} of {len(opened.view_set):,} {'is' if lost == 1 else 'are'} lost: in each "
            "view "
            "another pair is seen in the place of a pair with one of them."
        )


def _require_policy(stored: Policy, requested: str, cache_path: str) -> None:
    """Raise IdentityError where the requested policy, a name or a file, differs from the stored one."""
    wanted = load_policy(requested)
    if wanted == stored or (requested == CENTRE and is_centre(stored)):
        return
    ours, theirs = stored.to_json(), wanted.to_json()
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    differences = [
        f"{name} ({_value(stored, name)} there, {_value(wanted, name)} in {requested})"
        for name in differing[:SHOWN_FIELDS]
    ]
    more = f" and {len(differing) - SHOWN_FIELDS} more" if len(differing) > SHOWN_FIELDS else ""
    raise IdentityError(
        f"The cache {cache_path} was made with {_describe_stored_policy(stored)}, and {requested} was asked for: leave "
        f"--policy out, or use another --cache. They differ in {', '.join(differences)}{more}.",
        field=f"policy.{differing[0]}",
    )


def _value(policy: Policy, field: str) -> str:
    value = getattr(policy, field)
    return "nothing" if value is None or value == "" else str(value)


def _describe_stored_policy(policy: Policy) -> str:
    if policy == FORMER_CENTRE:
        return f"policy {CENTRE} as it was formerly, cut first and resized then"
    name = policy_name(policy)
    return "a policy of its own" if name is None else f"policy {name}"


def _windows(cache: Cache, index: Index) -> Int32[np.ndarray, "n"]:
    """Return the windows of the cache.

    Where they are damaged, the windows of the present shards are returned if their checksum is that of the cache.
    """
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
    """Return a new view set.

    Args:
        index: index of the data set.
        policy: policy that the views are drawn from.
        seed: seed of the views.
        progress: receives a warning about the order of the shards.
        windows: windows of an earlier run; None, or another number than there are samples, for new ones, which are
            derived from the shards.
    """
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
    return OpenViews(ViewSet(index, policy, seed, windows), identity, is_new=True)


def views_for_dump(
    cache_path: str, index: Index, policy: str | None, seed: int | None, progress: Progress
) -> OpenViews:
    """Return the views of the cache at `cache_path`; where there is no cache, new ones of `policy` and `seed`.

    Raises:
        IdentityError: the requested policy or seed is not that of the cache.
    """
    if not Cache.exists(cache_path):
        opened = new_views(index, load_policy(policy or DEFAULT), seed or 0, progress)
        progress.say(f"Views of policy {describe_policy(opened.view_set.policy, opened.view_set.seed)}.")
        return opened
    opened = stored_views(Cache.open(cache_path), index)
    if policy is not None:
        _require_policy(opened.view_set.policy, policy, cache_path)
    if seed is not None:
        require_same(opened.identity, replace(opened.identity, seed=seed), f"The cache {cache_path}")
    progress.say(f"Views of the cache's policy, {describe_policy(opened.view_set.policy, opened.view_set.seed)}.")
    return opened


def views_as_evaluated(opened: OpenViews, card: ModelCard, policy: str | None, progress: Progress) -> OpenViews:
    """Return new views of policy `centre` with the resize and crop that `card`'s model is evaluated with.

    One view is then what `kdcache evaluate` shows the model. Views of other policies, and those of an existing cache,
    are returned unchanged; a warning says where views of `centre` differ from what the model is evaluated on.

    Args:
        opened: views that were opened for the dump.
        card: card of the teacher's model.
        policy: requested policy, a name or a file; None where none was requested.
        progress: receives the messages.
    """
    view_set = opened.view_set
    current = view_set.policy
    if not is_centre(current):
        return opened
    own = _as_evaluated(current, card)
    if own == current:
        return opened
    # `is_new` decides, not whether there is a cache now: another process of this job may have created it meanwhile.
    if own is not None and policy == CENTRE and opened.is_new:
        progress.say(
            f"As {card.architecture} is evaluated, views of {CENTRE} are made with crop_pct {own.crop_pct:g}, "
            f"{own.interpolation}."
        )
        identity = replace(opened.identity, policy=own.to_json())
        own_views = ViewSet(view_set.index, own, view_set.seed, view_set.windows)
        return replace(opened, view_set=own_views, identity=identity)
    height, width = card.input_size[1:]
    progress.warn(
        f"{card.architecture} is evaluated at {height} x {width} pixels with crop_pct {card.crop_pct:g}, "
        f"{card.interpolation}, crop mode {card.crop_mode}. The views are square, with crop_pct {current.crop_pct:g}, "
        f"{current.interpolation}, crop mode center: they are not what `kdcache evaluate` shows it. {_own_crop(own)}"
    )
    return opened


def _as_evaluated(centre: Policy, card: ModelCard) -> Policy | None:
    """Return policy `centre` with the resize and crop that timm evaluates `card`'s model with; None if it has none.

    timm treats every crop mode except "squash" and "border" as "center".
    """
    height, width = card.input_size[1:]
    if card.crop_mode in ("squash", "border") or height != width or not 0 < card.crop_pct <= 1:
        return None
    if card.interpolation not in FILTERS:
        return None
    return replace(centre, crop_pct=card.crop_pct, interpolation=card.interpolation)


def _own_crop(own: Policy | None) -> str:
    if own is None:
        return f"Policy {CENTRE} has no such views."
    return f"For those, use a new --cache with --policy {CENTRE}."
