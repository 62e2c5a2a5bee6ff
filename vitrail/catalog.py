"""What there is, read from the folders without importing it: recipes, studies, protocols, methods, rankers, localizers,
masks, regularizers.

A recipe is a public function in `vitrail/recipes` that needs no argument and whose return annotation ends in `Recipe`,
a study one whose return annotation is `Study`; a protocol is a file in `vitrail/evaluation` with a public function
`evaluate`; a ranker is a file in `vitrail/rankers` with a public function `from_source`, a localizer one in
`vitrail/localizers`; a mask or a regularizer is a word that the `kind` of its room's settings takes. Nobody registers
anything.
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

PACKAGE = Path(__file__).parent


class Entry(NamedTuple):
    """A thing that a user can name."""

    name: str
    module: str  # dotted, to import it when it is used
    summary: str  # first line of its docstring


class RankerEntry(NamedTuple):
    """A ranker or a localizer that a user can name."""

    name: str
    module: str
    summary: str
    variants: tuple[str, ...]  # its file's VARIANTS, the default first; empty where there are none
    weights: str  # its file's WEIGHTS, which are needed; empty where it reads none
    part: str  # its file's PART, what its own files hold beside a backbone; empty where that is nothing


class Setting(NamedTuple):
    """A field of a configuration, as its file has it."""

    name: str
    kind: str  # its type
    default: str  # as one would write it after `name=`, or "..." where the file does not say it there
    summary: str  # what its file says of it; may be empty


Named = TypeVar("Named", Entry, RankerEntry)


def recipes() -> list[Entry]:
    """Functions that return a complete recipe."""
    return [entry for entry, returned in _functions("recipes") if returned.endswith("Recipe")]


def studies() -> list[Entry]:
    """Functions that return a whole table of trainings."""
    return [entry for entry, returned in _functions("recipes") if returned == "Study"]


def protocols() -> list[Entry]:
    """Files with a function `evaluate`."""
    return [_told(module, text) for module, text in _texts("evaluation") if "\ndef evaluate(" in text]


def asks_for(protocol: Entry) -> dict[str, bool]:
    """What a protocol's `evaluate` takes, by name (`backbone`, `ranker`, `head`, ...), and whether it needs it."""
    tree = _tree(protocol.module)
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "evaluate")
    given, named = found.args, {each.arg: True for each in found.args.args}
    named |= dict.fromkeys(list(named)[len(named) - len(given.defaults) :], False)
    return named | {each.arg: value is None for each, value in zip(given.kwonlyargs, given.kw_defaults)}


def settings_of(protocol: Entry) -> list[Setting]:
    """What `vitrail evaluate` takes as `name=value` for a protocol: the fields of its configuration."""
    tree = _tree(protocol.module)
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "evaluate")
    given = next(each for each in (*found.args.args, *found.args.kwonlyargs) if each.arg == "config")
    assert given.annotation is not None
    name = next(node.id for node in ast.walk(given.annotation) if isinstance(node, ast.Name))
    return list(_fields(protocol.module, name).values())


@functools.cache
def rankers() -> list[RankerEntry]:
    """Files of `vitrail/rankers` with a function `from_source`, and what their constants say."""
    return _opened("rankers")


@functools.cache
def localizers() -> list[RankerEntry]:
    """Files of `vitrail/localizers` with a function `from_source`, and what their constants say."""
    return _opened("localizers")


def _opened(room: str) -> list[RankerEntry]:
    found = []
    for module, tree in _files(room, "\ndef from_source("):
        if any(isinstance(node, ast.FunctionDef) and node.name == "from_source" for node in tree.body):
            told = (_constant(tree, "VARIANTS", ()), _constant(tree, "WEIGHTS", ""), _constant(tree, "PART", ""))
            found.append(RankerEntry(module.rsplit(".", 1)[1], module, _summary(tree).partition(". ")[0], *told))
    return found


def parts(room: str) -> list[Entry]:
    """Files of a room that define a module or a method."""
    return [_told(module, text) for module, text in _texts(room) if _MODULE.search(text)]


def kinds(room: str) -> list[Entry]:
    """What the setting `kind` of a room's `build.py` can name.

    Each is told by the file of that name or, where several share a file, by its class.
    """
    trees = dict(_files(room))
    classes = {
        node.name.lower(): (module, node)
        for module, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    found = []
    for name in _words_of_kind(trees[f"vitrail.{room}.build"]):
        own = f"vitrail.{room}.{name}"
        module, node = (own, trees[own]) if own in trees else classes[name]
        found.append(Entry(name, module, _summary(node).partition(". ")[0]))
    return found


def find(entries: Iterable[Named], name: str, what: str) -> Named:
    """The entry of that name. Raises `ValueError` with the nearest name and all known ones."""
    known = {entry.name: entry for entry in entries}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"there is no {what} {name!r}; {hint}known: {', '.join(sorted(known))}")


