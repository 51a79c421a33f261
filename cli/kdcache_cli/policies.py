"""`kdcache policies`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from kdcache.runtime.option import Option
from kdcache_cli.console import print_json, print_lines, print_table
from kdcache_cli.declared import typer_option

if TYPE_CHECKING:
    from kdcache.views.policy import Policy


def policies(
    policy: Annotated[
        str | None,
        typer_option(
            "policy",
            Option(
                "Policy whose fields are all printed: a name, or a JSON or YAML file.",
                metavar="[NAME_OR_FILE]",
                is_argument=True,
                names="policy",
            ),
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the named policies, which define how views are drawn; or check one of your own and print all of its fields.

    A file has one `field: value` per line. With `base: a2`, fields that it leaves out come from that named policy.
    """
    from kdcache.views.policies import DEFAULT, NAMED, ORIGIN, load_with_base

    if policy is not None and as_json:
        own, base = load_with_base(policy)
        print_json({"base": base, "fields": asdict(own)})
        return
    if as_json:
        print_json(
            [
                {"name": name, "default": name == DEFAULT, "origin": ORIGIN[name], "fields": asdict(named)}
                for name, named in NAMED.items()
            ]
        )
        return
    if policy is not None:
        print_lines(_every_field(*load_with_base(policy)))
        return
    shown = {name: f"{name} (default)" if name == DEFAULT else name for name in NAMED}
    rows = []
    for name, named in NAMED.items():
        rows += [(shown[name], ORIGIN[name]), ("", _fields(named.to_json()))]
    print_table(("policy", "where it comes from, and the fields in which it differs from crop"), rows)


def _every_field(policy: "Policy", base: str) -> list[str]:
    """Return one line per field, in the form of a policy file, with the base's value where it differs."""
    from kdcache.views.policies import NAMED

    same = [name for name, named in NAMED.items() if named == policy]
    values, former = asdict(policy), asdict(NAMED[base])
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
    """Return a value in YAML's notation, so that the printed lines form a policy file."""
    import json

    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, float):
        text = f"{value:.4g}" if float(f"{value:.4g}") == value else repr(value)
        # Readers of YAML 1.1 take a float without a dot for text.
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
