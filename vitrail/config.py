"""Typed, frozen configurations: YAML in and out, `a.b=c` overrides, unknown keys answered with "did you
mean"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

_TYPE = re.compile(r"int|float|str|bool|none|constrained-\w+|[\w-]+\[.*\]")
"""What pydantic puts into the place of a value that may have several types; nobody writes it."""


class ConfigError(ValueError):
    """A configuration that cannot be used. The message names the key, the value and the way out."""


class Config(BaseModel):
    """Base of every configuration.

    >>> class Blur(Config):
    ...     sigma: float = 1.0
    >>> Blur().override(["sigma=2"])
    Blur(sigma=2.0)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str = "configuration") -> Self:
        """Validate nested plain values. Raises `ConfigError`, in words, for unknown keys and wrong types."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(_explain(cls, error, source)) from None

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Self:
        """Read a YAML file and apply overrides of the form `a.b=c`."""
        values = read_yaml(path)
        return cls.parse(merged(values, overrides), source=str(path))

    def override(self, overrides: Iterable[str]) -> Self:
        """The same configuration with `a.b=c` applied; values are read as YAML (`null`, `[1, 2]`, `1e-3`)."""
        return type(self).parse(merged(self.plain(), overrides), source="overrides")

    def plain(self) -> dict[str, Any]:
        """Nested dictionaries of JSON values."""
        return self.model_dump(mode="json")

    def yaml(self) -> str:
        """The configuration as YAML text; `load` reads it back to an equal object."""
        return yaml.safe_dump(self.plain(), sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> None:
        """Write `yaml()` to a file."""
        Path(path).write_text(self.yaml())


def listed(values: object) -> object:
    """A list of what `0.5`, `0.1,0.5` or `block,amt` says; anything else as it is."""
    if isinstance(values, str):
        return [value.strip() for value in values.split(",") if value.strip()]
    return [values] if isinstance(values, int | float) else values


Listed = BeforeValidator(listed)
"""For fields that are tuples: `keeps: Annotated[tuple[float, ...], Listed]` takes `keeps=0.1,0.5`."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; `ConfigError` where there is none."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no configuration file at {path}; `vitrail list` names the built-in recipes")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, not `key: value` lines")
    return values


def merged(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of nested plain values with `a.b=c` applied, not validated. Raises `ConfigError` for other words."""
    changed = _copy(values)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {text!r} is not of the form key.subkey=value")
        *parents, last = key.strip().split(".")
        place: Any = changed
        for parent in parents:
            child = _at(place, parent, text)
            if child is None:
                child = {}
                _put(place, parent, child)
            if not isinstance(child, dict | list):
                raise ConfigError(f"override {text!r}: {parent!r} is the value {child!r}, not a group of keys")
            place = child
        _at(place, last, text)
        _put(place, last, _scalar(value))
    return changed


def _at(place: dict[str, Any] | list[Any], key: str, text: str) -> Any:
    if isinstance(place, dict):
        return place.get(key)
    if not key.isdigit() or int(key) >= len(place):
        raise ConfigError(f"override {text!r}: {key!r} is no place in a list of {len(place)}; they count from 0")
    return place[int(key)]


def _put(place: dict[str, Any] | list[Any], key: str, value: Any) -> None:
    if isinstance(place, dict):
        place[key] = value
    else:
        place[int(key)] = value


def _copy(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _copy(value) for key, value in values.items()}
    return [_copy(value) for value in values] if isinstance(values, list | tuple) else values


def _scalar(text: str) -> Any:
    # YAML 1.1 reads 1e-3 as text (it wants 1.0e-3); people write 1e-3.
    if re.fullmatch(r"\s*[-+]?\d+(\.\d*)?[eE][-+]?\d+\s*", text):
        return float(text)
    try:
        return yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError:
        return text


def _explain(model: type[BaseModel], error: ValidationError, source: str) -> str:
    lines: list[str] = []
    told: dict[str, list[str]] = {}  # what each value should be: a field of several types says it of each
    for problem in error.errors():
        place = tuple(str(part) for part in problem["loc"])
        spoken = _follow(model, place)[1]
        key = ".".join(spoken)
        if problem["type"] == "extra_forbidden":
            known = _fields_at(model, place[:-1])
            close = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
            hint = f"did you mean {'.'.join((*spoken[:-1], close[0]))!r}?" if close else f"known: {', '.join(known)}"
            lines.append(f"unknown key {key!r}; {hint}")
        elif problem["type"] == "missing":
            lines.append(f"{key} is required and not given")
        else:
            message, value = problem["msg"].removeprefix("Value error, "), problem["input"]
            if problem["type"] == "model_type" and "kind" in _fields_at(model, place):
                message = f"it has settings of its own; say {key}.kind={value}"
            if problem["type"] == "union_tag_not_found":
                message = f"it has several kinds; say which by {key}.kind"
            shown = key if isinstance(value, Mapping | BaseModel) else f"{key} = {value!r}"  # not a whole section
            told.setdefault(shown if key else "", []).append(message)
    lines += [f"{shown}: {', or: '.join(said)}" if shown else "; ".join(said) for shown, said in told.items()]
    return f"{source}: " + "; ".join(lines)


def _fields_at(model: type[BaseModel], place: tuple[str, ...]) -> list[str]:
    found = _follow(model, place)[0]
    return list(found.model_fields) if found is not None else []


def _follow(model: type[BaseModel], place: tuple[str, ...]) -> tuple[type[BaseModel] | None, tuple[str, ...]]:
    """The section that a place leads to, None where it is none, and the place as people write it."""
    choices, spoken = [model], []
    for name in place:
        if _TYPE.fullmatch(name):
            continue
        tagged = [each for each in choices if "kind" in each.model_fields and each.model_fields["kind"].default == name]
        if len(choices) > 1 and tagged:
            choices = tagged
            continue  # the tag of a union stands in the location too, and nobody writes it
        spoken.append(name)
        field = choices[0].model_fields.get(name) if choices else None
        if field is None:
            continue
        options = [field.annotation, *get_args(field.annotation)]
        choices = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
    return (choices[0] if choices else None), tuple(spoken)
