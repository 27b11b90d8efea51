"""Models saved by transformers score through `hf:` as by transformers' own forward; hostile folders are refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from deephotlink.models.adapters.hf import adapter
from deephotlink.models.adapters.hf.audio import least_samples
from deephotlink.models.adapters.hf.sidecar import licence_of, read_sidecar
from deephotlink.models.base import AudioItem, ClipItem, TrackItem
from deephotlink.models.weights.files import LocalFile, Weights, WeightsError

LABELS = {"id2label": {0: "real", 1: "fake"}, "label2id": {"real": 0, "fake": 1}}
SIDE = 32
SAME = 1e-5
"""Between logits of the adapter and of transformers where no picture is resized."""
RESIZED = 5e-3
"""The same where one is. models/signals/preprocess.py rounds as Pillow does: less than 1e-5 was measured. One grey
level more
or less in every pixel moves these logits by up to 0.04, so this leaves room for a few of them in another build."""
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def _vit(t):
    config = t.ViTConfig(**SMALL, image_size=SIDE, patch_size=8, **LABELS)
    return t.ViTForImageClassification(config), t.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})


def _clip(t):
    vision = t.CLIPVisionConfig(**SMALL, image_size=SIDE, patch_size=8).to_dict()
    text = {**SMALL, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    config = t.CLIPConfig(vision_config=vision, text_config=text, **LABELS)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return t.CLIPForImageClassification(config), t.CLIPImageProcessorPil(**sizes)


def _swin(t):
    shape = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "patch_size": 4}
    config = t.SwinConfig(image_size=SIDE, **shape, **LABELS)
    return t.SwinForImageClassification(config), t.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})


def _convnext(t):
    config = t.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=SIDE, **LABELS)
    return t.ConvNextForImageClassification(config), t.ConvNextImageProcessorPil(size={"shortest_edge": SIDE})


def _videomae(t):
    config = t.VideoMAEConfig(**SMALL, image_size=SIDE, patch_size=8, num_frames=4, **LABELS)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return t.VideoMAEForVideoClassification(config), t.VideoMAEImageProcessorPil(**sizes)


def _wav2vec2(t):
    sound = {"conv_dim": (8, 8), "conv_stride": (10, 16), "conv_kernel": (10, 8), "num_conv_pos_embeddings": 8}
    config = t.Wav2Vec2Config(**SMALL, **sound, num_conv_pos_embedding_groups=2, classifier_proj_size=8, **LABELS)
    return t.Wav2Vec2ForSequenceClassification(config), t.Wav2Vec2FeatureExtractor()


MODELS = {f.__name__[1:]: f for f in (_vit, _clip, _swin, _convnext, _videomae, _wav2vec2)}
IMAGES = ("vit", "clip", "swin", "convnext")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of each model, with weights larger than at initialisation so that its logits tell inputs apart."""
    import transformers

    root = tmp_path_factory.mktemp("hf")
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model, processor = make(transformers)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    return root


@pytest.fixture
def vit(saved, tmp_path):
    """A copy that may be changed."""
    return Path(shutil.copytree(saved / "vit", tmp_path / "model"))


def weights_of(folder: Path) -> Weights:
    files = adapter.files_of(str(folder), folder / "no cache")
    return Weights({r: LocalFile(str(p), hashlib.sha256(Path(p).read_bytes()).hexdigest()) for r, p in files.items()})


def loaded(folder: Path):
    weights = weights_of(folder)
    detector = adapter.make(adapter.describe(f"hf:{folder}", weights), weights)
    detector.load("cpu")
    return detector


def refused(folder: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        adapter.describe("hf:x", weights_of(folder))


def change(folder: Path, file: str = "config.json", **fields) -> None:
    path = folder / file
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**found, **fields}))


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, H, W, 3]: smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 5, 6, 3), dtype=np.uint8)
    smooth = np.stack(
        [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse]
    )
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def clip_of(frames: np.ndarray, rate: float = 30.0) -> ClipItem:
    return ClipItem(frames, np.arange(len(frames)) / rate, None, 0.0)


def reference(folder: Path, **inputs) -> float:
    """fake minus real by transformers alone."""
    import transformers

    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        logits = model(**inputs).logits
    return float((logits[:, 1] - logits[:, 0]).mean())


