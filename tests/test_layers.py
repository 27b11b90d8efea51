"""The direction of imports: pipelines → transforms → models, never back, and steps never import one another."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pipelines", "transforms", "models")
MODULES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
PICKLE_ALLOWED = {Path("models/faces/mtcnn_weights.py")}
"""The mtcnn wheel's weight files are joblib (a pickle): read there, after their sha256 was checked."""


@cache
def tree_of(module: Path) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def imports(module: Path) -> set[str]:
    """Dotted names that a module imports, with ours from the root of the package (`transforms.records.Clip`)."""
    found: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("deephotlink.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(module.parent.parts)[: len(module.parent.parts) - node.level + 1] if node.level else []
            name = ".".join([*base, *(node.module or "").split(".")]).strip(".").removeprefix("deephotlink.")
            found |= {f"{name}.{alias.name}".strip(".") for alias in node.names}
    return found


@cache
def is_step(module: Path) -> bool:
    """Whether the module lies among the steps and defines a PTransform."""
    nodes = ast.walk(tree_of(module))
    bases = [ast.unparse(base) for node in nodes if isinstance(node, ast.ClassDef) for base in node.bases]
    return module.parent == Path("transforms") and any("PTransform" in base for base in bases)


def below(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if name.startswith(tuple(f"{package}." for package in packages)) or name in packages}


def test_the_rooms_are_found() -> None:
    assert {module.parts[0] for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_layers_point_one_way(module: Path) -> None:
    names, room = imports(module), module.parts[0]
    forbidden = below(names, "tests", *ROOMS[: ROOMS.index(room)])
    if room == "models":
        forbidden |= below(names, "apache_beam", "fsspec", "pyarrow")
    if module.parts[:2] == ("transforms", "media"):
        forbidden |= below(names, "apache_beam")
    if module not in PICKLE_ALLOWED:
        forbidden |= below(names, "pickle", "joblib", "cloudpickle", "dill", "marshal", "shelve")
    assert not forbidden, f"{module} must not import {sorted(forbidden)}"


@pytest.mark.parametrize("module", [module for module in MODULES if is_step(module)], ids=str)
def test_steps_never_import_one_another(module: Path) -> None:
    steps = [".".join(other.with_suffix("").parts) for other in MODULES if other != module and is_step(other)]
    assert not (wrong := below(imports(module), *steps)), f"{module} imports the steps {sorted(wrong)}"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nothing_unpickles_by_a_side_door(module: Path) -> None:
    unsafe = {("allow_pickle", True), ("weights_only", False), ("trust_remote_code", True)}
    for call in ast.walk(tree_of(module)):
        if isinstance(call, ast.Call):
            given = {(word.arg, getattr(word.value, "value", None)) for word in call.keywords}
            assert not given & unsafe, f"{module}:{call.lineno} {given & unsafe}"
            if ast.unparse(call.func) == "torch.load":
                assert ("weights_only", True) in given, f"{module}:{call.lineno} torch.load without weights_only=True"
