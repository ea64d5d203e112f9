"""``config.yaml``: plain values that can be read back, and read without running code."""

from collections.abc import Iterator
from typing import Any

import yaml

from pyro_vae.runs.errors import RunError

MAX_DEPTH = 20  # levels; a real one has four


def as_yaml(config: dict[str, Any]) -> str:
    """Return the text of ``config.yaml``.

    Raises:
        RunError: for what could not be read back, such as a file name that is not UTF-8.
    """
    text = yaml.dump(config, Dumper=_Plain, sort_keys=False, allow_unicode=True)
    try:
        text.encode()
        parse_yaml(text)
    except (ValueError, yaml.YAMLError):
        odd = next((value for value in _strings(config) if not _storable(value)), None)
        what = f"{odd!r} is not valid Unicode text, so it" if odd is not None else "what describes this run"
        raise RunError(f"{what} cannot be stored in config.yaml; rename the file or option") from None
    return text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _strings(name)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _storable(text: str) -> bool:
    try:
        text.encode()
        return bool(parse_yaml(yaml.dump(text, allow_unicode=True)) == text)
    except (ValueError, yaml.YAMLError):
        return False


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice, since aliases are refused on reading."""
        return True


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(text: str) -> Any:
    """Return the plain values of a YAML text.

    Raises:
        ValueError: for what could take memory or stack out of proportion: deep nesting, aliases.
        yaml.YAMLError: it is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias (*name); write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    return yaml.load(text, Loader=_Loader)
