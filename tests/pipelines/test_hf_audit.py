"""`deephotlink audit --detectors hf:DIR`: models saved by transformers, from the command line to the evidence table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch

from deephotlink.pipelines import cli
from tests.builders import make_video
from tests.published import tiny_clip

SIDE = 32
LABELS = {"id2label": {0: "real", 1: "fake"}, "label2id": {"real": 0, "fake": 1}}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """An image and an audio classifier with random weights."""
    import transformers as t

    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    t.ViTForImageClassification(t.ViTConfig(**SMALL, image_size=SIDE, patch_size=8, **LABELS)).save_pretrained(
        root / "vit"
    )
    t.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(root / "vit")
    sound = {"conv_dim": (8, 8), "conv_stride": (10, 16), "conv_kernel": (10, 8), "num_conv_pos_embeddings": 8}
    config = t.Wav2Vec2Config(**SMALL, **sound, num_conv_pos_embedding_groups=2, classifier_proj_size=8, **LABELS)
    t.Wav2Vec2ForSequenceClassification(config).save_pretrained(root / "wav2vec2")
    t.Wav2Vec2FeatureExtractor().save_pretrained(root / "wav2vec2")
    return root


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A second and a half of one grey, so that any frames of it are the same: the reference needs no decoder."""
    path = tmp_path_factory.mktemp("archive") / "grey.mp4"
    t = np.arange(24_000) / 16_000
    return make_video(
        path,
        seconds=1.5,
        audio=(0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32),
        options={"vf": "geq=128:128:128"},
    )


def audit(out: Path, *arguments: str | Path) -> tuple[int, list[dict]]:
    code = cli.main(["audit", *map(str, arguments), "--output", str(out)])
    return code, ds.dataset(out / "evidence").to_table().to_pylist() if (out / "evidence").exists() else []


def test_models_of_the_users_own_write_evidence(models, video, tmp_path):
    import transformers as t

    vit, wav2vec2 = f"hf:{models / 'vit'}", f"hf:{models / 'wav2vec2'}"
    code, rows = audit(tmp_path / "out", video, "--detectors", f"{vit},{wav2vec2}")
    assert code == 0
    seen = {row["detector"]: row for row in rows}
    assert set(seen) == {vit, wav2vec2}
    assert (seen[vit]["family"], seen[wav2vec2]["family"]) == ("synthetic", "audio")
    assert all(row["abstained"] is None and math.isfinite(row["logit"]) for row in rows)
    assert all(len(row["weights_sha256"]) == 64 for row in rows)
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    pixels = t.AutoImageProcessor.from_pretrained(models / "vit", backend="pil")(grey, return_tensors="pt")
    with torch.inference_mode():
        logits = t.ViTForImageClassification.from_pretrained(models / "vit")(**pixels).logits[0]
    # Three grey levels of the codec's and the colour space's rounding.
    assert seen[vit]["logit"] == pytest.approx(float(logits[1] - logits[0]), abs=2e-2)


def test_d3_takes_any_encoder_that_the_user_vouches_for(tmp_path, capsys):
    encoder = tmp_path / "encoder"
    tiny_clip().save_pretrained(encoder)
    film = make_video(tmp_path / "moving.mp4", seconds=2)
    said = ["--detectors", "d3", "--weights", f"d3={encoder}"]
    code, rows = audit(tmp_path / "out", film, *said)
    assert code == cli.USAGE and rows == [] and "--allow-unpinned d3" in capsys.readouterr().err
    code, rows = audit(tmp_path / "out", film, *said, "--allow-unpinned", "d3")
    assert code == cli.DONE and len(rows) == 1
    assert rows[0]["abstained"] in (None, "no_motion") and "statistic" in rows[0]["detail"]


def test_a_model_that_cannot_be_used_is_refused_before_anything_is_planned(models, video, tmp_path, capsys):
    config = models / "vit" / "config.json"
    kept = config.read_text()
    try:
        config.write_text(json.dumps({**json.loads(kept), "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
        code, rows = audit(tmp_path / "out", video, "--detectors", f"hf:{models / 'vit'}")
    finally:
        config.write_text(kept)
    said = capsys.readouterr().err
    assert code == cli.USAGE and not rows and "deephotlink.json beside the model" in said and "Traceback" not in said
    code, _ = audit(tmp_path / "none", video, "--detectors", "hf:someone/model")
    assert code == cli.USAGE and "deephotlink weights pull hf:someone/model" in capsys.readouterr().err


def test_a_licence_that_forbids_commercial_use_is_to_be_accepted(models, video, tmp_path, capsys):
    name, stated = f"hf:{models / 'vit'}", models / "vit" / "deephotlink.json"
    stated.write_text('{"licence": "CC-BY-NC-4.0"}')
    try:
        code, _ = audit(tmp_path / "out", video, "--detectors", name)
        assert code == cli.USAGE and "--accept-licence" in capsys.readouterr().err
        code, rows = audit(tmp_path / "out", video, "--detectors", name, "--accept-licence", name)
        assert code == 0 and rows
    finally:
        stated.unlink()
