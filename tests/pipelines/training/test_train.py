"""`deephotlink train`: from made media to a detector that loads and scores; resuming, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from deephotlink.models import registry
from deephotlink.models.embedded import files as embedded
from deephotlink.models.training import loop
from deephotlink.models.training.split import part
from deephotlink.models.weights.files import LocalFile, Weights, WeightsError
from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.samples.synthetic_media import encode, face_frames, make_sound, portrait
from deephotlink.pipelines.training import beginnings, recipes, train
from deephotlink.pipelines.training.material import Source
from deephotlink.pipelines.training.material_cache import load_material, save_material
from deephotlink.pipelines.training.model_card import grouped_figures
from deephotlink.pipelines.training.recipes import COURSES, Course, Effort
from deephotlink.transforms.failures import UsageError


def groups_on(side: str, count: int) -> list[str]:
    names = (f"person-{number}" for number in range(100))
    return [name for name in names if part(name) == side][:count]


def person(number: int, frames: int, fps: int, seed: int) -> Iterator[np.ndarray]:
    """The one public-domain portrait as somebody else: mirrored, wider or longer, of other colours."""
    rng = np.random.default_rng(number)
    colours, light = rng.uniform(0.7, 1.2, 3), rng.uniform(-15, 15)
    size = (320, 240)
    for frame in face_frames(frames, fps, size, speech=True, seed=seed):
        picture = Image.fromarray(frame).resize((int(320 * rng_of(number)), 240))
        canvas = Image.new("RGB", size, (90, 100, 110))
        canvas.paste(picture, ((320 - picture.width) // 2, 0))
        picture = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else canvas
        yield np.clip(np.asarray(picture) * colours + light, 0, 255).astype(np.uint8)


def rng_of(number: int) -> float:
    return float(np.random.default_rng([7, number]).uniform(0.85, 1.15))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of four made people with their voices, two on either side, two stills and a list of them all."""
    folder, seconds, fps = tmp_path_factory.mktemp("people"), 5, 15
    rows = []
    for number, group in enumerate([*groups_on("fit", 2), *groups_on("held", 2)]):
        name = f"{group}.mp4"
        frames = person(number, seconds * fps, fps, seed=number)
        sound = make_sound(seconds, seed=number)
        encode(folder / name, frames, seconds, fps, (320, 240), gop=15, audio=sound)
        rows.append({"uri": name, "group": group, "label": "real", "licence": "public domain"})
    for number in range(2):
        picture = portrait().resize((256 + 40 * number, 300))
        picture.save(folder / f"still-{number}.jpg", quality=95)
        rows.append({"uri": f"still-{number}.jpg", "group": "", "label": "real", "licence": "public domain"})
    rows.append({"uri": "swapped.mp4", "group": "", "label": "fake", "licence": ""})
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def embed(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    """Makes what lies in `folder` the weights that come with the package."""
    module = importlib.import_module(f"deephotlink.models.detectors.{name}")
    monkeypatch.setattr(embedded, "FOLDER", folder)
    spec = replace(module.DETECTOR, origin="embedded", weights=embedded.embedded_weights(name))
    spec = replace(spec, weights_sha256=spec.weights[0].sha256)
    monkeypatch.setattr(registry, "_known", lambda: registry._Known({name: (spec, module)}))


STEPS = {"audio": 6, "face_swap": 6, "facial": 6, "lip_sync": 6, "synthetic": 4}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", sorted(COURSES))
def test_from_made_media_to_a_detector_that_scores(name, people, tmp_path, monkeypatch, capsys):
    out = tmp_path / "mine"
    command = ["train", name, "--media", str(people / "list.csv"), "--output", str(out), "--config", "small"]
    command += ["--steps", str(STEPS[name]), "--seed", "3"]
    assert cli.main(command) == cli.DONE, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "1 rows are not labelled real and are refused" in said and all(g in said for g in groups_on("held", 2))

    body, record = (out / f"{name}.safetensors").read_bytes(), json.loads((out / f"{name}.json").read_text())
    assert record["sha256"] == hashlib.sha256(body).hexdigest() and record["size_bytes"] == len(body)
    assert record["steps"] == STEPS[name] and record["finished"] and record["seed"] == 3
    assert record["data"]["groups_held"] == 2 and record["data"]["licences"] == {"public domain": 6}
    written = json.dumps(record).replace(record["made_by"], "") + (out / f"{name}.md").read_text()
    assert not any(group in written for side in ("fit", "held") for group in groups_on(side, 2))
    assert 0 < len(body) <= embedded.MAX_FILE_BYTES and np.isfinite(list(record["figures"].values())).all()
    with safe_open(out / f"{name}.safetensors", "pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118  (no mapping)
        assert torch.float16 in kinds and torch.float32 not in kinds
    card = (out / f"{name}.md").read_text()
    for section in ("What it judges", "Data", "Method and paper", "Figures", "Blind spots", "How to reproduce"):
        assert f"\n## {section}\n" in card
    assert record["sha256"] in card and record["made_by"] in card and "public domain" in card

    # The same once more decodes nothing, trains nothing and leaves the same bytes.
    monkeypatch.setattr(recipes, "films", lambda *a, **k: pytest.fail("decoded again"))
    monkeypatch.setattr(recipes, "stills", lambda *a, **k: pytest.fail("decoded again"))
    monkeypatch.setattr(recipes, "sounds", lambda *a, **k: pytest.fail("decoded again"))
    (out / f"{name}.safetensors").unlink()
    assert cli.main(command) == cli.DONE
    assert (out / f"{name}.safetensors").read_bytes() == body

    film, given = str(people / f"{groups_on('held', 1)[0]}.mp4"), f"{name}={out / f'{name}.safetensors'}"
    embed(monkeypatch, out, name)
    packaged = tmp_path / "scores"
    assert cli.main(["audit", film, "--output", str(packaged), "--detectors", name, "--quiet"]) == cli.DONE
    rows = run_query(str(packaged), "select logit, weights_sha256 from evidence where logit is not null").to_pylist()
    assert rows and all(row["weights_sha256"] == record["sha256"] and np.isfinite(row["logit"]) for row in rows)

    spec = registry.installed()[name]
    (torn := tmp_path / "torn").write_bytes(body[: len(body) // 2])
    with pytest.raises(WeightsError):
        held = LocalFile(str(torn), hashlib.sha256(torn.read_bytes()).hexdigest())
        registry.make(spec, Weights({"weights": held})).load("cpu")
    if name != "facial":
        return

    # The user's own file in place of other embedded weights: only on their word, and named in the evidence.
    other = tmp_path / "package"
    other.mkdir()
    (other / f"{name}.safetensors").write_bytes(body + b" ")
    changed = {**record, "sha256": hashlib.sha256(body + b" ").hexdigest(), "size_bytes": len(body) + 1}
    (other / f"{name}.json").write_text(json.dumps(changed))
    embed(monkeypatch, other, name)
    own = tmp_path / "own scores"
    audit = ["audit", film, "--output", str(own), "--detectors", name, "--quiet", "--weights", given]
    capsys.readouterr()
    assert cli.main(audit) == cli.USAGE and f"--allow-unpinned {name}" in capsys.readouterr().err
    assert cli.main([*audit, "--allow-unpinned", name]) == cli.DONE
    again = run_query(str(own), "select logit, weights_sha256 from evidence where logit is not null").to_pylist()
    assert again == rows


@dataclass(slots=True)
class Numbers:
    fit: list[np.ndarray]
    held: list[np.ndarray]
    names: tuple[str, ...] = ("a",)


class FakeRecipe(loop.Recipe):
    """Learns the sign of a number."""

    name, warmup_steps = "fake", 1

    def __init__(self, material: Numbers) -> None:
        self.material = material

    def network(self):
        return torch.nn.Linear(1, 1)

    def batch(self, rng):
        values = np.stack([self.material.fit[int(at)] for at in rng.integers(len(self.material.fit), size=4)])
        return {"x": torch.from_numpy(values), "y": torch.from_numpy((values > 0).astype(np.float32))}

    def loss(self, network, batch):
        return torch.nn.functional.binary_cross_entropy_with_logits(network(batch["x"]), batch["y"])

    def validate(self, network):
        return {"score": -float(self.loss(network, {"x": torch.ones(4, 1), "y": torch.ones(4, 1)}))}


class FakeCourse(Course):
    name, wants = "fake", "numbers"
    full, small = Effort(6, 3, 60.0), Effort(4, 2, 60.0)
    found: tuple[int, int] = (8, 2)
    gathered = 0

    def spec(self):
        return registry.installed()["metadata"]

    def kinds(self):
        return (Numbers,)

    def gather(self, sources, config, tell):
        type(self).gathered += 1
        rng = np.random.default_rng(0)
        return Numbers(*([rng.normal(size=1).astype(np.float32) for _ in range(count)] for count in self.found))

    def recipe(self, material, config, seed, start):
        return FakeRecipe(material)


@pytest.fixture
def fake(monkeypatch) -> FakeCourse:
    course = FakeCourse()
    monkeypatch.setattr(FakeCourse, "gathered", 0)
    monkeypatch.setattr(train, "COURSES", {"fake": course})
    return course


@pytest.fixture
def media(tmp_path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for group in (*groups_on("fit", 2), *groups_on("held", 1)):
        (folder / group).write_bytes(group.encode())
    return folder


def run(capsys, media: Path, out: Path, *more: str, name: str = "fake") -> tuple[int, str, str]:
    code = cli.main(["train", name, "--media", str(media), "--output", str(out), *map(str, more)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_sitting_that_ends_goes_on_to_the_same_bytes(fake, media, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(capsys, media, whole)[0] == cli.DONE
    code, said, _ = run(capsys, media, cut, "--minutes", "1e-9")
    assert code == cli.DONE and "1 of 6 steps are done: the same command continues" in said
    assert not json.loads((cut / "fake.json").read_text())["finished"]
    assert run(capsys, media, cut)[0] == cli.DONE and fake.gathered == 2
    assert (cut / "fake.safetensors").read_bytes() == (whole / "fake.safetensors").read_bytes()


def test_ctrl_c_says_how_to_go_on(fake, media, tmp_path, capsys, monkeypatch):
    batch = FakeRecipe.batch
    asked: list[int] = []

    def interrupted(self, rng):
        asked.append(1)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return batch(self, rng)

    with monkeypatch.context() as patch:
        patch.setattr(FakeRecipe, "batch", interrupted)
        code, _, said = run(capsys, media, tmp_path / "out")
    assert code == cli.INTERRUPTED and "same command continues" in said
    assert not (tmp_path / "out/fake.safetensors").exists()
    code, said, _ = run(capsys, media, tmp_path / "out")
    assert code == cli.DONE and "continues from step 3 of 6" in said


def test_a_dry_run_says_what_would_be_learned_from(fake, media, tmp_path, capsys):
    code, said, _ = run(capsys, media, tmp_path / "out", "--dry-run", "--steps", "30")
    assert code == cli.DONE and not (tmp_path / "out").exists() and not fake.gathered
    assert "learned from: 2 groups, 2 files" in said and "30 steps, about 30 min" in said
    assert f"held out: 1 groups, 1 files: {groups_on('held', 1)[0]}" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("--seed", "1"), "seed is 0, not 1"),
        (("--config", "small"), "config is 'full', not 'small'"),
        (("--steps", "9"), "steps is 6, not 9"),
    ],
)
def test_a_folder_of_another_run_is_refused(change, says, fake, media, tmp_path, capsys):
    assert run(capsys, media, tmp_path / "out")[0] == cli.DONE
    before = (tmp_path / "out/fake.safetensors").read_bytes()
    code, _, said = run(capsys, media, tmp_path / "out", *change)
    assert code == cli.USAGE and says in said and "name another --output" in said
    assert (tmp_path / "out/fake.safetensors").read_bytes() == before


def test_media_that_changed_are_another_run(fake, media, tmp_path, capsys):
    assert run(capsys, media, tmp_path / "out")[0] == cli.DONE
    (media / groups_on("fit", 1)[0]).write_bytes(b"another film")
    code, _, said = run(capsys, media, tmp_path / "out")
    assert code == cli.USAGE and "sources" in said and "name another --output" in said


def test_weights_to_begin_with(fake, media, tmp_path, capsys):
    assert run(capsys, media, tmp_path / "one")[0] == cli.DONE
    mine = tmp_path / "one/fake.safetensors"
    code, _, _ = run(capsys, media, tmp_path / "two", "--init", mine, "--steps", "1")
    record = json.loads((tmp_path / "two/fake.json").read_text())
    assert code == cli.DONE and record["init"]["sha256"] == hashlib.sha256(mine.read_bytes()).hexdigest()
    assert (tmp_path / "two/fake.safetensors").read_bytes() != mine.read_bytes()
    (tmp_path / "torn").write_bytes(b"no weights")
    code, _, said = run(capsys, media, tmp_path / "three", "--init", tmp_path / "torn")
    assert code == cli.USAGE and "torn" in said
    code, _, said = run(capsys, media, tmp_path / "three", "--init", "/nowhere/at/all")
    assert code == cli.USAGE and "cannot read --init" in said


def test_what_cannot_be_learned_from_is_said(fake, media, tmp_path, capsys):
    out = tmp_path / "out"
    code, _, said = run(capsys, media, out, name="metadata")
    assert code == cli.USAGE and "cannot train 'metadata': fake can be trained" in said
    code, _, said = run(capsys, media / groups_on("fit", 1)[0], out)
    assert code == cli.USAGE and "none of the 1 groups is held out" in said and "40%" in said
    code, _, said = run(capsys, media / groups_on("held", 1)[0], out)
    assert code == cli.USAGE and "to learn from" in said
    code, _, said = run(capsys, tmp_path / "nowhere", out)
    assert code == cli.USAGE and "nowhere" in said
    code, _, said = run(capsys, media, out, "--device", "cuda:7x")
    assert code == cli.USAGE and "--device" in said
    assert not out.exists()
    fake.found = (0, 0)
    code, _, said = run(capsys, media, out)
    assert code == cli.USAGE and "expected numbers in 3 files, found none" in said
    fake.found = (3, 0)
    code, _, said = run(capsys, media, out)
    assert code == cli.USAGE and "found none in the groups held out" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("uri,label\nswapped.mp4,fake\n", "expected rows labelled real"),
        ("file,label\na.mp4,real\n", "expected a column uri or path"),
        ("uri\nnot-there.mp4\n", "not-there.mp4"),
        ("uri\n\xff\xfe", "cannot read"),
    ],
)
def test_lists_that_are_no_use(text, says, fake, tmp_path, capsys):
    listing = tmp_path / "list.csv"
    listing.write_bytes(text.encode("latin-1"))
    code, _, said = run(capsys, listing, tmp_path / "out")
    assert code == cli.USAGE and says in said


def test_stills_of_somebody_who_is_held_are_not_learned_from(fake, media, tmp_path, capsys):
    held, fit = groups_on("held", 1)[0], groups_on("fit", 1)[0]
    for name in ("one.jpg", "two.jpg"):
        Image.new("RGB", (64, 64)).save(media / name)
    rows = [f"{group},{group},real" for group in (*groups_on("fit", 2), held)]
    listing = media / "list.csv"
    listing.write_text("\n".join(["uri,group,label", *rows, f"one.jpg,{held},real", f"two.jpg,{fit},real"]))
    code, said, _ = run(capsys, listing, tmp_path / "out", "--dry-run")
    assert code == cli.DONE and "3 videos and sounds, 1 stills" in said


def test_material_comes_back_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 2)).astype(np.float32), np.zeros((0, 4), np.uint8), np.array([True, False])]
    save_material(tmp_path / "m", Numbers(arrays, [np.arange(5)[::2]], ("a", "b")), {"x": 1})
    found = load_material(tmp_path / "m", (Numbers,), {"x": 1})
    assert isinstance(found, Numbers) and found.names == ("a", "b")
    for one, other in zip([*found.fit, *found.held], [*arrays, np.arange(5)[::2]], strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)
    found.fit[0][:] = 7
    again = load_material(tmp_path / "m", (Numbers,), {"x": 1})
    assert np.array_equal(again.fit[0], arrays[0]), "the file is never written to"
    assert load_material(tmp_path / "n", (Numbers,), {}) is None
    with pytest.raises(UsageError, match="x differ"):
        load_material(tmp_path / "m", (Numbers,), {"x": 2})
    with pytest.raises(UsageError, match="Numbers"):
        load_material(tmp_path / "m", (), {"x": 1})
    (tmp_path / "m/arrays.bin").write_bytes(b"short")
    with pytest.raises(UsageError, match="found 5"):
        load_material(tmp_path / "m", (Numbers,), {"x": 1})
    with pytest.raises(TypeError, match="object"):
        save_material(tmp_path / "o", Numbers([np.array([None])], []), {})
    assert not (tmp_path / "o").exists()


