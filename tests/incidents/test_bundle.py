"""A bundle proves itself, and every way of tampering with one is named."""

import io
import json
import shutil
import sqlite3
import tarfile
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firebreak.errors import BundleError, EvidenceError, JournalCorruptError
from firebreak.incidents.bundle import export_bundle, verify_bundle, verify_stored
from firebreak.incidents.case import Case
from firebreak.incidents.journal import next_entry
from firebreak.records import Json
from firebreak.sealing import Sealer, load_sealer
from small_world import SmallWorld, tampered

Members = list[tuple[str, bytes]]


@pytest.fixture
def case(world: SmallWorld) -> Case:
    """An incident with a finding, evidence, a report, and text that looks like line ends."""
    case = world.incident()
    case.add_findings([tampered()])
    case.add_evidence("processes", "p.json", {"pid": 1}, "/proc")
    case.add_evidence("logs", "log", b"x" * 3000, "/log", "text/plain")
    case.append("note", {"text": "a\u2028b\u2029c\x85d\x0ce\x1cf\r\ng"})
    (case.folder / "report.md").write_text("# Report\n")
    return case


@pytest.fixture
def bundle(case: Case, tmp_path: Path) -> Path:
    """The exported bundle."""
    export_bundle(case, tmp_path / "incident.tar")
    return tmp_path / "incident.tar"


def members(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return [(m.name, tar.extractfile(m).read()) for m in tar]


def write(path: Path, content: Members) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def changed(path: Path, **replaced: bytes | None) -> None:
    """Rewrite a bundle; a member given as None is left out."""
    names = {k.replace("__", "."): v for k, v in replaced.items()}
    write(path, [(n, names.get(n, d)) for n, d in members(path) if names.get(n, d) is not None])


def refused(path: Path, key: Sealer | None = None) -> str:
    with pytest.raises(BundleError) as caught:
        verify_bundle(path, key)
    assert str(caught.value).startswith("bundle ")
    return str(caught.value)


def test_an_exported_bundle_verifies_without_any_database(case, bundle, world):
    """The installation is gone; the file still proves entries, head, evidence and sealed heads."""
    entries, key = case.entries(), load_sealer(case.inventory.evidence_key)
    shutil.rmtree(world.inventory.home)
    report = verify_bundle(bundle, key)
    assert (report.entries, report.head) == (len(entries), entries[-1].hash)
    assert (report.evidence, report.checkpoints, report.signer_proven) == (2, 2, True)
    assert not world.inventory.home.exists()


def test_without_a_key_the_signer_is_said_to_be_unproven(bundle):
    """A bundle that only vouches for itself never claims more."""
    assert verify_bundle(bundle).signer_proven is False


def test_another_key_is_refused(bundle):
    """Sealed by somebody else is not sealed by whom was asked for."""
    other = Ed25519PrivateKey.generate()
    assert "no valid signature of key" in refused(bundle, Sealer(other.public_key(), other))


def test_a_bundle_is_private(bundle):
    """It holds evidence: process lists, environments, logs."""
    assert bundle.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("at", ["first", "middle", "last"])
def test_a_flipped_byte_in_any_member_is_found(bundle, at):
    """Each member in turn, with the archive around it correct: journal, evidence, report, seal."""
    original = members(bundle)
    for index, (name, data) in enumerate(original):
        place = {"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[at]
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        write(bundle, [*original[:index], (name, damaged), *original[index + 1 :]])
        message = refused(bundle).replace("evidence ", "evidence/")
        assert name in message or name in ("bundle.dsse.json", "evidence.pub")


def test_a_missing_member_is_found(bundle):
    """Each member in turn is left out, and named."""
    original = members(bundle)
    for name, _ in original:
        write(bundle, [m for m in original if m[0] != name])
        assert f"{name} is missing" in refused(bundle)


def test_an_extra_member_is_found(bundle):
    """Not even a well-named one may be added after sealing."""
    data = b"planted"
    import hashlib

    name = f"evidence/{hashlib.sha256(data).hexdigest()}"
    write(bundle, [*members(bundle), (name, data)])
    assert f"{name} is" in refused(bundle)
    assert "sealed was nothing" in refused(bundle)


@pytest.mark.parametrize("index", [0, 1, -1])
def test_a_member_that_is_there_twice_is_found(bundle, index):
    """What a reader sees must not depend on which of two it takes."""
    original = members(bundle)
    write(bundle, [*original, original[index]])
    assert f"unexpected member {original[index][0]!r}" in refused(bundle)


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/passwd", "evidence/../../evil", "evidence/" + "A" * 64, "notes.txt",
     "journal.jsonl\n", "./journal.jsonl", "evidence/\u0663" + "a" * 63],
)  # fmt: skip
def test_a_member_of_another_name_is_refused(bundle, name):
    """No path out of the folder, no unknown file, no near miss."""
    write(bundle, [(name, b"x"), *members(bundle)])
    assert f"unexpected member {name!r}" in refused(bundle)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
     tarfile.CONTTYPE],
)  # fmt: skip
def test_a_member_that_is_no_plain_file_is_refused(bundle, kind):
    """Links, folders, FIFOs and devices have no place in a bundle, whatever their name."""
    original = members(bundle)
    with tarfile.open(bundle, "w") as tar:
        info = tarfile.TarInfo("report.html")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
        for name, data in original:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert "unexpected member 'report.html" in refused(bundle)


