"""Who imports whom. `python tests/import_graph.py` prints rooms, lines, arrows, cycles and arrows that point upward."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("datasets", "networks", "utils", "scripts")

# Every room from the lowest up: a room may import those above its line, never those below it.
# A room is a folder; a loose file of `utils/` is one of its own, and so is what the readers of data share.
ORDER = (
    "utils/tables.py",
    "utils/machine.py",
    "datasets/files",  # files, findings, scan, json_files, splits, publishing
    "utils/command.py",
    "utils/workers.py",
    "utils/recipe",
    "datasets/volumes",
    "datasets/phantom",
    "datasets/batches",
    "datasets/slices",
    "datasets/images",
    "datasets",  # the registry
    "networks",
    "utils/training",
    "utils/distillation",
    "utils/evaluation",
    "utils/runs",
    "utils/experiment",
    "utils/prediction",
    "utils/teaching",
    "utils/exporting",
    "utils/skin",
    "utils/report",
    "utils/planning",
    "utils/leaderboard",
    "train_kd.py",
    "train.py",  # its published command with --teacher-path distils
    "scripts",
)
REGISTRY = ("datasets/__init__.py", "datasets/registry.py")


@cache
def files() -> list[Path]:
    """Every Python file of the product that holds anything, relative to the repository."""
    found = [*ROOT.glob("*.py"), *(path for top in TOPS for path in (ROOT / top).rglob("*.py"))]
    return sorted(path.relative_to(ROOT) for path in found if path.stat().st_size)


def room_of(file: Path) -> str:
    top, *inner = file.parts
    if str(file) in REGISTRY:
        return "datasets"
    if top == "datasets":
        return f"{top}/{inner[0]}" if len(inner) > 1 else "datasets/files"
    if top == "utils":
        return f"{top}/{inner[0]}"
    return top


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


@cache
def imported(file: Path, at_import: bool = False) -> set[str]:
    """Dotted names of what a file imports, those of `from a import b` as `a.b`; `at_import`: leaves out what its
    functions import when they are called.
    """
    tree = parsed(file)
    names: set[str] = set()
    for node in _at_import(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = file.parent.parts[: len(file.parent.parts) - node.level + 1] if node.level else ()
            base = ".".join((*parts, *([node.module] if node.module else [])))
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _at_import(child)


def file_graph(at_import: bool = False) -> dict[Path, set[Path]]:
    """Files of the product, each with those it imports."""
    modules = {_module(file): file for file in files()}
    graph: dict[Path, set[Path]] = {}
    for file in modules.values():
        names = imported(file, at_import)
        graph[file] = {modules[name] for name in (_longest(each, modules) for each in names) if name} - {file}
    return graph


def _module(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def _longest(name: str, modules: Mapping[str, Path]) -> str | None:
    """The module that a dotted name lies in; an attribute of a module is dropped from its end."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def room_graph() -> dict[str, set[str]]:
    """Rooms, each with those it imports, imports inside functions too."""
    graph: dict[str, set[str]] = {}
    for file, others in file_graph().items():
        graph.setdefault(room_of(file), set()).update({room_of(other) for other in others} - {room_of(file)})
    return graph


def cycle(graph: Mapping[Path, set[Path]] | Mapping[str, set[str]]) -> list[str]:
    """Members of a cycle in the order of their imports; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(member) for member in error.args[1]]
    return []


def upward(graph: Mapping[str, set[str]]) -> list[str]:
    """Arrows from a room to one that `ORDER` does not place below it."""
    place = {room: index for index, room in enumerate(ORDER)}
    return sorted(
        f"{room} imports {other}" for room, others in graph.items() for other in others if place[other] > place[room]
    )


def main() -> None:
    graph = room_graph()
    lines = dict.fromkeys(ORDER, 0)
    for file in files():
        lines[room_of(file)] += len((ROOT / file).read_text().splitlines())
    for room in ORDER:
        print(f"{room:22} {lines[room]:6} lines  imports {', '.join(sorted(graph.get(room, ()), key=ORDER.index))}")
    arrows = sum(len(others) for others in graph.values())
    print(
        f"{len(graph)} rooms, {len(files())} files, {sum(lines.values())} lines, {arrows} arrows, cycles of rooms: "
        f"{cycle(graph) or 0}, of files: {cycle(file_graph(at_import=True)) or 0}, upward arrows: {upward(graph) or 0}"
    )


if __name__ == "__main__":
    main()