def test_figures_weigh_groups_alike_and_draw_groups():
    groups = ["a"] * 9 + ["b"]
    real = np.array([0.0] * 9 + [5.0])
    found = grouped_figures(groups, {"real": real, "swap": real + 1})
    # Pairs by group: a-a 1, b-b 1, the fake of b above the real of a 1, that of a below the real of b 0.
    assert found["AUC, swap"][0] == pytest.approx(0.75) and found["share of real above 0"][0] == pytest.approx(0.5)
    assert found["AUC, swap"][1:] == pytest.approx((0.75, 1.0))
    assert found["share of real above 0"][1:] == (0.0, 1.0)
    assert np.isnan(grouped_figures(["a", "a"], {"real": np.zeros(2), "swap": np.zeros(2)})["AUC, swap"][1])
    assert grouped_figures(["a", "b"], {"real": np.zeros(2), "swap": np.zeros(2)})["AUC, swap"] == (0.5, 0.5, 0.5)


def test_begun_weights_are_those_that_were_given():
    recipe = FakeRecipe(Numbers([], []))
    given = {"weight": torch.full((1, 1), 2.0).half(), "bias": torch.tensor([-1.0]).half()}
    network = beginnings.begun(recipe, given).network()
    assert float(network.weight.detach()) == 2.0 and float(network.bias.detach()) == -1.0
    with pytest.raises(ValueError, match="bias"):
        beginnings.begun(FakeRecipe(Numbers([], [])), {"weight": given["weight"]}).network()