def processed(folder: Path, frames: np.ndarray) -> torch.Tensor:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    values = processor([Image.fromarray(f) for f in frames], return_tensors="pt")["pixel_values"]
    return values.flatten(0, -4)  # a video processor puts the film's own axis before


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(("height", "width", "tolerance"), [(SIDE, SIDE, SAME), (90, 160, RESIZED), (70, 40, RESIZED)])
def test_an_image_classifier_scores_as_transformers_does(saved, name, height, width, tolerance):
    if name == "convnext" and tolerance == SAME:
        tolerance = RESIZED  # it resizes by crop_pct even what has its size
    frames = pictures(16, height, width)
    answer, other = loaded(saved / name).score([clip_of(frames), clip_of(frames[::-1])])
    expected = reference(saved / name, pixel_values=processed(saved / name, frames[[2, 6, 10, 14]]))
    assert answer.logit == pytest.approx(expected, abs=tolerance)
    assert abs(expected) > 10 * SAME and abs(answer.logit - other.logit) > SAME  # and they say something


@pytest.mark.parametrize(("height", "width", "tolerance"), [(SIDE, SIDE, SAME), (90, 160, RESIZED)])
def test_a_video_classifier_scores_as_transformers_does(saved, height, width, tolerance):
    folder, frames = saved / "videomae", pictures(4, height, width)
    detector = loaded(folder)
    assert (detector.spec.clip.frames, detector.spec.clip.frame_rate, detector.spec.clip.short_side) == (4, 7.5, 360)
    expected = reference(folder, pixel_values=processed(folder, frames)[None])
    (answer,) = detector.score([clip_of(frames, detector.spec.clip.frame_rate)])
    assert answer.logit == pytest.approx(expected, abs=tolerance)


def test_a_video_classifier_takes_its_frames_out_of_a_longer_clip(saved):
    frames = pictures(60, SIDE, SIDE)
    expected = reference(saved / "videomae", pixel_values=processed(saved / "videomae", frames[[0, 2, 4, 6]])[None])
    answers = loaded(saved / "videomae").score([clip_of(frames, 15.0), clip_of(frames[:1])])
    assert answers[0].logit == pytest.approx(expected, abs=SAME)
    assert answers[1].abstained == "too_short"


@pytest.mark.parametrize("samples", [64_000, 23_456, 700])
def test_an_audio_classifier_scores_as_transformers_does(saved, samples):
    from transformers import AutoFeatureExtractor

    folder, rng = saved / "wav2vec2", np.random.default_rng(1)
    sounds = [(0.1 * rng.normal(size=n) + 0.05).astype(np.float32) for n in (samples, 64_000)]
    extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    answers = loaded(folder).score([AudioItem(s, 0.0) for s in sounds])
    for sound, answer in zip(sounds, answers, strict=True):
        values = extractor(sound, sampling_rate=16_000, return_tensors="pt")["input_values"]
        assert answer.logit == pytest.approx(reference(folder, input_values=values), abs=SAME)


def test_sound_without_one_whole_frame_is_too_short(saved):
    detector = loaded(saved / "wav2vec2")
    least = least_samples(detector.architecture.config)
    assert least == (8 - 1) * 10 + 10
    below, enough = detector.score([AudioItem(np.arange(n, dtype=np.float32), 0.0) for n in (least - 1, least)])
    assert below.abstained == "too_short" and enough.logit is not None


def test_neighbours_of_another_length_change_no_bit(saved):
    rng = np.random.default_rng(2)
    sound, short = (AudioItem(rng.normal(size=n).astype(np.float32), 0.0) for n in (64_000, 9_000))
    detector = loaded(saved / "wav2vec2")
    assert detector.score([sound, short])[0] == detector.score([sound, sound])[0] == detector.score([sound])[0]


def test_a_face_is_cut_out_wider_and_judged(saved, vit):
    change(vit, "deephotlink.json", unit="face_track", face_scale=2.0, rows=2)
    frames = pictures(4, 120, 160)
    box = np.array([60, 40, 92, 72], np.float32)
    track = TrackItem(clip_of(frames), np.arange(4), np.tile(box, (4, 1)), np.zeros((4, 5, 2), np.float32), np.ones(4))
    detector = loaded(vit)
    assert (detector.spec.family, detector.spec.needs) == ("facial", {"frames", "faces"})
    crops = frames[[1, 3], 24:88, 44:108]
    expected = reference(vit, pixel_values=processed(vit, crops))
    assert detector.score([track])[0].logit == pytest.approx(expected, abs=RESIZED)


