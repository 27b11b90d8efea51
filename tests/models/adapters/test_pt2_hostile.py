"""A `.pt2` file comes from a stranger: its code never runs, and the error says what is wrong."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from deephotlink.models.adapters.torch_export import adapter
from deephotlink.models.adapters.torch_export.aten_operators import TENSOR_OPERATORS
from deephotlink.models.adapters.torch_export.pt2_check import check_pt2
from deephotlink.models.weights.files import WeightsError
from tests.models.adapters.exported import PICTURES, loaded, make_clip_item, to_pt2, weights_of

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Small(nn.Module):
    """A weight, a constant, a text argument and an expression for a size are all in its program."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.shift = torch.tensor([0.1, 0.2, 0.3])

    def forward(self, rows):
        pooled = rows.flatten(0, 1).mean((1, 2)).unflatten(0, (-1, 3))
        return self.head(torch.nn.functional.gelu(pooled, approximate="tanh") + self.shift)


@pytest.fixture(scope="module")
def good():
    torch.manual_seed(0)
    return to_pt2(Small().eval(), torch.randn(4, 3, 32, 32))


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


class Evil:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def members_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}


def packed(members, root="archive", **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for inner, data in members.items():
            archive.writestr(f"{root}/{inner}", data)
    return buffer.getvalue()


def edited(good, member, change):
    """The archive with one JSON member changed in place by `change`."""
    members = members_of(good)
    found = json.loads(members[member])
    change(found)
    members[member] = json.dumps(found).encode()
    return packed(members)


def graph(found):
    return found["graph_module"]["graph"]


def refuse(data, match):
    with pytest.raises(WeightsError, match=match):
        check_pt2(data, "x.pt2")


def test_the_good_one_and_its_repacked_self_load_and_score(tmp_path, good):
    answers = []
    for at, data in enumerate((good, packed(members_of(good)))):
        weights = weights_of(tmp_path, f"{at}.pt2", data, PICTURES)
        answers += loaded(adapter, weights).score([make_clip_item()])
    assert answers[0].logit is not None
    assert answers[0] == answers[1]


def pickles(canary):
    """The same attack as a plain pickle, and as torch saves one."""
    buffer = io.BytesIO()
    torch.save((Evil(canary),), buffer)
    return pickle.dumps(Evil(canary)), buffer.getvalue()


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(
    "member",
    [
        "data/sample_inputs/model.pt",
        "data/weights/model.pt",
        "data/constants/model.pt",
        "extra/x",
        "data/weights/weight_9",
    ],
)
def test_pickles_that_nobody_needs_are_left_behind(tmp_path, good, canary, member, kind):
    data = packed({**members_of(good), member: pickles(canary)[kind]})
    (answer,) = loaded(adapter, weights_of(tmp_path, "x.pt2", data, PICTURES)).score([make_clip_item()])
    assert answer.logit is not None
    assert not canary.exists()


@pytest.mark.parametrize(
    ("config", "file"),
    [
        (WEIGHTS, "weight_0"),
        (CONSTANTS, "tensor_0"),
        (CONSTANTS, "custom_obj_0"),
        (CONSTANTS, "opaque_obj_0"),
        (WEIGHTS, "../sample_inputs/model.pt"),
        (WEIGHTS, "/etc/passwd"),
    ],
)
def test_pickled_tensors_and_objects_are_refused(good, canary, config, file):
    members = members_of(good)
    members[config.rsplit("/", 1)[0] + "/" + file] = pickles(canary)[1]
    found = json.loads(members[config])
    entry = next(iter(found["config"].values()))
    entry["path_name"], entry["use_pickle"] = file, not file.startswith(("/", "."))
    members[config] = json.dumps(found).encode()
    refuse(
        packed(members), r"refused x\.pt2 \(none of it was run\): .*(is a pickle or a custom object|outside the one)"
    )
    assert not canary.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.add.__class__",
        "torch.ops.aten.add.overloads",
        "torch.ops.aten.add.out",
        "torch.ops.aten.__class__.__init__",
        "torch.ops.aten.add.Tensor.__call__",
        "torch.ops.higher_order.cond",
        "torch.ops.evil.run.default",
        "_operator.call",
        "_operator.attrgetter",
        "math.factorial",
        "#evil:run",
        "builtins.eval",
        7,
        None,
    ],
)
def test_operators_outside_the_list_are_refused(good, canary, target):
    def change(found):
        node = graph(found)["nodes"][0]
        node["target"] = target
        node["inputs"] = [{"name": "", "arg": {"as_string": f"touch {canary}"}, "kind": 1}]

    refuse(edited(good, MODEL, change), "is not among those of plain networks")
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        "__import__('pathlib').Path({canary!r}).touch()",
        "Symbol('s77').__class__",
        "Symbol(open({canary!r}, 'w'))",
        "exec('1')",
        "(lambda: 0)()",
        "[0 for s0 in (1,)]",
        "s0 if s1 else s2",
        "Symbol('s77', positive=print)",
        "Max(*s0)",
        "9**9**9**9",
        "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
        "((((9**2)**2)**2)**2)",
        "999999999999999999999999999999",
        "s0 # comment",
        "s0\n+1",
        "S(1)",
        "(" * 300 + "1" + ")" * 300,
        "+".join(["s0"] * 1000),
        "",
        5,
    ],
)
def test_expressions_are_arithmetic_only(good, canary, text):
    text = text.replace("{canary!r}", repr(str(canary))) if isinstance(text, str) else text

    def change(found):
        for meta in graph(found)["tensor_values"].values():
            for side in meta["sizes"]:
                if "as_expr" in side:
                    side["as_expr"]["expr_str"] = text

    refuse(edited(good, MODEL, change), "is not an expression of symbols and numbers")
    assert not canary.exists()


