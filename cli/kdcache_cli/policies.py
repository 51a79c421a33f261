"""`kdcache policies`."""

from kdcache_cli.console import print_lines


def policies() -> None:
    """List the named policies: how views are drawn."""
    from kdcache.views.policies import DEFAULT, NAMED, ORIGIN

    shown = {name: f"{name} (default)" if name == DEFAULT else name for name in NAMED}
    width = max(map(len, shown.values()))
    print_lines([f"{'policy':{width}}  where it comes from, and the fields in which it differs from crop"])
    for name, policy in NAMED.items():
        print_lines([f"{shown[name]:{width}}  {ORIGIN[name]}", f"{'':{width}}  {_fields(policy.to_json())}"])


def _fields(changes: dict[str, object]) -> str:
    if not changes:
        return "a random crop of 8 % to all of the picture's area, flipped half of the time, resized bilinearly"
    return ", ".join(f"{name} {_plain(value)}" for name, value in changes.items())


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