_FUNCTION = re.compile(r'^def ([a-z]\w*)\((.*?)\) -> (\w+):\n    """(.+)$', re.MULTILINE)
_MODULE = re.compile(r"^class \w+\([^)]*Module[^)]*\):", re.MULTILINE)


@functools.cache
def _texts(room: str) -> list[tuple[str, str]]:
    paths = sorted(path for path in (PACKAGE / room).glob("*.py") if path.stem[0] != "_")
    return [(f"vitrail.{room}.{path.stem}", path.read_text()) for path in paths]


def _files(room: str, words: str = "") -> list[tuple[str, ast.Module]]:
    """The files of a room that hold these words, which is quickly seen, parsed, which is not."""
    return [(module, ast.parse(text)) for module, text in _texts(room) if words in text]


def _told(module: str, text: str) -> Entry:
    """A file by its name and the first line of its docstring."""
    return Entry(module.rsplit(".", 1)[1], module, _line(text.partition("\n")[0].removeprefix('"""')))


def _functions(room: str) -> list[tuple[Entry, str]]:
    """Public functions of a room's files that need no argument, and what their return annotation names."""
    return [
        (Entry(name, module, _line(words)), returned)
        for module, text in _texts(room)
        for name, arguments, returned, words in _FUNCTION.findall(text)
        if not arguments or _all_have_defaults(arguments)
    ]


def _all_have_defaults(arguments: str) -> bool:
    given = ast.parse(f"def function({arguments}): ...").body[0]
    assert isinstance(given, ast.FunctionDef)
    return len(given.args.args) == len(given.args.defaults)


def _line(words: str) -> str:
    """The first line of a docstring, without what ends it."""
    return words.removesuffix('"""').rstrip().rstrip(".")


def _constant(tree: ast.Module, name: str, default: Any) -> Any:
    """The value of `NAME = literal` in a file."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    return default


def _words_of_kind(tree: ast.Module) -> list[str]:
    """The words of the field `kind: Literal[...]`."""
    fields = (node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign))
    literal = next(node.annotation for node in fields if ast.unparse(node.target) == "kind")
    assert isinstance(literal, ast.Subscript)
    return list(ast.literal_eval(literal.slice))


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE.parent / f"{module.replace('.', '/')}.py").read_text())


def _source(tree: ast.Module, name: str) -> str | None:
    """The module of ours that a file imports a name from."""
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    found = next((node.module for node in imports if any(each.name == name for each in node.names)), None)
    return found if found and found.startswith("vitrail.") else None


def _fields(module: str, name: str) -> dict[str, Setting]:
    """The fields of a configuration's class in a module, those of the class that it builds on first."""
    tree = _tree(module)
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        return _fields(str(_source(tree, name)), name)
    fields: dict[str, Setting] = {}
    for base in found.bases:
        fields |= {} if ast.unparse(base) == "Config" else _fields(module, ast.unparse(base))
    for node, after in zip(found.body, [*found.body[1:], None]):
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith("ClassVar"):
            told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            words, field = " ".join(str(told).split()), ast.unparse(node.target)
            fields[field] = Setting(field, _kind(module, node.annotation), _default(node), words)
    return fields


def _kind(module: str, annotation: ast.expr) -> str:
    """A type in a user's words: what may be written, and no more than that of what pydantic is told."""
    if isinstance(annotation, ast.BinOp):
        return f"{_kind(module, annotation.left)} | {_kind(module, annotation.right)}"
    if isinstance(annotation, ast.Name):
        return _alias(module, annotation.id) or annotation.id
    if not isinstance(annotation, ast.Subscript):
        return "null" if ast.unparse(annotation) == "None" else ast.unparse(annotation)
    inside = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    outside = ast.unparse(annotation.value)
    if outside == "Annotated":
        return _kind(module, inside[0])
    if outside == "Literal":
        return " | ".join(str(ast.literal_eval(each)) for each in inside)
    return f"{outside}[{', '.join(_kind(module, each) for each in inside)}]"


def _alias(module: str, name: str) -> str | None:
    """What `NAME = Literal[...]` or `NAME = Annotated[...]` of a module, or of one that it imports, stands for."""
    tree = _tree(module)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return _kind(module, node.value)
    source = _source(tree, name)
    there = source is not None and (PACKAGE.parent / f"{source.replace('.', '/')}.py").is_file()
    return _alias(source, name) if source is not None and there else None


def _default(field: ast.AnnAssign) -> str:
    value = field.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        named = (each.value for each in value.keywords if each.arg in ("default", "default_factory"))
        value = value.args[0] if value.args else next(named, None)
    if value is None:
        return ""
    try:
        plain = ast.literal_eval(value)
    except ValueError:  # a constant of the file, or settings of their own
        return "..."
    if isinstance(plain, tuple):
        joined = ",".join(map(str, plain))
        return joined if "Listed" in ast.unparse(field.annotation) else f"[{joined}]"
    if plain is None or isinstance(plain, bool):
        return {None: "null", True: "true", False: "false"}[plain]
    return str(plain)


def _summary(node: ast.FunctionDef | ast.ClassDef | ast.Module) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0].rstrip(".")
