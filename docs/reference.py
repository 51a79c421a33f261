"""Write the reference of docs/python.md from the docstrings of the public names: python docs/reference.py.

A test compares the page with what this writes.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import kdcache
from kdcache.jobs import DumpArguments, InspectArguments, TrainArguments
from kdcache.runtime.option import Option

PAGE = Path(__file__).with_name("python.md")
BEGIN, END = "<!-- reference: written by docs/reference.py from the docstrings -->", "<!-- end of the reference -->"
WIDTH = 138

#: Functions whose arguments are the options of a command, with what declares these.
OPTIONS = {"train": TrainArguments, "dump_logits": DumpArguments, "inspect": InspectArguments}
#: Classes that a user calls; the others are made by a function.
CALLED = {"StudentOutputs", "TeacherModule"}


def reference() -> str:
    """Return the reference of all public names."""
    names = [name for name in kdcache.__all__ if not name.startswith("__")]
    return "\n".join(line for name in names for line in [f"### kdcache.{name}", "", *_described(name)])


def _described(name: str) -> Iterator[str]:
    value = getattr(kdcache, name)
    if not inspect.isclass(value):
        yield from _signature(name, value)
        yield from _markdown(inspect.getdoc(value) or "")
        if name in OPTIONS:
            yield from _options(OPTIONS[name])
        return
    if name in CALLED:
        yield from _signature(name, value)
    text = inspect.getdoc(value) or ""
    yield from _markdown(text)
    for method, function in _methods(value):
        if isinstance(function, property):
            if not re.search(rf"^ +(\w+, )*{method}[,:]", text, re.MULTILINE):
                yield from [f"**{method}**", "", *_markdown(inspect.getdoc(function) or "")]
            continue
        yield from _signature(f"{name}.{method}", function)
        yield from _markdown(inspect.getdoc(function) or "")


def _methods(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class, and what `len` and `for` call, where they are documented."""
    for name, value in vars(kind).items():
        function = value.__func__ if isinstance(value, classmethod) else value
        is_told = not name.startswith("_") or name in ("__len__", "__iter__")
        if is_told and (inspect.isfunction(function) or isinstance(function, property)) and inspect.getdoc(function):
            yield name, function


def _signature(name: str, function: Callable[..., Any]) -> list[str]:
    """Return names and defaults as a block of code; types are in the docstring and for the type checker."""
    told, is_keyword = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword:
            is_keyword = True
            told.append("*")
        stars = {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={_plain(parameter.default)}"
        told.append(stars + parameter.name + default)
    lines = textwrap.wrap(f"{name}({', '.join(told)})", WIDTH, subsequent_indent=" " * 4, break_on_hyphens=False)
    return ["```text", *lines, "```", ""]


def _plain(value: object) -> str:
    return "..." if type(value).__module__.startswith("kdcache") else repr(value)


def _options(declared: type[Any]) -> Iterator[str]:
    """Yield the arguments of a job, as its options declare them."""
    hints = get_type_hints(declared, include_extras=True)
    told = {name: [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Option)]
            for name, hint in hints.items()}  # fmt: skip
    entries = [(name, _told(option[0])) for name, option in told.items() if option]
    if entries:
        yield from ["Arguments, as the command has them:", ""]
        for name, text in entries:
            yield from _entry(name, text)
        yield ""


def _told(option: Option) -> str:
    """Return the help of an option, and its default where the signature's None does not say it."""
    default = "" if option.default_text is None else f" Default: {option.default_text}."
    return " ".join(option.help.split()) + default


def _markdown(text: str) -> Iterator[str]:
    """Yield a docstring in the style of Google as Markdown: sections as lists, examples as blocks."""
    parts = re.split(r"^(Args|Attributes|Returns|Raises|Example):\n", text, flags=re.MULTILINE)
    yield from _paragraphs(parts[0])
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        body = textwrap.dedent(body).rstrip()
        if title == "Example":
            yield from ["```pycon", *body.splitlines(), "```", ""]
        elif title == "Returns":
            yield from _paragraphs(f"Returns: {body}")
        else:
            yield from [f"{'Arguments' if title == 'Args' else title}:", ""]
            for entry in re.split(r"\n(?=\S)", body):
                name, separator, described = entry.partition(": ")
                yield from _entry(name, described) if separator else _paragraphs(entry)
            yield ""


def _entry(name: str, text: str) -> list[str]:
    names = ", ".join(f"`{part}`" for part in name.split(", "))
    return textwrap.wrap(f"* {names}: {_escaped(text)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield from [*textwrap.wrap(_escaped(paragraph), WIDTH, break_on_hyphens=False), ""]


def _escaped(text: str) -> str:
    """Return text on one line, so that what looks like a tag is none."""
    return " ".join(text.split()).replace("<", "&lt;")


def written(page: str) -> str:
    """Return the page with the reference of today between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
