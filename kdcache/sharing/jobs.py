"""Sharing as functions with keyword arguments, for the command line and for Python (`kdcache.jobs`)."""

from dataclasses import dataclass

from kdcache.runtime.arguments import values_of, with_arguments_of
from kdcache.runtime.progress import Progress, logged
from kdcache.sharing.options import CardOptions, PullOptions, PushOptions
from kdcache.sharing.pull import PullReport, pull_cache
from kdcache.sharing.push import PushReport, push_cache
from kdcache.sharing.write_card import CardReport, write_cache_card


@dataclass(frozen=True)
class PushArguments(PushOptions):
    """The options of a push, and where its messages go."""

    progress: Progress = logged


@with_arguments_of(PushArguments, positional=2)
def push(options: PushArguments) -> PushReport:
    """Bring a cache to the Hugging Face hub, with a card, as `kdcache cache push` does.

    Every chunk is checked before it is sent. Blocks that are there are passed over, so that a push that was interrupted
    goes on when it is called again. A new repository is private.

    Args:
        cache: path or URL of the cache.
        target: "hf://datasets/OWNER/NAME".
        views: range of the views to push, such as "0:50"; None for all.
        teachers: names of entries; empty for all.
        data: shards of the cache, of which the card then shows some images; None for a card without a contact sheet.
        progress: receives the messages; by default Python's logger `kdcache` does.

    Returns:
        The report: `report.copy` has the numbers of blocks and bytes, `report.whole` tells whether nothing was left
        out, `report.lines()` is what the command prints.

    Raises:
        UsageError: no data set on the hub, no token, or views and teachers that the cache does not have.
        IdentityError: the repository holds another cache.
        CacheError: the cache cannot be read, or the hub refuses it or cannot be reached; what was committed stays.

    Example:
        >>> kdcache.push("cache", "hf://datasets/me/imagenet-beitv2", views="0:50").copy.copied
        1000
    """
    return push_cache(PushOptions(**values_of(PushOptions, options)), options.progress)


@dataclass(frozen=True)
class PullArguments(PullOptions):
    """The options of a pull, and where its messages go."""

    progress: Progress = logged


@with_arguments_of(PullArguments, positional=2)
def pull(options: PullArguments) -> PullReport:
    """Copy a shared cache from the Hugging Face hub or a web server, as `kdcache cache pull` does.

    A chunk counts when it is what its record says; one that is not is asked for again. Blocks that are there are passed
    over, so that a pull that was interrupted goes on when it is called again.

    Args:
        source: "hf://datasets/OWNER/NAME", with "@REVISION" for another than the latest commit, or an https URL.
        cache: path or URL of the copy.
        views: range of the views to copy, such as "0:50"; None for all.
        teachers: names of entries; empty for all.
        progress: receives the messages; by default Python's logger `kdcache` does.

    Returns:
        The report: `report.copy` has the numbers of blocks and bytes, `report.whole` tells whether nothing was left
        out, `report.lines()` is what the command prints.

    Raises:
        UsageError: no URL of a shared cache, or views and teachers that it does not have.
        IdentityError: the target is another cache.
        CacheError: the source cannot be read, or the target cannot be written.

    Example:
        >>> kdcache.pull("hf://datasets/me/imagenet-beitv2", "cache", views="0:50").whole
        True
    """
    return pull_cache(PullOptions(**values_of(PullOptions, options)), options.progress)


@dataclass(frozen=True)
class CardArguments(CardOptions):
    """The options of a card, and where its messages go."""

    progress: Progress = logged


@with_arguments_of(CardArguments, positional=1)
def write_card(options: CardArguments) -> CardReport:
    """Write a card beside a cache, and the listing that a web server needs to offer it, as `kdcache cache card` does.

    Args:
        cache: path or URL of the cache.
        place: "hf://datasets/OWNER/NAME" where it will be shared; None where that is not known yet.
        data: shards of the cache, of which the card then shows some images; None for a card without a contact sheet.
        progress: receives the messages; by default Python's logger `kdcache` does.

    Returns:
        The report: what was written, and the README that was left alone as somebody had edited it.

    Raises:
        CacheError: there is no cache, it is damaged, or nothing can be written there.
        IdentityError: `data` does not hold the samples of the cache.
        UsageError: a place that names no data set on the hub.

    Example:
        >>> kdcache.write_card("cache", data="data").card
        'cache/README.md'
    """
    return write_cache_card(CardOptions(**values_of(CardOptions, options)), options.progress)
