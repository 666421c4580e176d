"""The publisher's manifest: three forms are read, everything doubtful is refused."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firebreak.checks import release_manifest
from firebreak.checks.hashing import FileDigest, Tree, scan
from firebreak.checks.release_manifest import (
    ManifestFile,
    content_digest,
    parse_manifest,
    render_manifest,
)
from firebreak.errors import ManifestError

A, B = "a" * 64, "b" * 64


def flat(**files):
    return json.dumps(files).encode()


def named(*paths):
    return json.dumps(dict.fromkeys(paths, A), ensure_ascii=False).encode()


def test_our_own_form_is_read_with_model_version_time_and_sizes():
    raw = {
        "model": "demo",
        "version": "1.2",
        "created": "2026-01-02T03:04:05.000Z",
        "files": [
            {"path": "w/b.bin", "size": 3, "sha256": B},
            {"path": "a.bin", "size": 0, "sha256": A},
        ],
    }
    manifest = parse_manifest(json.dumps(raw).encode(), "m")
    assert manifest.files == (ManifestFile("a.bin", A, 0), ManifestFile("w/b.bin", B, 3))
    assert (manifest.model, manifest.version) == ("demo", "1.2")
    assert manifest.created == "2026-01-02T03:04:05.000Z"


def test_a_map_under_files_is_read_with_and_without_sizes():
    raw = {"model": "demo", "files": {"a": A, "b": {"sha256": B, "size": 7}, "c": {"sha256": A}}}
    manifest = parse_manifest(json.dumps(raw).encode(), "m")
    assert manifest.files == (
        ManifestFile("a", A),
        ManifestFile("b", B, 7),
        ManifestFile("c", A),
    )
    assert (manifest.model, manifest.version) == ("demo", None)


def test_a_flat_map_is_read_and_names_no_model():
    manifest = parse_manifest(flat(files=A, model=B), "m")
    assert manifest.files == (ManifestFile("files", A), ManifestFile("model", B))
    assert (manifest.model, manifest.version, manifest.created) == (None, None, None)


HOSTILE_PATHS = {
    "../outside": "leaves the release",
    "a/../../b": "leaves the release",
    "..": "leaves the release",
    "/etc/passwd": "is absolute",
    "//x": "is absolute",
    "a\\b": "backslash",
    "..\\..\\x": "backslash",
    "": "is not a file name",
    ".": "normal form",
    "./a": "normal form",
    "a//b": "normal form",
    "a/./b": "normal form",
    "a/": "normal form",
    "a\x00b": "control characters",
    "a\nb": "control characters",
    "a\x1b[2J": "control characters",
    "a\x85": "control characters",
    ".signatures/manifest.json": "cannot list itself",
    ".SIGNATURES/x": "cannot list itself",
    ".signatures": "cannot list itself",
    "a" * 256: "too long",
    "a/" * 2048 + "a": "too long",
}


@pytest.mark.parametrize(("path", "problem"), HOSTILE_PATHS.items(), ids=range(len(HOSTILE_PATHS)))
@pytest.mark.parametrize("form", ["flat", "map", "list"])
def test_a_hostile_path_is_refused_in_every_form(path, problem, form):
    raw = {
        "flat": {path: A},
        "map": {"files": {path: A}},
        "list": {"files": [{"path": path, "size": 1, "sha256": A}]},
    }[form]
    with pytest.raises(ManifestError, match=problem) as caught:
        parse_manifest(json.dumps(raw).encode(), "release/manifest.json")
    assert str(caught.value).startswith("release/manifest.json: path ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Weights.bin", "weights.BIN"),
        ("caf\u00e9.bin", "cafe\u0301.bin"),
        ("stra\u00dfe", "STRASSE"),
        ("K", "\u212a"),
        ("\u1fb3", "\u0391\u0399"),
    ],
)
def test_names_that_a_file_system_may_take_for_one_are_refused(one, other):
    with pytest.raises(ManifestError, match="name the same file"):
        parse_manifest(named(one, other), "m")


def test_a_path_listed_twice_is_refused():
    entry = {"path": "a", "size": 1, "sha256": A}
    with pytest.raises(ManifestError, match="name the same file"):
        parse_manifest(json.dumps({"files": [entry, entry]}).encode(), "m")


def test_a_file_that_is_also_a_folder_is_refused():
    with pytest.raises(ManifestError, match="is also a folder of"):
        parse_manifest(named("a/b/c", "A/b"), "m")


BROKEN = {
    "duplicate key": (b'{"a": "%s", "a": "%s"}' % (A.encode(), B.encode()), "given twice"),
    "duplicate deeper": (b'{"files": {"a": {"size": 1, "size": 2}}}', "'size' is given twice"),
    "escaped duplicate": (b'{"a": 1, "\\u0061": 2}', "given twice"),
    "NaN": (b'{"files": {"a": {"size": NaN}}}', "NaN is not JSON"),
    "Infinity": (b'{"a": -Infinity}', "-Infinity is not JSON"),
    "nesting": (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "nested too deeply"),
    "list nesting": (b"[" * 200_000, "nested too deeply"),
    "shallow nesting": (b'{"a": [[["x"]]]}', "expected 64 lower-case hex digits"),
    "huge integer": (b'{"files": {"a": {"size": %s}}}' % (b"9" * 5000), "integer"),
    "not UTF-8": (b'{"\xff": 1}', "is not UTF-8 at byte 2"),
    "UTF-16": ("{}".encode("utf-16"), "is not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf{}", "is not JSON"),
    "surrogate": (b'{"\\ud800": "%s"}' % A.encode(), "control characters"),
    "truncated": (b'{"a": ', "is not JSON"),
    "nothing": (b"", "is not JSON"),
    "a list": (b"[]", "expected a JSON object"),
    "text": (b'"x"', "expected a JSON object"),
    "no files": (b"{}", "lists no files"),
    "empty list": (b'{"files": []}', "lists no files"),
    "entry is no object": (b'{"files": ["a"]}', r"files\[0\] is 'a'"),
    "entry without size": (
        b'{"files": [{"path": "a", "sha256": "%s"}]}' % A.encode(),
        "expected path, size and sha256",
    ),
    "upper case": (flat(a="A" * 64), "64 lower-case hex digits"),
    "short digest": (flat(a="a" * 63), "64 lower-case hex digits"),
    "digest and newline": (flat(a=A + "\n"), "64 lower-case hex digits"),
    "no digest": (b'{"files": {"a": {"size": 1}}}', "sha256 of 'a' is None"),
    "negative size": (
        b'{"files": {"a": {"sha256": "%s", "size": -1}}}' % A.encode(),
        "size -1 is not",
    ),
    "boolean size": (
        b'{"files": {"a": {"sha256": "%s", "size": true}}}' % A.encode(),
        "size True is not",
    ),
    "float size": (
        b'{"files": {"a": {"sha256": "%s", "size": 1.0}}}' % A.encode(),
        "size 1.0 is not",
    ),
    "empty model": (b'{"model": "", "files": {"a": "%s"}}' % A.encode(), "model is ''"),
    "model is null": (b'{"model": null, "files": {"a": "%s"}}' % A.encode(), "model is None"),
    "version is a number": (b'{"version": 1.2, "files": {"a": "%s"}}' % A.encode(), "version is"),
    "control in model": (b'{"model": "a\\u001b", "files": {"a": "%s"}}' % A.encode(), "model is"),
    "time without zone": (
        b'{"created": "2026-01-01T00:00:00", "files": {"a": "%s"}}' % A.encode(),
        "has no zone",
    ),
}


@pytest.mark.parametrize("data,problem", BROKEN.values(), ids=BROKEN.keys())  # noqa: PT006
def test_a_broken_manifest_is_refused_and_says_why(data, problem):
    with pytest.raises(ManifestError, match=problem) as caught:
        parse_manifest(data, "m")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_broken_json_is_named_with_its_line():
    with pytest.raises(ManifestError) as caught:
        parse_manifest(b'{\n "a": "x",\n "b" 1}', "m.json")
    assert caught.value.args[0] == "m.json:3"


def test_a_manifest_beyond_the_limit_is_refused_unparsed(monkeypatch):
    monkeypatch.setattr(release_manifest, "MAX_MANIFEST_BYTES", 10)
    with pytest.raises(ManifestError, match="is 79 bytes, at most 10 are read"):
        parse_manifest(flat(abcdefg=A), "m")


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data):
    try:
        parse_manifest(data, "m")
    except ManifestError as error:
        assert str(error).startswith("m")  # noqa: PT017


names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/\\"),
    min_size=1,
    max_size=20,
).filter(lambda n: n not in (".", "..") and n.casefold() != ".signatures")


@given(st.lists(st.tuples(names, st.binary(max_size=9)), min_size=1, unique_by=lambda f: f[0]))
def test_what_is_rendered_is_read_back(files):
    tree = Tree(
        tuple(FileDigest(name, len(data), data.hex().rjust(64, "0")) for name, data in files)
    )
    try:
        data = render_manifest("demo", "1.0", "2026-01-02T03:04:05.000Z", tree)
    except ManifestError as error:
        assert "name the same file" in str(error)  # noqa: PT017
        return
    manifest = parse_manifest(data, "m")
    assert {(f.path, f.size, f.sha256) for f in manifest.files} == {
        (f.path, f.size, f.sha256) for f in tree.files
    }
    assert manifest.content_sha256 == content_digest(tree.files)


def test_an_empty_tree_cannot_be_rendered():
    with pytest.raises(ManifestError, match="lists no files"):
        render_manifest("demo", "1.0", "2026-01-02T03:04:05.000Z", Tree(()))


def test_content_digests_differ_by_name_content_and_link(tmp_path):
    def digest(name, make):
        folder = tmp_path / name
        folder.mkdir()
        make(folder)
        return content_digest(scan(folder).files)

    found = [
        digest("one", lambda f: (f / "a").write_bytes(b"x")),
        digest("name", lambda f: (f / "b").write_bytes(b"x")),
        digest("content", lambda f: (f / "a").write_bytes(b"y")),
        digest("more", lambda f: [(f / n).write_bytes(b"x") for n in "ab"]),
        digest("link", lambda f: [(f / "b").write_bytes(b"x"), (f / "a").symlink_to("b")]),
        digest("text", lambda f: [(f / "b").write_bytes(b"x"), (f / "a").write_bytes(b"b")]),
    ]
    assert len(set(found)) == len(found)
    signed = digest(
        "signed",
        lambda f: [
            (f / "a").write_bytes(b"x"),
            (f / ".signatures").mkdir(),
            (f / ".signatures" / "manifest.json").write_bytes(b""),
        ],
    )
    assert signed == found[0]
