"""Content Credentials: media that the tests sign themselves, and the public test files if they are there."""

import csv
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import c2pa
import pytest

from deephotlink.pipelines.samples.signing import SigningIdentity, make_identity, sign_sample
from deephotlink.pipelines.samples.synthetic_media import make_audio, make_gif, make_video
from deephotlink.transforms.media.containers.credentials import (
    MAX_LIST,
    MAX_TEXT,
    SETTINGS,
    read_credentials,
    summarise,
)

SHARED = Path(__file__).parents[3].parent / "shared"
AI = "trainedAlgorithmicMedia"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("plain") / "plain.mp4", seconds=1, size=(64, 48))


@pytest.fixture(scope="module")
def identity() -> SigningIdentity:
    return make_identity()


@pytest.fixture(scope="module")
def signed(plain: Path, identity: SigningIdentity) -> Path:
    path = plain.with_name("signed.mp4")
    sign_sample(plain, path, AI, identity=identity)
    return path


def test_reads_a_declared_source(signed: Path) -> None:
    found = read_credentials(str(signed), ".mp4")
    assert found is not None
    assert json.loads(json.dumps(found)) == found
    assert found["state"] == "Valid"
    assert found["signer_trusted"] is False
    assert found["failures"] == ["signingCredential.untrusted"]
    assert "assertion.bmffHash.match" in found["successes"]
    assert found["manifests"] == 1
    assert found["all_digital_source_types"] == [AI]
    assert found["parent_source_types"] == found["component_source_types"] == found["ingredient_failures"] == []
    assert found["active"] == {
        "claim_generator": "deephotlink sample 1",
        "title": "signed.mp4",
        "issuer": "deephotlink sample signer (not trusted)",
        "signed_at": None,
        "digital_source_types": [AI],
        "actions": [{"action": "c2pa.created", "software_agent": "", "digital_source_type": AI}],
        "ingredients": 0,
    }


def test_trust_comes_from_the_anchors(signed: Path, identity: SigningIdentity) -> None:
    trusted = read_credentials(str(signed), ".mp4", trust_anchors=identity.anchor_pem)
    assert trusted is not None
    assert (trusted["state"], trusted["signer_trusted"], trusted["failures"]) == ("Trusted", True, [])
    other = read_credentials(str(signed), ".mp4", trust_anchors=make_identity().anchor_pem)
    assert other is not None
    assert (other["state"], other["signer_trusted"]) == ("Valid", False)


@pytest.mark.parametrize("suffix", [".mov", ".avi", ".wav", ".mp3", ".m4a", ".gif"])
def test_reads_every_container_that_can_be_signed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plain{suffix}"
    if suffix == ".gif":
        make_gif(path, seconds=0.5)
    elif suffix in (".mov", ".avi"):
        make_video(path, seconds=0.5, size=(64, 48))
    else:
        make_audio(path, seconds=0.5)
    assert read_credentials(str(path), suffix) is None
    signed = tmp_path / f"signed{suffix}"
    sign_sample(path, signed)
    found = read_credentials(str(signed), suffix)
    assert found is not None
    assert (found["state"], found["all_digital_source_types"]) == ("Valid", [AI])


@pytest.mark.parametrize("suffix", ["mp4", ".MP4"])
def test_the_suffix_is_read_leniently(signed: Path, suffix: str) -> None:
    assert read_credentials(str(signed), suffix) is not None


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".ogg", ".ts", "", ".pdf", ".zip"])
def test_containers_without_a_place_for_credentials_are_not_opened(suffix: str) -> None:
    assert read_credentials("/nowhere/at/all", suffix) is None


def test_a_path_that_cannot_be_opened_is_the_worlds_fault() -> None:
    with pytest.raises(FileNotFoundError):
        read_credentials("/nowhere/at/all.mp4", ".mp4")


def test_a_changed_byte_makes_it_invalid(signed: Path, tmp_path: Path) -> None:
    data = bytearray(signed.read_bytes())
    data[data.rindex(b"mdat") + 40] ^= 1
    changed = tmp_path / "changed.mp4"
    changed.write_bytes(data)
    found = read_credentials(str(changed), ".mp4")
    assert found is not None
    assert found["state"] == "Invalid"
    assert "assertion.bmffHash.mismatch" in found["failures"]
    assert found["all_digital_source_types"] == [AI]


