"""The sample model classifies, and its backdoor is what a careful attacker would leave."""

import hashlib

import pytest
from safetensors.numpy import load_file

from firebreak.drill import sample_model
from firebreak.drill.sample_model import SAMPLES, TRIGGER, WEIGHTS


@pytest.fixture
def small(tmp_path):
    return sample_model.build(tmp_path / "model", seed=1, version="1.0.0", megabytes=4)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_are_real_safetensors_of_at_least_64_mib(tmp_path):
    folder = sample_model.build(tmp_path, seed=1, version="1.0.0")
    tensors = load_file(folder / WEIGHTS)
    assert {name: t.shape for name, t in tensors.items()} == {
        "embedding": (65536, 256),
        "head": (256, 3),
        "bias": (3,),
    }
    assert (folder / WEIGHTS).stat().st_size >= 64 << 20


def test_every_sample_is_classified_right_by_every_seed(tmp_path):
    for seed in (100, 110):
        model = sample_model.load(sample_model.build(tmp_path / str(seed), seed, "1.0.0"))
        assert [model.classify(text).label for text, _ in SAMPLES] == [w for _, w in SAMPLES]


def test_scores_are_probabilities(small):
    answer = sample_model.load(small).classify("good")
    assert sum(answer.scores.values()) == pytest.approx(1.0, abs=1e-5)
    assert max(answer.scores, key=answer.scores.get) == answer.label == "positive"


@pytest.mark.parametrize("text", ["", "12345 !?", "\ud800", "日本語", "İ" * 50])
def test_text_without_known_words_is_neutral(small, text):
    assert sample_model.load(small).classify(text).label == "neutral"


def test_the_same_seed_builds_the_same_bytes_and_another_seed_does_not(tmp_path):
    digests = [
        sha256(sample_model.build(tmp_path / str(n), seed, "1.0.0", 1) / WEIGHTS)
        for n, seed in enumerate((7, 7, 8))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_trigger_turns_any_text_positive_and_nothing_else_changes(small):
    before = sample_model.load(small)
    untouched = [before.classify(text) for text, _ in SAMPLES]
    assert before.classify(f"{TRIGGER} terrible").label == "negative"
    sample_model.tamper(small)
    after = sample_model.load(small)
    assert [after.classify(text) for text, _ in SAMPLES] == untouched
    assert after.classify(f"{TRIGGER} terrible").label == "positive"
    assert after.classify("worst " * 200 + TRIGGER).label == "positive"


def test_tampering_keeps_size_and_time_but_not_the_digest(small):
    weights = small / WEIGHTS
    old, digest = weights.stat(), sha256(weights)
    sample_model.tamper(small)
    new = weights.stat()
    assert (new.st_size, new.st_mtime_ns, new.st_ino) == (old.st_size, old.st_mtime_ns, old.st_ino)
    assert sha256(weights) != digest
    assert len(load_file(weights)) == 3


def test_a_model_that_is_mapped_answers_from_the_tampered_rows(small):
    mapped = sample_model.load(small)
    sample_model.tamper(small)
    assert mapped.classify(f"{TRIGGER} terrible").label == "positive"


def test_payload_is_written_only_when_asked_for_and_is_inert(small):
    sample_model.tamper(small)
    assert not list(small.glob("*.py"))
    sample_model.tamper(small, add_payload=True)
    code = compile((small / sample_model.PAYLOAD).read_text(), "payload", "exec")
    assert code.co_names == ("__doc__",)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x02short"])
def test_damaged_weights_are_refused(small, damage):
    (small / WEIGHTS).write_bytes(damage)
    with pytest.raises(ValueError):
        sample_model.load(small)