def test_a_sparse_member_that_unpacks_for_ever_is_refused(bundle):
    """A few bytes that claim to be an exabyte of zeros must not keep the verifier busy."""
    original = members(bundle)
    with tarfile.open(bundle, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("report.html")
        info.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.map": "0,0",
            "GNU.sparse.size": str(1 << 60),
            "GNU.sparse.realsize": str(1 << 60),
        }
        tar.addfile(info)
        for name, data in original:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    before = time.monotonic()
    assert "unexpected member 'report.html'" in refused(bundle)
    assert time.monotonic() - before < 5


def test_a_journal_cut_at_its_end_is_found(bundle):
    """The archive is rebuilt around the shorter journal; the sealed statement disagrees."""
    journal = dict(members(bundle))["journal.jsonl"].splitlines(keepends=True)
    changed(bundle, journal__jsonl=b"".join(journal[:-1]))
    assert "journal.jsonl is" in refused(bundle)


def resealed(bundle: Path, edit, key: Sealer) -> None:
    """An attacker's bundle: the journal edited, everything recomputed and sealed with their key."""
    import hashlib

    content = dict(members(bundle))
    entries = edit([json.loads(line) for line in content["journal.jsonl"].split(b"\n") if line])
    statement = json.loads(
        __import__("base64").b64decode(json.loads(content["bundle.dsse.json"])["payload"])
    )
    content["journal.jsonl"] = "".join(json.dumps(e) + "\n" for e in entries).encode()
    for file in statement["files"]:
        if file["name"] == "journal.jsonl":
            file["sha256"] = hashlib.sha256(content["journal.jsonl"]).hexdigest()
    statement["head"] = entries[-1].pop("_head", statement["head"]) if entries else "0" * 64
    content["bundle.dsse.json"] = json.dumps(key.seal("bundle", statement)).encode()
    content["evidence.pub"] = key.public_pem.encode()
    write(bundle, list(content.items()))


def forged_key() -> Sealer:
    key = Ed25519PrivateKey.generate()
    return Sealer(key.public_key(), key)


def without_checkpoints(entries: list[Json]) -> list[Json]:
    """The journal rewritten from the start, the chain recomputed, the sealed heads dropped."""
    chain, last = [], None
    for raw in entries:
        if raw["kind"] != "journal.checkpoint":
            last = next_entry(last, raw["actor"], raw["kind"], raw["body"])
            chain.append(last.to_json())
    return chain


def test_a_wholly_forged_bundle_is_refused_with_the_real_key_and_unproven_without(bundle, case):
    """Only the key tells a perfect forgery, so its absence is always said."""
    from firebreak.incidents.journal import Entry

    real, mallory = load_sealer(case.inventory.evidence_key), forged_key()

    def edit(entries: list[Json]) -> list[Json]:
        chain = without_checkpoints(entries)
        head = Entry.from_json(chain[-1]).hash
        return [*chain[:-1], {**chain[-1], "_head": head}]

    resealed(bundle, edit, mallory)
    assert "no valid signature" in refused(bundle, real)
    assert "no valid signature" in refused(bundle, forged_key())


@pytest.mark.parametrize(
    "edit",
    [
        lambda e: [],
        lambda e: ["text"],
        lambda e: [{}],
        lambda e: [{**e[0], "body": []}, *e[1:]],
        lambda e: [{**e[0], "seq": "0"}, *e[1:]],
        lambda e: [{**e[0], "body": {"n": 2**60}}, *e[1:]],
        lambda e: [{**e[0], "body": {"n": float("nan")}}, *e[1:]],
        lambda e: [e[0], e[2], e[1], *e[3:]],
    ],
)
def test_hostile_content_under_a_valid_seal_is_refused_cleanly(bundle, edit):
    """Without --key the content is the attacker's to shape; it never becomes a traceback."""

    def shaped(entries: list[Json]) -> list[Json]:
        made = edit(entries)
        return [m if isinstance(m, dict) else {"_": m} for m in made]

    resealed(bundle, shaped, forged_key())
    assert refused(bundle)