def test_silence_and_values_that_are_no_numbers_are_not_judged(saved):
    """Normalised, the noise of the last bit would be as loud as a voice."""
    bit = np.random.default_rng(0).integers(0, 2, 4000).astype(np.float32) / 32_768
    sounds = [np.zeros(4000, np.float32), bit, np.full(4000, np.nan, np.float32), np.zeros(0, np.float32)]
    answers = loaded(saved / "wav2vec2").score([AudioItem(sound, 0.0) for sound in sounds])
    assert [answer.abstained for answer in answers] == ["silent", "silent", "decode_failed", "no_audio"]


def test_loading_and_scoring_ask_no_network(saved, monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert loaded(saved / "vit").score([clip_of(pictures(4, SIDE, SIDE))])[0].logit is not None
    sound = AudioItem(np.sin(np.arange(4000, dtype=np.float32)), 0.0)
    assert loaded(saved / "wav2vec2").score([sound])[0].logit is not None


def test_the_record_says_what_the_model_is(saved):
    spec = loaded(saved / "vit").spec
    assert (spec.origin, spec.family, spec.unit) == ("yours", "synthetic", "clip")
    assert spec.name == f"hf:{saved / 'vit'}" and spec.architecture == "ViTForImageClassification"
    assert "1 'fake' minus logsumexp of 0 'real'" in spec.output and "(32, 32)" in spec.input
    assert {file.role for file in spec.weights} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert all(len(file.sha256) == 64 and file.size_bytes for file in spec.weights) and len(spec.weights_sha256) == 64
    assert (spec.licence, spec.commercial_use) == ("not stated", True)
    sound = loaded(saved / "wav2vec2").spec
    assert (sound.family, sound.unit, sound.audio.window_samples) == ("audio", "audio_window", 64_000)


def test_labels_that_say_nothing_are_settled_by_the_users_word(saved, vit):
    change(vit, id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    refused(vit, r'deephotlink.json beside the model with \{"fake": "LABEL_1"\}')
    item = clip_of(pictures(4, SIDE, SIDE))
    change(vit, "deephotlink.json", fake="LABEL_1")
    as_before = loaded(saved / "vit").score([item])[0].logit
    assert loaded(vit).score([item])[0].logit == as_before
    change(vit, "deephotlink.json", fake=["LABEL_0"])
    assert loaded(vit).score([item])[0].logit == pytest.approx(-as_before)


def test_shards_and_older_names_load_as_from_pretrained_does(saved, tmp_path):
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(saved / "wav2vec2", tmp_path / "shards"))
    tensors = load_file(folder / "model.safetensors")
    kinds = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    older = {}
    for name, tensor in tensors.items():
        for new, old in kinds.items():
            name = name.replace(new, old)
        older[name] = tensor
    assert any(name.endswith("weight_g") for name in older)
    (folder / "model.safetensors").unlink()
    parts = {
        "model-00001-of-00002.safetensors": sorted(older)[::2],
        "model-00002-of-00002.safetensors": sorted(older)[1::2],
    }
    for part, names in parts.items():
        save_file({name: older[name] for name in names}, folder / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    item = AudioItem(np.random.default_rng(3).normal(size=16_000).astype(np.float32), 0.0)
    assert loaded(folder).score([item]) == loaded(saved / "wav2vec2").score([item])
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"shards.*model-00002-of-00002.safetensors missing"):
        adapter.files_of(str(folder), tmp_path)


def test_where_a_model_is_looked_for(saved, tmp_path):
    shutil.copytree(saved / "vit", tmp_path / "hf" / "someone" / "model")
    for reference_ in ("someone/model", "someone/model@main"):
        assert adapter.files_of(reference_, tmp_path)["config.json"] == tmp_path / "hf/someone/model/config.json"
    with pytest.raises(WeightsError, match="deephotlink weights pull hf:someone/other"):
        adapter.files_of("someone/other", tmp_path)
    for escaping in ("../../etc/passwd", "someone/..", "../model", "/nowhere/model"):
        with pytest.raises(WeightsError, match="folder"):
            adapter.files_of(escaping, tmp_path)


def test_a_folder_that_lacks_something_says_what(vit):
    (vit / "preprocessor_config.json").rename(vit / "kept")
    with pytest.raises(WeightsError, match=r"expected preprocessor_config\.json"):
        adapter.files_of(str(vit), vit)
    (vit / "kept").rename(vit / "preprocessor_config.json")
    (vit / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"expected config\.json"):
        adapter.files_of(str(vit), vit)


def test_changed_bytes_are_refused(vit):
    weights = weights_of(vit)
    (vit / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="the file was changed"):
        adapter.describe("hf:x", weights)


class _Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_and_pickles_in_a_folder_never_run(vit, tmp_path):
    ran = tmp_path / "ran"
    (vit / "modeling_evil.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    (vit / "configuration_evil.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    (vit / "pytorch_model.bin").write_bytes(pickle.dumps(_Canary(ran)))
    change(
        vit, auto_map={"AutoConfig": "configuration_evil.Evil", "AutoModelForImageClassification": "modeling_evil.E"}
    )
    assert loaded(vit).score([clip_of(pictures(4, SIDE, SIDE))])[0].logit is not None  # transformers' own class
    for architecture, model_type in (("EvilForImageClassification", "evil"), ("EvilForImageClassification", "vit")):
        change(vit, architectures=[architecture], model_type=model_type)
        refused(vit, r"got architectures \['Evil.*\(code beside a model is never run\); these work: .*ViTForImageCl")
    (vit / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"only pytorch_model\.bin is there, which is never opened"):
        adapter.files_of(str(vit), vit)
    (vit / "model.safetensors").write_bytes((vit / "pytorch_model.bin").read_bytes())
    change(vit, architectures=["ViTForImageClassification"], model_type="vit")
    refused(vit, "expected a safetensors file")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"hidden_size": "16; import os"}, "expected a ViTConfig|expected the weights"),
        ({"hidden_size": {"a": 1}}, "expected a ViTConfig|expected the weights"),
        ({"hidden_size": -16}, "expected the weights"),
        ({"hidden_size": 24}, "expected the weights"),
        ({"num_hidden_layers": 40_000}, "far larger network"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers = 1e\\+12"),
        ({"vocabulary": 10**12}, "asks for a size of 1e\\+12"),
        ({"intermediate_size": 900_000}, "far larger network"),
        ({"image_size": 1_000_000, "patch_size": 1}, "positions of"),
        ({"hidden_act": "os.system"}, "expected the weights|expected a ViTConfig"),
        ({"num_labels": 10**7, "id2label": None}, "num_labels = 1e\\+07"),
        ({"id2label": {"0": "real", "1": "fake", "2": "fake"}}, "expected the weights|mismatch"),
        ({"architectures": "ViTForImageClassification"}, "as a list of names"),
        ({"architectures": ["ViTModel"]}, "expected a classifier"),
        ({"architectures": ["TimmWrapperForImageClassification"], "model_type": "timm_wrapper"}, "timm"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ({"use_timm_backbone": True}, "from elsewhere"),
        ({"return_dict": False}, "does not accept the output of its preprocessing"),
        ({"image_size": 10**400}, "is too large"),
        ({"image_size": 2000, "patch_size": 1, "hidden_size": 4}, "positions of"),
        ({"architectures": ["SwinForImageClassification"], "model_type": "swin", "depths": [1] * 5000}, "expected the"),
    ],
)
def test_strange_configs_are_refused(vit, fields, match):
    change(vit, **fields)
    refused(vit, match)


