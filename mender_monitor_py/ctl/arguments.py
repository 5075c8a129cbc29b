"""The words of ``create`` and the fields that they fill; the usage lines come from the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mender_monitor_py.definition import is_name
from mender_monitor_py.errors import CatalogError
from mender_monitor_py.subsystems.base import Field, Template

OWN_NAME = "NAME"


def usage(fields: Iterable[Field]) -> str:
    """The words after the check's name, as a usage line shows them."""
    fields = tuple(fields)
    words = [f.argument if f.required else f"[{f.argument}]" for f in _positional(fields)]
    rest = [f for f in fields if not f.argument]
    words += [f"{f.name}=VALUE" for f in rest if f.required]
    if not fields or any(not f.required for f in rest):
        words.append("[VARIABLE=VALUE...]")
    return " ".join(words)


def template_usage(template: Template) -> str:
    """The same, of a pseudo subsystem."""
    return " ".join([*template.arguments, *(f"[{word}]" for word in template.optional)])


def values(fields: Sequence[Field], name: str, words: Iterable[str]) -> dict[str, str]:
    """
    The variables of the check *name*, from the *words* after it.

    Words fill the fields that have an argument, in their order; ``VARIABLE=VALUE`` any field. In the place
    of a required argument a word is that argument, whatever it looks like. A subsystem without fields takes
    any variable. Raises CatalogError.
    """
    found = {f.name: name for f in fields if f.argument == OWN_NAME}
    known = {known for f in fields for known in (f.name, *f.aliases)}
    waiting = _positional(fields)
    for word in words:
        variable, equals, value = word.partition("=")
        is_variable = variable in known if fields else is_name(variable)
        if equals and is_variable and not (waiting and waiting[0].required):
            if variable in found and variable != _own(fields):
                raise CatalogError(f"{variable} is given twice")
            found[variable] = value
        elif waiting:
            found[waiting.pop(0).name] = word
        else:
            expected = (
                f"the variables are {', '.join(sorted(known))}" if known else "VARIABLE=VALUE is expected"
            )
            raise CatalogError(f"{word!r} is one word too many, or no variable of this subsystem; {expected}")
    missing = [f.argument for f in waiting if f.required]
    if missing:
        raise CatalogError(f"{missing[0]} is missing")
    return found


def template_values(template: Template, name: str, words: Sequence[str]) -> Mapping[str, str]:
    """The variables that a pseudo subsystem makes of *words*. Raises CatalogError."""
    least, most = len(template.arguments), len(template.arguments) + len(template.optional)
    if len(words) < least:
        raise CatalogError(f"{template.arguments[len(words)]} is missing")
    if len(words) > most:
        raise CatalogError(f"{words[most]!r} is one word too many")
    try:
        return template.expand(name, tuple(words))
    except ValueError as error:
        raise CatalogError(str(error)) from error


def _positional(fields: Iterable[Field]) -> list[Field]:
    return [f for f in fields if f.argument and f.argument != OWN_NAME]


def _own(fields: Iterable[Field]) -> str:
    return next((f.name for f in fields if f.argument == OWN_NAME), "")
