"""The views that a run trains on: policy, number, the schedule of its steps, and the parts of a step."""

import dataclasses
from contextlib import ExitStack

from kdcache.errors import ConfigError, UsageError
from kdcache.loader.cached_teachers import CachedTeachers
from kdcache.loader.opening import OpenViews
from kdcache.loader.schedule import Schedule, require_steps
from kdcache.runtime.distributed import Distributed
from kdcache.runtime.formatting import format_count
from kdcache.training.config import RunConfig
from kdcache.training.sections import ViewsConfig
from kdcache.views.orders import OrdersAhead
from kdcache.views.policies import load_policy
from kdcache.views.policy import Policy


def policy_of(config: RunConfig) -> Policy:
    """Return the policy of a training that draws views of its own."""
    given = config.views.policy
    policy = load_policy(given) if isinstance(given, str) else Policy.from_json(given)
    off = config.mixup_off_epoch
    if off in (0, policy.mixup_off_view):
        return policy
    if policy.mixup_off_view:
        raise ConfigError(
            f"mixup_off_epoch is {off}, and views.policy mixes nothing from view {policy.mixup_off_view} on: leave one "
            "of them out."
        )
    if not policy.mixes:
        raise ConfigError(f"mixup_off_epoch is {off}, and the policy of the views mixes nothing: leave it out.")
    if off % policy.repeats:
        raise ConfigError(
            f"mixup_off_epoch is {off}, and the policy of the views shows {policy.repeats} views of an image in each "
            f"epoch, which share an order: give a multiple of {policy.repeats}."
        )
    return dataclasses.replace(policy, mixup_off_view=off)


def with_views(config: RunConfig, opened: OpenViews) -> RunConfig:
    """Return the configuration with what the views decide: policy, seed, and the size where none was given.

    Raises:
        ConfigError: mixing is to end at another epoch than the views of the cache end it.
    """
    policy = opened.view_set.policy
    if config.mixup_off_epoch not in (0, policy.mixup_off_view):
        mixed = f"up to view {policy.mixup_off_view}" if policy.mixup_off_view else "to the end"
        raise ConfigError(
            f"mixup_off_epoch is {config.mixup_off_epoch}, and the views of the cache, of which the teacher's targets "
            f"are, are mixed {mixed if policy.mixes else 'in no epoch'}: leave it out, or dump a cache with a policy "
            f"file that has `mixup_off_view: {config.mixup_off_epoch}`."
        )
    return dataclasses.replace(
        config,
        student=dataclasses.replace(config.student, size=config.student.size or policy.reference_size),
        schedule=dataclasses.replace(
            config.schedule, warmup_epochs=min(config.schedule.warmup_epochs, config.schedule.epochs)
        ),
        views=ViewsConfig(policy=policy.to_json(), seed=opened.view_set.seed, count=config.views.count),
    )


def with_view_count(
    config: RunConfig,
    opened: OpenViews,
    stored: CachedTeachers | None,
    before: RunConfig | None,
    *,
    follows: bool = False,
) -> RunConfig:
    """Return the configuration with the number of views written out: whole groups of them, fixed when a run begins.

    follows: whether the views need not be in the cache yet. Then there are as many as epochs, where no number is set.
    """
    repeats, epochs = opened.view_set.policy.repeats, config.schedule.epochs
    count = config.views.count if config.views.count is not None else before.views.count if before else None
    if stored is not None and not follows:
        there = stored.usable_views(repeats)
        if count is not None and count > there and config.views.count is None:
            raise UsageError(
                f"The run in this folder learns from {format_count(count, 'view')}, and {there} {_are(there)} complete "
                "in "
                "the cache: give the cache that it began with, --fresh to replace the run, or another --out."
            )
        if count is not None and count > there:
            raise UsageError(
                f"{format_count(count, 'view')} {_are(count)} asked for, and {there} {_are(there)} complete in the "
                "cache: "
                f"dump more with --views {count}, or train on fewer with --set views.count."
            )
        count = there if count is None else count
    elif count is None:
        count = -(-epochs // repeats) * repeats
    if count % repeats:
        raise ConfigError(
            f"views.count is {count}: the policy repeats each order {repeats} times, so give a multiple of {repeats}."
        )
    if config.mixup_off_epoch and count < epochs:
        raise ConfigError(
            f"mixup_off_epoch is {config.mixup_off_epoch}, and {format_count(count, 'view')} of {epochs} epochs are "
            "shown again, the mixed ones too, after those without mixing: train on as many views as epochs, or leave "
            "it out."
        )
    return dataclasses.replace(config, views=dataclasses.replace(config.views, count=count))


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def schedule_of(config: RunConfig, opened: OpenViews) -> Schedule:
    """Return the rows of every step; raise UsageError where an epoch has no step."""
    view_set = opened.view_set
    assert config.views.count is not None
    return require_steps(
        Schedule(
            samples=len(view_set),
            views=config.views.count,
            repeats=view_set.policy.repeats,
            batch_size=config.batch_size,
            epochs=config.schedule.epochs,
            block_rows=opened.identity.block_rows,
            seed=view_set.seed,
        )
    )


def prepare_orders(opened: OpenViews, schedule: Schedule, step: int, held: ExitStack) -> OrdersAhead:
    """Begin to compute the orders of the first batch in threads, while teacher and student are made.

    These are the order of the samples and, where a resumed training sees its views again, the order of the pairs.

    Args:
        step: first step of the training, 0 or the one that it goes on from.
        held: the threads end when this is closed.

    Returns:
        The orders of pairs, for the loader.
    """
    view_set, reused = opened.view_set, schedule.reused_orders()
    held.callback(view_set.close)
    held.callback(reused.close)
    view_set.prepare_order(schedule.first_view(step))
    visit = schedule.reused_visit(step)
    if visit is not None:
        reused.prepare(visit)
    return reused


def require_whole_parts(config: RunConfig, processes: Distributed) -> None:
    """Refuse an accumulation that does not divide a batch in whole pairs or, for the objective, not at all."""
    if config.accumulation == 1:
        return
    unit = 2 * processes.world_size * config.accumulation
    if config.batch_size % unit:
        among = "" if processes.is_single else f" of each of {processes.world_size} processes"
        raise ConfigError(
            f"A batch of {config.batch_size} cannot be cut into {config.accumulation} equal parts of whole pairs"
            f"{among}: give a --batch-size that is a multiple of {unit}, or another accumulation."
        )
    if config.objective.needs.whole_batch:
        raise ConfigError(
            f"accumulation is {config.accumulation}, and the objective {config.objective.name} relates the rows of a "
            "batch to each other, which a part of a batch does not show: set accumulation=1, with "
            "grad_checkpointing=true where memory is short, or choose another objective."
        )
