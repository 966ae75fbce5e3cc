"""Anchors on their way out and back: exported, signed, kept elsewhere, and held against the log again."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from eventstore.anchoring import Anchor
from eventstore.proof.anchors import check_signatures
from eventstore.proof.signing import Signer, Verifier
from eventstore.proof.verified import read_verified
from runfold.errors import InvalidSetting
from tests.terminal import record, runfold

ANCHOR = Anchor(position=7, digest="ab" * 32)


def make_keys(folder: Path, name: str = "key") -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signature_is_of_one_key_one_log_and_one_anchor(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    _, anothers = make_keys(tmp_path, "another")
    signed = Anchor(position=7, digest=ANCHOR.digest, signature=Signer(private).sign(ANCHOR, "log"))
    moved = Anchor(position=8, digest=ANCHOR.digest, signature=signed.signature)
    garbled = Anchor(position=7, digest=ANCHOR.digest, signature="xyz")

    def messages(anchor: Anchor, key: Path = public, log_id: str = "log") -> list[str]:
        return [fault.message for fault in check_signatures([anchor], Verifier(key), log_id)]

    assert messages(signed) == []
    assert messages(ANCHOR) == ["the anchor at 7 is not signed"]
    for found in (messages(moved), messages(garbled), messages(signed, anothers), messages(signed, log_id="other")):
        assert len(found) == 1
        assert "the signature of the anchor at" in found[0]


def test_a_file_that_holds_no_such_key_is_named_with_how_to_make_one(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    other = tmp_path / "other.pem"
    other.write_bytes(X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    for path in (tmp_path / "none.pem", public, other):
        with pytest.raises(InvalidSetting, match=path.name) as refused:
            Signer(path)
        assert "openssl genpkey" in str(refused.value.hint)
    with pytest.raises(InvalidSetting, match="holds no public"):
        Verifier(private)


@pytest.mark.slow
def test_an_exported_anchor_is_given_back_and_its_signature_is_checked(tmp_path: Path) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept.jsonl"
    private, public = make_keys(tmp_path)
    record(data)
    kept.write_text(runfold(data, "anchors", RUNFOLD_ANCHOR_KEY=str(private)).stdout)
    every = runfold(data, "anchors", "--all").stdout.splitlines()
    record(data)

    sound = runfold(data, "verify", "--anchor", str(kept), "--public-key", str(public))
    line = json.loads(kept.read_text())
    kept.write_text(json.dumps({**line, "digest": "00" * 32}) + "\n")
    forged = runfold(data, "verify", "--anchor", str(kept), RUNFOLD_ANCHOR_PUBLIC_KEY=str(public))
    kept.write_text(every[-1] + "\n")
    unsigned = runfold(data, "verify", "--anchor", str(kept), "--public-key", str(public))

    assert sound.returncode == 0, sound.stdout
    assert json.loads(every[-1])["position"] == line["position"]
    assert (forged.returncode, unsigned.returncode) == (1, 1)
    assert f"the signature of the anchor at {line['position']} is not" in forged.stdout
    assert "is not signed" in unsigned.stdout


@pytest.mark.slow
def test_an_anchor_that_the_key_did_not_sign_is_refused_and_says_nothing_of_the_log(tmp_path: Path) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept.jsonl"
    private, _ = make_keys(tmp_path)
    _, anothers = make_keys(tmp_path, "another")
    record(data)
    line = json.loads(runfold(data, "anchors", "--sign", str(private)).stdout)
    assert runfold(data, "verify").returncode == 0

    for given in (line, {**line, "digest": "00" * 32}, {**line, "signature": ""}):
        kept.write_text(json.dumps(given) + "\n")
        done = runfold(data, "verify", "--anchor", str(kept), "--public-key", str(anothers))

        assert done.returncode == 1
        assert done.stdout.startswith("signature  ")
        assert len(done.stdout.splitlines()) == 1
        assert "1 fault in" in done.stderr
        assert "next: give the anchors, and the key" in done.stderr
        proved = read_verified(data)
        assert proved is not None
        assert (proved.ok, proved.faults) == (True, ())


@pytest.mark.slow
def test_an_anchor_that_is_given_is_held_against_the_log_or_refused(tmp_path: Path) -> None:
    data, other, kept = tmp_path / "data", tmp_path / "other", tmp_path / "kept.jsonl"
    _, public = make_keys(tmp_path)
    record(data)
    record(other)
    line = json.loads(runfold(data, "anchors").stdout)

    def verify(content: str, folder: Path = data) -> tuple[int, str]:
        kept.write_text(content)
        done = runfold(folder, "verify", "--anchor", str(kept))
        return done.returncode, done.stdout + done.stderr

    # As it is pasted, with nothing that ends the line.
    code, said = verify(json.dumps({**line, "digest": "00" * 32}))
    of_another = verify(json.dumps(line), other)
    empty = verify("")
    cut = verify(json.dumps(line)[:-10])
    key_alone = runfold(data, "verify", "--public-key", str(public))

    assert verify(json.dumps(line))[0] == 0
    assert (code, "the log is not the one" in said) == (1, True)
    assert (of_another[0], f"is of another log, `{line['log_id']}`" in of_another[1]) == (1, True)
    assert (empty[0], "holds no anchor, so it proves nothing" in empty[1]) == (1, True)
    assert (cut[0], "does not hold anchors" in cut[1]) == (1, True)
    assert (key_alone.returncode, "--anchor FILE" in key_alone.stderr) == (1, True)


@pytest.mark.slow
def test_an_anchor_of_another_log_is_refused_and_the_last_proof_stands(tmp_path: Path) -> None:
    data, other, kept = tmp_path / "data", tmp_path / "other", tmp_path / "kept.jsonl"
    record(data)
    record(other)
    kept.write_text(runfold(other, "anchors").stdout)
    assert runfold(data, "verify").returncode == 0
    before = read_verified(data)

    refused = runfold(data, "verify", "--anchor", str(kept))

    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"is of another log, `{json.loads(kept.read_text())['log_id']}`" in refused.stderr
    assert before is not None
    assert read_verified(data) == before
