"""The shape of the house: layers, light imports, documented public names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vitrail"

LEVEL = {
    "__init__": 0,
    "contracts": 0,
    "config": 0,
    "catalog": 0,
    "ops": 1,
    "nn": 2,
    "backbones": 3,
    "masks": 3,
    "localizers": 3,
    "rankers": 3,
    "regularizers": 3,
    "data": 3,
    "metrics": 3,
    "methods": 4,
    "train": 4,
    "evaluation": 5,
    "viz": 5,
    "recipes": 6,
    "cli": 7,
    "report": 7,
    "app": 7,
    "demo": 7,
    "doctor": 7,
    "__main__": 7,
}
STRANGERS = {("methods", "train"), ("train", "methods"), ("evaluation", "methods"), ("viz", "methods")}
ALLOWED_UP = {("__init__", "backbones")}  # `vitrail.load`, imported at first use


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports_of(path: Path, tree: ast.AST) -> set[str]:
    """Rooms of vitrail that a file imports, anywhere in it."""
    rooms = set()
    package = ["vitrail", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "vitrail" and len(parts) > 1 and parts[1] in LEVEL:
                rooms.add(parts[1])
    return rooms


def breaches(files: list[tuple[Path, str]]) -> list[str]:
    found = []
    for path, source in files:
        room = room_of(path)
        for other in imports_of(path, ast.parse(source)):
            if other == room or (room, other) in ALLOWED_UP:
                continue
            if LEVEL[other] > LEVEL[room] or (room, other) in STRANGERS:
                found.append(f"{path.relative_to(ROOT)} ({room}) imports {other}")
    return found


def test_rooms_import_downwards_only() -> None:
    files = [(path, path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))]
    assert len(files) > 40
    unknown = {room_of(path) for path, _ in files} - set(LEVEL)
    assert not unknown, f"rooms without a level: {unknown}; add them here and in docs/architecture.md"
    assert breaches(files) == []


def test_packages_that_vitrail_does_without() -> None:
    """scipy checks the components in tests; a user needs no such package. OpenCV cuts, and is imported when it does."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            found = {name.split(".")[0] for name in names} & {"scipy", "sklearn"}
            assert not found, f"{path.relative_to(ROOT)} imports {found}, which is no dependency"


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("train", "from vitrail.methods.supervised import Supervised"),
        ("methods", "def f():\n    from vitrail.train import fit"),
        ("ops", "from ..backbones import load"),
        ("evaluation", "import vitrail.methods.supervised"),
    ],
)
def test_a_breach_is_found(room: str, source: str) -> None:
    assert len(breaches([(PACKAGE / room / "new.py", source)])) == 1


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


HEAVY = {"timm", "torchvision", "matplotlib", "numba", "triton", "cv2", "scipy", "sklearn"}


@pytest.mark.parametrize("statement", ["import vitrail", "import vitrail.ops", "import vitrail.data"])
def test_core_imports_are_light(statement: str) -> None:
    by_torch = modules_after("import torch")
    assert (modules_after(statement) - by_torch) & HEAVY == set()


def test_the_command_line_does_not_import_torch_for_words() -> None:
    for arguments in (["--help"], ["list"], ["train", "--help"]):
        statement = f"from vitrail.cli import app\ntry:\n    app({arguments!r})\nexcept SystemExit:\n    pass"
        assert "torch" not in modules_after(statement)


def public(tree: ast.Module) -> list[tuple[str, ast.AST]]:
    found: list[tuple[str, ast.AST]] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append((node.name, node))
            if isinstance(node, ast.ClassDef):
                found += [
                    (f"{node.name}.{each.name}", each)
                    for each in node.body
                    if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")
                ]
    return found


def test_public_names_are_documented() -> None:
    silent = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            silent.append(str(path.relative_to(ROOT)))
        for name, node in public(tree):
            assert isinstance(node, ast.FunctionDef | ast.ClassDef)
            if not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}: {name}")
    assert silent == []


def test_functions_fit_a_screen() -> None:
    long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 75:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert long == []


def test_pages_have_no_gaps_to_be_filled() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert len(pages) > 5
    assert [page.name for page in pages if "@@" in page.read_text()] == []


def test_no_room_is_called_utils() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert [path for path in PACKAGE.rglob("*.py") if path.stem in vague or path.parent.name in vague] == []


def test_commands_in_the_docs_begin_with_uv_run() -> None:
    """One way to write them, as README says; running text names commands alone."""
    bare = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            bare += [f"{page.name}: {line}" for line in block.splitlines() if line.startswith(("vitrail", "torchrun"))]
    assert bare == []