def test_source_code_in_its_margins_is_left_out(tmp_path, good, canary):
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"

    def change(found):
        found["guards_code"] = [code, f"L['rows'].sum() if {code} else True"]
        module = found["graph_module"]
        module["metadata"] = {"custom": code}
        module["module_call_graph"][0]["signature"] |= {"forward_arg_names": [f"rows={code}"], "in_spec": code}
        module["treespec_namedtuple_fields"] = {code: {"field_names": [code]}}
        for node in graph(found)["nodes"]:
            node["metadata"] = {"source_fn_stack": "a,torch.os.system", "stack_trace": code, "from_node": code}

    data = edited(good, MODEL, change)
    (answer,) = loaded(adapter, weights_of(tmp_path, "x.pt2", data, PICTURES)).score([make_clip_item()])
    assert answer.logit is not None
    assert not canary.exists()


@pytest.mark.parametrize("name", ["x = print()", "a\nimport os", "x, y", "__class__", "a.b", "é", "", 3])
def test_names_are_plain_identifiers(good, name):
    def change(found):
        values = graph(found)["tensor_values"]
        values[name] = values.pop(next(iter(values)))

    if isinstance(name, str):
        refuse(edited(good, MODEL, change), "is not a name")
    if name:
        refuse(edited(good, MODEL, lambda found: graph(found)["nodes"][0].update(name=name)), "is not a name")


def test_tensors_do_not_take_the_place_of_methods(good):
    def change(found):
        found["config"]["__class__.x"] = found["config"].pop(next(iter(found["config"])))

    refuse(edited(good, WEIGHTS, change), "is not a tensor's name")


@pytest.mark.parametrize("what", ["as_custom_obj", "as_operator", "as_string_to_argument"])
def test_arguments_are_tensors_numbers_and_short_texts(good, what):
    def change(found):
        graph(found)["nodes"][0]["inputs"][0]["arg"] = {what: {"name": "x", "class_fqn": "y"}}

    refuse(edited(good, MODEL, change), what)


def test_a_tensor_does_not_claim_more_than_its_file_holds(good):
    def change(found):
        for entry in found["config"].values():
            entry["tensor_meta"]["sizes"] = [{"as_int": 1 << 40}]
            entry["tensor_meta"]["strides"] = [{"as_int": 1}]

    refuse(edited(good, WEIGHTS, change), "needs 4398046511104 bytes")
    members = {k: b"" if k == "data/weights/weight_0" else v for k, v in members_of(good).items()}
    refuse(packed(members), "weight_0 has 0")


def test_a_number_is_not_repeated_beyond_all_memory(good):
    def change(found):
        for entry in found["config"].values():
            entry["tensor_meta"] |= {"sizes": [{"as_int": 1 << 40}], "strides": [{"as_int": 0}]}

    refuse(edited(good, WEIGHTS, change), "a tensor of the sizes")


def test_machine_code_is_refused(good):
    members = members_of(good)
    refuse(packed({**members, "data/aotinductor/model/x.so": b"\x7fELF"}), "machine code")
    refuse(packed({**members, "extra/x.so": b"\x7fELF"}), "machine code")


def test_odd_archives_are_refused(good):
    members = members_of(good)
    refuse(b"", "expected a zip archive")
    refuse(b"PK\x03\x04" + b"\0" * 100, "expected a zip archive")
    refuse(good[: len(good) // 2], "expected a zip archive")
    refuse(packed({**members, "../../escape": b"x"}), "outside the one folder")
    refuse(packed(members, compression=zipfile.ZIP_DEFLATED), "compressed")
    refuse(packed({**members, "models/other.json": members[MODEL]}), "expected one program")
    refuse(packed({**members, "version": b"8.20"}), "torch 2.7 and older")
    refuse(packed({**members, "archive_format": b"x"}), "expected a pt2 archive")
    refuse(packed({k: v for k, v in members.items() if k != WEIGHTS}), "is missing")
    refuse(packed({**members, MODEL: b"{}"}), "KeyError")
    refuse(packed({**members, MODEL: b"[" * 200_000}), "expected a file made by")
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("archive/models/model.json", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("archive/models/model.json", b"2")
    refuse(buffer.getvalue(), "occurs twice")


def test_a_model_in_training_is_refused():
    class Dropping(nn.Module):
        def forward(self, rows):
            return torch.dropout(rows.mean((2, 3)), 0.5, True)[:, :2]

    refuse(to_pt2(Dropping(), torch.randn(3, 3, 32, 32)), "training mode")
    normed = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 2)).train()
    refuse(to_pt2(normed, torch.randn(3, 3, 8, 8)), "training mode|changes its own state")


def test_a_program_of_two_inputs_is_refused():
    class Two(nn.Module):
        def forward(self, rows, more):
            return rows + more

    buffer = io.BytesIO()
    torch.export.save(torch.export.export(Two(), (torch.ones(2, 2), torch.ones(2, 2))), buffer)
    refuse(buffer.getvalue(), "takes one tensor, got 2")


def test_the_list_of_operators_names_real_ones_that_touch_no_files():
    for name in TENSOR_OPERATORS:
        packet = getattr(torch.ops.aten, name)
        arguments = {a.name for o in packet.overloads() for a in getattr(packet, o)._schema.arguments}
        assert not arguments & {"filename", "storage", "source_storage", "packed"}, name