@pytest.mark.usefixtures("one_thread")
def test_faces_are_kept_as_networks_of_our_own_rebuild_them(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "REBUILD_STEPS", 3)
    facial, rng = COURSES["facial"], np.random.default_rng(0)
    material_of, track_of, face_of = facial.kinds()
    points = np.array([[60, 60], [100, 60], [80, 80], [65, 100], [95, 100]], np.float32)
    faces = [face_of(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8), points, f"g{n}") for n in range(3)]
    material = material_of([track_of((face,), face.group) for face in faces], [track_of((faces[0], faces[1]), "g9")])
    assert facial.prepare(material, "small", tmp_path, 0, print) is material
    made = facial.prepare(material, "full", tmp_path / "networks", 0, print)
    save_material(tmp_path / "m", made, {})
    kept = load_material(tmp_path / "m", facial.kinds(), {})
    for face in (take.faces[0] for take in (*kept.fit, kept.held[0])):
        assert len(face.rebuilt) == 3 and {(one.shape, one.dtype.name) for one in face.rebuilt} == {
            ((128, 128, 3), "uint8")
        }
    first, second = (take.faces[0] for take in kept.fit[:2])
    assert not np.array_equal(first.rebuilt[0], first.rebuilt[1])
    assert np.array_equal(kept.held[0].faces[1].rebuilt[2], second.rebuilt[2])


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}", name="cv2")

    monkeypatch.setattr(recipes.importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"pip install 'deephotlink\[train\]'"):
        COURSES["facial"].gather([Source("a", "a", "still")], "small", print)
    with pytest.raises(UsageError, match="--init none"):
        beginnings.imagenet()