def test_evidence_entries_of_odd_shape_under_a_valid_seal_are_refused_cleanly(bundle):
    """An `evidence.collected` entry without a digest is malformed, not a crash."""
    from firebreak.incidents.journal import Entry

    for body in ({}, {"sha256": ["a"]}, {"sha256": 5}, {"sha256": None}):

        def edit(_entries: list[Json], body: Json = body) -> list[Json]:
            entry = next_entry(None, "m", "evidence.collected", body)
            return [{**entry.to_json(), "_head": entry.hash}]

        resealed(bundle, edit, forged_key())
        raw = dict(members(bundle))
        assert Entry.from_json(json.loads(raw["journal.jsonl"])).kind == "evidence.collected"
        assert refused(bundle)


def test_a_foreign_public_key_in_the_bundle_is_found_though_the_right_one_is_given(bundle, case):
    """Whoever trusts the bundle's own key next must not get the attacker's."""
    changed(bundle, evidence__pub=forged_key().public_pem.encode())
    real = load_sealer(case.inventory.evidence_key)
    assert "evidence.pub is not the key that sealed it" in refused(bundle, real)


@pytest.mark.parametrize("appended", [b"hidden", b"\0" * 20480 + b"PK\x03\x04"])
def test_what_follows_the_last_member_is_found(bundle, appended):
    """Other readers may look further than ours: nothing hides behind the archive's end."""
    with bundle.open("ab") as stream:
        stream.write(appended)
    assert "follows the last one" in refused(bundle)


def test_swapped_evidence_is_found(bundle):
    """Two blobs with each other's content: the name is the digest."""
    original = members(bundle)
    (one, first), (two, second) = (m for m in original if m[0].startswith("evidence/"))
    swap = {one: second, two: first}
    write(bundle, [(n, swap.get(n, d)) for n, d in original])
    assert "hashes to" in refused(bundle)


@pytest.mark.parametrize("raw", [b"", b"not a tar", b"\x1f\x8b" + b"\0" * 600, b"\0" * 10240])
def test_a_file_that_is_no_bundle_is_refused(tmp_path, raw):
    """Empty, foreign or blank files are one clear error with the path."""
    (tmp_path / "x.tar").write_bytes(raw)
    assert str(tmp_path / "x.tar") in refused(tmp_path / "x.tar")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_damage_to_the_file_raises_anything_but_a_bundle_error(bundle, tmp_path, data):
    """Any bytes overwritten or cut: it verifies to the same head, or is refused."""
    raw = bytearray(bundle.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=12))
    raw[at : at + len(patch)] = patch
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(raw)
    head = verify_bundle(bundle).head
    try:
        assert verify_bundle(damaged).head == head
    except BundleError as error:
        assert str(error).startswith("bundle ")  # noqa: PT017 - both outcomes are right


def test_changed_evidence_in_the_store_is_not_exported(case, tmp_path):
    """Nothing is written, and an earlier bundle of that name stays."""
    place = tmp_path / "incident.tar"
    place.write_text("the earlier one")
    blob = next(p for p in (case.inventory.home / "evidence").rglob("*") if p.is_file())
    blob.chmod(0o600)
    blob.write_bytes(b"changed")
    with pytest.raises(EvidenceError, match=f"evidence {blob.name}: now hashes to"):
        export_bundle(case, place)
    assert place.read_text() == "the earlier one"
    assert list(tmp_path.glob(".incident.tar*")) == []


def test_a_corrupted_journal_is_not_exported(case, tmp_path):
    """The error names the entry; no file appears."""
    with sqlite3.connect(case.inventory.home / "firebreak.db") as db:
        db.execute("update entries set entry = replace(entry, 'integrity', 'integrita')")
    with pytest.raises(JournalCorruptError, match="entry 1"):
        export_bundle(case, tmp_path / "incident.tar")
    assert not (tmp_path / "incident.tar").exists()


def test_the_journal_of_another_incident_in_its_place_is_found(case, world):
    """A whole foreign chain, valid in itself, does not stand in for this incident's."""
    other = world.incident("fraud")
    with sqlite3.connect(world.inventory.home / "firebreak.db") as db:
        db.execute("delete from entries where incident = ?", (other.id,))
        db.execute(
            "insert into entries select ?, seq, hash, entry from entries where incident = ?",
            (other.id, case.id),
        )
        db.execute(
            "update incidents set (head_seq, head_hash) = "
            "(select head_seq, head_hash from incidents where id = ?) where id = ?",
            (case.id, other.id),
        )
    with pytest.raises(BundleError, match=f"seals the journal of {case.id}, not {other.id}"):
        verify_stored(other)


def test_a_stored_incident_verifies_where_it_is(case):
    """The same proof without exporting: chain, sealed heads and every blob."""
    case.checkpoint()
    report = verify_stored(case)
    assert (report.incident, report.evidence, report.checkpoints) == (case.id, 2, 2)
    assert (report.head, report.signer_proven) == (case.entries()[-1].hash, True)


def test_a_stored_incident_without_a_sealed_head_has_no_proven_signer(world):
    """No signature was made over anything yet, so none is claimed."""
    report = verify_stored(world.incident("fraud"))
    assert (report.checkpoints, report.signer_proven) == (0, False)