def test_a_processor_that_overflows_is_refused(vit):
    change(vit, "preprocessor_config.json", image_mean=[10**400, 0, 0])
    refused(vit, "is too large")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "README.md", "model.safetensors"])
def test_links_to_huge_files_are_refused_before_they_are_read(vit, name):
    with (vit / "huge").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    (vit / name).unlink(missing_ok=True)
    (vit / name).symlink_to("huge")
    with pytest.raises(WeightsError, match=r"expected at most .* bytes in"):
        adapter.files_of(str(vit), vit)


def test_what_is_missing_is_said_in_the_error_alone(vit, capfd):
    save_file({"strange": torch.zeros(1)}, vit / "model.safetensors")
    refused(vit, "are missing")
    assert capfd.readouterr().err == ""


def test_attention_maps_that_nobody_asked_for_are_not_made(vit):
    change(vit, output_attentions=True, output_hidden_states=True)
    assert not loaded(vit).network.config.output_attentions


def test_kernels_from_a_hub_are_not_asked_for(vit):
    change(vit, attn_implementation="someone/evil-kernel", _attn_implementation="someone/evil-kernel")
    change(vit, _attn_implementation_internal="someone/evil-kernel", experts_implementation="someone/evil")
    detector = loaded(vit)
    assert detector.network.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("data", [b"[]", b"{", b"[" * 100_000, b"\xff\xfe", b'{"a": "' + b"x" * 2_000_000 + b'"}'])