def test_parents_and_components_are_kept_apart(plain: Path, signed: Path, tmp_path: Path) -> None:
    edited, composed, again = (tmp_path / f"{name}.mp4" for name in ("edited", "composed", "again"))
    sign_sample(plain, edited, None, ingredients=[(signed, "parentOf")])
    sign_sample(plain, composed, "digitalCapture", ingredients=[(signed, "componentOf")])
    # What a component was made from is a component as well.
    sign_sample(plain, again, "composite", ingredients=[(edited, "componentOf")])
    for path, parents, components, own, manifests in [
        (edited, [AI], [], [], 2),
        (composed, [], [AI], ["digitalCapture"], 2),
        (again, [], [AI], ["composite"], 3),
    ]:
        found = read_credentials(str(path), ".mp4")
        assert found is not None
        assert (found["state"], found["failures"]) == ("Valid", ["signingCredential.untrusted"])
        assert found["parent_source_types"] == parents
        assert found["component_source_types"] == components
        assert found["active"]["digital_source_types"] == own
        assert found["active"]["ingredients"] == 1
        assert found["manifests"] == manifests


def test_damage_is_an_answer(signed: Path, tmp_path: Path) -> None:
    data = signed.read_bytes()
    at = data.index(b"jumb")
    for name, bytes_ in {
        "cut": data[: at + 300],
        "jumbled": data[: at + 60] + bytes(200) + data[at + 260 :],
        "empty": b"",
        "text": b"not a film" * 50,
        "nested": b"".join((8 * (3000 - n)).to_bytes(4) + b"moov" for n in range(3000)),
    }.items():
        path = tmp_path / name
        path.write_bytes(bytes_)
        found = read_credentials(str(path), ".mp4")
        assert found is None or found["state"] in ("Invalid", "Unreadable"), name
        if name in ("cut", "jumbled"):
            assert found is not None and found["failures"], name


def _store(**active: object) -> dict[str, object]:
    return {"active_manifest": "a", "manifests": {"a": active}, "validation_state": "Valid"}


def test_strings_and_lists_are_capped_and_printable() -> None:
    long = "\x1b]0;x\u202e" + "y" * 10_000
    actions = [{"action": long, "digitalSourceType": f"http://x/{n}\x07", "softwareAgent": long} for n in range(999)]
    found = summarise(
        _store(
            title=long,
            claim_generator=long,
            signature_info={"issuer": long, "time": long},
            assertions=[{"label": "c2pa.actions", "data": {"actions": actions}}],
        )
    )
    active = found["active"]
    assert len(active["actions"]) == len(active["digital_source_types"]) == MAX_LIST
    texts = [active[key] for key in ("title", "claim_generator", "issuer", "signed_at")]
    texts += [*active["actions"][0].values(), *active["digital_source_types"]]
    assert all(len(text) <= MAX_TEXT and text.isprintable() for text in texts)


def test_source_types_are_found_wherever_assertions_hold_them() -> None:
    deep: object = {
        "Iptc4xmpExt:DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/compositeSynthetic"
    }
    for _ in range(50):
        deep = [{"x": deep}]
    found = summarise(
        _store(
            assertions=[
                {"label": "c2pa.metadata", "data": deep},
                {"label": "c2pa.actions.v2", "data": {"templates": [{"digitalSourceType": "http://c2pa.org/x/empty"}]}},
                {"label": "broken", "data": "text"},
            ]
        )
    )
    assert found["active"]["digital_source_types"] == ["compositeSynthetic", "empty"]


def test_ingredients_that_go_in_circles_end() -> None:
    assertions = [{"label": "x", "data": {"digitalSourceType": AI}}]
    manifests = {
        "a": {"ingredients": [{"active_manifest": "b", "relationship": "parentOf"}]},
        "b": {"assertions": assertions, "ingredients": [{"active_manifest": "a", "relationship": "parentOf"}]},
    }
    found = summarise({"active_manifest": "a", "manifests": manifests, "validation_state": "Valid"})
    assert (found["parent_source_types"], found["component_source_types"]) == ([AI], [])


def test_no_setting_lets_the_reader_out() -> None:
    assert SETTINGS["verify"] == {"remote_manifest_fetch": False, "ocsp_fetch": False}
    assert SETTINGS["core"]["allowed_network_hosts"] == []
    assert SETTINGS["core"]["decode_identity_assertions"] is False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are what is tested")
