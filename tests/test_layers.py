"""The direction of imports, by the table `FLOORS`, and how large files and folders may be.

`docs/architecture.md` says what each wing is for.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pipelines", "transforms", "models")
MODULES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
FLOORS = {
    "models": "late extras | devices frames weights metadata | embedded | base calibration | batches signals"
    " | adapters faces | architectures | detectors | registry training",
    "models.training": "loop split | forgeries | augmentation | detectors",
    "transforms": "failures metrics work_ahead | media pictures | records | storage | staging | archives tables"
    " | clips coders sound_windows faces fuse | listing plan probe decode detect rescoring commit publish",
    "transforms.media": "protocol notes measures | containers | clock"
    " | stream_facts appended_recording decoder_choice decoders | selection | probe_file | children",
    "pipelines": "limits machine spool interrupts terminal | samples weights outputs | accuracy options"
    " | training audit runners | plugin waves explain | workers | jobs | dry_run estimating | arguments field_grade"
    " | cli",
    "pipelines.explain": "files timeline | card | terminal stretch reading | faces | drawing | clip | command",
    "pipelines.plugin": "audit_options inputs | score_media | yaml_steps",
    "pipelines.workers": "cost settings queue shares | messages | worker | template | template_process __main__ | crew",
    "pipelines.estimating": "options strata amounts | measuring | predicting | telling | command",
    "pipelines.outputs": "plain_words views implausible_rows | reasons query implausible_pictures"
    " | datasets check quarantine versions summary | closing_tables | report schema | forget_pictures",
    "pipelines.outputs.report": "chosen pictures rules timelines | cards overview | page",
}
"""What lies in a folder, from the ground up: a module or wing imports from floors below its own, and on its own floor
nothing but itself."""
MOST_FILES, MOST_STEPS, MOST_LINES = 14, 18, 350
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


def inside(folder: str, name: str) -> str | None:
    """The module or sub-package of the folder that a dotted name belongs to."""
    rest = name.removeprefix(f"{folder}.")
    return rest.split(".")[0] if rest != name else None


@pytest.mark.parametrize("folder", FLOORS)
def test_wings_import_from_below(folder: str) -> None:
    floors = [floor.split() for floor in FLOORS[folder].split("|")]
    height = {name: number for number, floor in enumerate(floors) for name in floor}
    here = ROOT / folder.replace(".", "/")
    there = {path.stem for path in here.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__"} == set(height), "FLOORS names what lies in the folder, no more and no less"
    wrong = set()
    for module in MODULES:
        own = inside(folder, ".".join(module.with_suffix("").parts))
        if own is None or own == "__init__":
            continue
        for name in imports(module):
            other = inside(folder, name)
            if other in height and other != own and height[other] >= height[own]:
                wrong.add(f"{module} imports {name}")
    assert not wrong


def test_no_wing_is_crowded() -> None:
    for folder in sorted({module.parent for module in MODULES}):
        files = [module for module in MODULES if module.parent == folder and module.name != "__init__.py"]
        assert len(files) <= (MOST_STEPS if folder == Path("transforms") else MOST_FILES), folder


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_file_is_long(module: Path) -> None:
    assert len((ROOT / module).read_text(encoding="utf-8").splitlines()) <= MOST_LINES


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
