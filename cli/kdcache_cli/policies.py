"""`kdcache policies`."""

from kdcache_cli.console import print_table


def policies() -> None:
    """List the named policies: how views are drawn."""
    from kdcache.views.policies import DEFAULT, NAMED

    print_table(
        ("policy", "settings"),
        [
            (f"{name} (default)" if name == DEFAULT else name, _settings(policy.to_json()))
            for name, policy in NAMED.items()
        ],
    )


def _settings(values: dict[str, object]) -> str:
    changes = [f"{key} {_plain(value)}" for key, value in values.items()]
    return ", ".join(["random resized crop and flip", *changes])


def _plain(value: object) -> str:
    return " to ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)
