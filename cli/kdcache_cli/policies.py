"""`kdcache policies`."""

from typing import TYPE_CHECKING, Annotated

import typer

from kdcache_cli.console import print_lines

if TYPE_CHECKING:
    from kdcache.views.policy import Policy


def policies(
    policy: Annotated[
        str | None,
        typer.Argument(metavar="[NAME_OR_FILE]", help="Say every field of this one: a name, or a JSON or YAML file."),
    ] = None,
) -> None:
    """List the named policies: how views are drawn; or check one of your own, and say all that it means.

    A file has one `field: value` a line. `base: a2` takes over what it leaves out from a named policy.
    """
    from kdcache.views.policies import DEFAULT, NAMED, ORIGIN, load_with_base

    if policy is not None:
        print_lines(_every_field(*load_with_base(policy)))
        return
    shown = {name: f"{name} (default)" if name == DEFAULT else name for name in NAMED}
    width = max(map(len, shown.values()))
    print_lines([f"{'policy':{width}}  where it comes from, and the fields in which it differs from crop"])
    for name, named in NAMED.items():
        print_lines([f"{shown[name]:{width}}  {ORIGIN[name]}", f"{'':{width}}  {_fields(named.to_json())}"])


def _every_field(policy: "Policy", base: str) -> list[str]:
    """A line for each field, as a policy file has them, with what the base has where that differs."""
    import dataclasses

    from kdcache.views.policies import NAMED

    same = [name for name, named in NAMED.items() if named == policy]
    values, former = dataclasses.asdict(policy), dataclasses.asdict(NAMED[base])
    changed = [name for name, value in values.items() if value != former[name]]
    lines = {name: f"{name}: {_yaml(value)}" for name, value in values.items()}
    width = max(map(len, lines.values()))
    return [
        f"# the policy {same[0]}" if same else f"# a policy of its own: {base} with another {' and '.join(changed)}",
        *(
            f"{line:{width}}  # {f'in {base}: {_yaml(former[name])}' if name in changed else f'as in {base}'}"
            for name, line in lines.items()
        ),
    ]


def _yaml(value: object) -> str:
    """In YAML's own notation, so that the lines are a policy file."""
    import json

    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, float):
        text = f"{value:.4g}" if float(f"{value:.4g}") == value else repr(value)
        # Without the dot, readers of YAML 1.1 take it for text.
        return text if "." in text else text.replace("e", ".0e")
    return json.dumps(value)


def _fields(changes: dict[str, object]) -> str:
    if not changes:
        return "a random crop of 8 % to all of the image's area, flipped half of the time, resized bilinearly"
    return ", ".join(f"{name} {_plain(value)}" for name, value in changes.items())


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