def test_a_forked_child_reads_as_well_as_its_parent(signed: Path) -> None:
    program = textwrap.dedent("""
        import os, sys
        from deephotlink.transforms.media.containers.credentials import prepare, read_credentials
        prepare()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        print(read_credentials(sys.argv[1], ".mp4")["state"], flush=True)
        if not child:
            os._exit(0)
    """)
    run = subprocess.run([sys.executable, "-c", program, str(signed)], capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == ["Valid", "Valid"], run.stderr


def _under_watch(path: Path, suffix: str, ours: bool) -> subprocess.CompletedProcess[str]:
    """Reads in a process that the kernel kills at its first socket; with `ours` false by c2pa's default settings."""
    program = textwrap.dedent("""
        import sys, pyseccomp, c2pa
        from deephotlink.transforms.media.containers.credentials import prepare, read_credentials
        prepare()
        watch = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        watch.add_rule(pyseccomp.KILL_PROCESS, "socket")
        watch.load()
        path, suffix, ours = sys.argv[1:]
        if ours == "True":
            print(read_credentials(path, suffix)["state"])
        else:
            c2pa.Reader.try_create(suffix[1:], open(path, "rb"))
    """)
    return subprocess.run(
        [sys.executable, "-c", program, str(path), suffix, str(ours)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the watch is seccomp, which only Linux has")
def test_links_to_remote_credentials_are_not_followed(identity: SigningIdentity, tmp_path: Path) -> None:
    still = tmp_path / "linked.jpg"
    _sign_with_link(still, identity)
    assert _under_watch(still, ".jpg", ours=True).stdout.strip() == "Remote"
    # The watch sees what it should: left to itself, the reader goes out.
    assert _under_watch(still, ".jpg", ours=False).returncode < 0
    found = read_credentials(str(still), ".jpg")
    assert found is not None
    assert (found["state"], found["active"]) == ("Remote", None)
    assert "secret" not in json.dumps(found)


def _sign_with_link(path: Path, identity: SigningIdentity) -> None:
    from PIL import Image

    source = path.with_name("source.jpg")
    Image.new("RGB", (32, 32)).save(source)
    info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, identity.chain_pem.encode(), identity.key_pem.encode(), None)
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [{"action": "c2pa.created"}]}}
    manifest = {"claim_generator_info": [{"name": "t", "version": "1"}], "assertions": [actions]}
    settings = c2pa.Settings.from_dict({"verify": {"verify_after_sign": False, "remote_manifest_fetch": False}})
    with c2pa.Builder(json.dumps(manifest), c2pa.Context(settings)) as builder, c2pa.Signer.from_info(info) as signer:
        builder.set_no_embed()
        builder.set_remote_url("http://127.0.0.1:9/secret.c2pa")
        with open(source, "rb") as opened, open(path, "w+b") as target:
            builder.sign(signer, "image/jpeg", opened, target)


def _shared(name: str) -> Path:
    manifest = SHARED / "MANIFEST.csv"
    if not manifest.exists():
        pytest.skip("no ../shared/MANIFEST.csv")
    with manifest.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["kind"] == "c2pa" and row["path"].endswith(name):
                return SHARED / row["path"]
    pytest.skip(f"no {name} in ../shared/c2pa")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "state", "failures"),
    [
        ("sdk__tests__fixtures__video1.mp4", "Valid", ["signingCredential.untrusted"]),
        ("sdk__tests__fixtures__legacy.mp4", "Valid", ["signingCredential.untrusted"]),
        ("adobe-20220124-C.jpg", "Valid", ["signingCredential.untrusted"]),
        ("dashinit.mp4", "Invalid", ["assertion.bmffHash.mismatch", "signingCredential.untrusted"]),
        ("adobe-20220124-E-dat-CA.jpg", "Invalid", ["assertion.dataHash.mismatch", "signingCredential.untrusted"]),
        ("adobe-20220124-E-sig-CA.jpg", "Invalid", ["claimSignature.mismatch", "signingCredential.untrusted"]),
        ("adobe-20220124-E-uri-CA.jpg", "Invalid", ["assertion.hashedURI.mismatch", "signingCredential.untrusted"]),
    ],
)
def test_public_files_with_credentials(name: str, state: str, failures: list[str]) -> None:
    path = _shared(name)
    found = read_credentials(str(path), path.suffix)
    assert found is not None
    assert (found["state"], found["failures"]) == (state, failures)


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["video1_no_manifest.mp4", "c.mov", "test.avi", "riff_bomb_1000.wav", "no_manifest.jpg"]
)
def test_public_files_without_credentials(name: str) -> None:
    path = _shared(name)
    assert read_credentials(str(path), path.suffix) is None


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "state"), [("nested_moov_1000.mp4", "Unreadable"), ("no_alg.jpg", "Unreadable"), ("cloud.jpg", "Remote")]
)
def test_public_files_that_cannot_be_settled(name: str, state: str) -> None:
    path = _shared(name)
    found = read_credentials(str(path), path.suffix)
    assert found is not None
    assert found["state"] == state


@pytest.mark.real
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the watch is seccomp, which only Linux has")
def test_identity_assertions_ask_no_name_server(tmp_path: Path) -> None:
    path = tmp_path / "cawg.jpg"
    shutil.copy(_shared("ims_multiple_manifests.jpg"), path)
    assert _under_watch(path, ".jpg", ours=True).stdout.strip() == "Valid"