def test_a_config_that_is_no_object_is_refused(vit, data):
    (vit / "config.json").write_bytes(data)
    refused(vit, r"in config\.json")


@pytest.mark.parametrize(
    "shard", ["../../etc/passwd", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "x.bin", ""]
)
def test_an_index_that_reaches_out_of_its_folder_is_refused(vit, shard):
    (vit / "model.safetensors").unlink()
    (vit / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(WeightsError, match="in the same folder"):
        adapter.files_of(str(vit), vit)


def test_a_model_without_its_classifier_is_refused(vit):
    from safetensors.torch import load_file

    tensors = load_file(vit / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "classifier" not in k}, vit / "model.safetensors")
    refused(vit, "2 are missing.*no trained classifier")


def test_sound_at_another_rate_and_spectrograms_are_refused(saved, tmp_path):
    folder = Path(shutil.copytree(saved / "wav2vec2", tmp_path / "sound"))
    change(folder, "preprocessor_config.json", sampling_rate=8000)
    refused(folder, "at 16000 Hz: its sampling_rate is 8000")
    change(folder, "preprocessor_config.json", sampling_rate=16_000, feature_extractor_type="WhisperFeatureExtractor")
    refused(folder, "the waveform itself")
    change(folder, "preprocessor_config.json", feature_extractor_type="Wav2Vec2FeatureExtractor")
    change(folder, "deephotlink.json", unit="clip")
    refused(folder, "cannot be 'clip'")


def test_a_processor_with_other_steps_is_refused(vit):
    change(vit, "preprocessor_config.json", image_processor_type="EvilImageProcessor")
    refused(vit, "preprocessing of the model cannot be done here")


def test_preprocessing_and_network_must_fit_in_size(vit):
    change(vit, "preprocessor_config.json", size={"height": 48, "width": 48})
    refused(vit, "does not accept the output of its preprocessing")


@pytest.mark.parametrize(
    "stated",
    [{"fakes": "x"}, {"fake": []}, {"fake": 3}, {"rows": 0}, {"rows": True}, {"face_scale": "1"}, {"unit": "media"},
     {"family": "cats"}, {"positive": "yes"}, {"licence": ""}, {"window_seconds": 1e9}, {"commercial_use": 1}],
)  # fmt: skip
def test_deephotlink_json_is_held_against_what_is_known(stated):
    with pytest.raises(WeightsError, match=rf"{next(iter(stated))}.*deephotlink.json|unknown in deephotlink.json"):
        read_sidecar(json.dumps(stated).encode())


@pytest.mark.parametrize(
    ("card", "licence", "commercial"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# x", "apache-2.0", True),
        ("---\nlicense: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0", False),
        ("---\nlicense:\n- cc-by-nc-sa-4.0\n---\n", "cc-by-nc-sa-4.0", False),
        ('---\nlicense: other\nlicense_name: "Acme Research Licence"\n---\n', "acme research licence", False),
        ("---\nlicense: other\nlicense_name: acme-non-commercial\n---\n", "acme-non-commercial", False),
        ("---\nlicense: other\n---\n", "other", True),
        ("# license: mit\nno front matter", "not stated", True),
        ("---\nlicense: mit\nnever ends", "not stated", True),
    ],
)
def test_the_licence_of_a_model_card(card, licence, commercial):
    assert licence_of(read_sidecar(b"{}"), card.encode()) == (licence, commercial)


def test_the_users_word_on_the_licence_counts_first():
    card = b"---\nlicense: cc-by-nc-4.0\n---\n"
    assert licence_of(read_sidecar(b'{"licence": "MIT"}'), card) == ("MIT", True)
    assert licence_of(read_sidecar(b'{"licence": "CC-BY-NC-4.0"}'), None) == ("CC-BY-NC-4.0", False)
    assert licence_of(read_sidecar(b'{"commercial_use": true}'), card) == ("cc-by-nc-4.0", True)
