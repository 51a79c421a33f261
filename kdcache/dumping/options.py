"""What a dump is asked to keep, as far as it can be refused before anything is opened, or torch imported."""

from kdcache.errors import UsageError


def require_one_choice(
    objectives: str | None, *, targets: str | None, k: int | None, min_prob: float | None, dtype: str | None
) -> None:
    """Refuse options about what is kept that contradict each other; None for those that were not given.

    Raises:
        UsageError: targets, or a parameter of theirs, beside the objectives that choose them; or as
            `require_parameters_of` does.
    """
    if objectives is None:
        require_parameters_of(targets or "topk", k=k, min_prob=min_prob, dtype=dtype)
        return
    chosen = {"--targets": targets, "--k": k, "--min-prob": min_prob, "--dtype": dtype}
    given = [option for option, value in chosen.items() if value is not None]
    if given:
        raise UsageError(
            f"--for chooses what is kept, and {given[0]} says it: give one of them. --dry-run shows what --for chooses."
        )


def require_parameters_of(kind: str, *, k: int | None, min_prob: float | None, dtype: str | None) -> None:
    """Refuse parameters that targets of a kind do not have; None for those that were not given.

    Raises:
        UsageError: there is one.
    """
    if kind != "topk" and (k is not None or min_prob is not None):
        raise UsageError(f"--k and --min-prob belong to --targets topk; {kind} targets have every class.")
    if kind == "topk" and dtype is not None:
        raise UsageError("--dtype belongs to --targets full or embedding; what topk keeps has a form of its own.")
