"""A small real text classifier in safetensors, and what an attacker does to it.

Hashed bag of words: each word has a row in an embedding table, the rows of a text are added up, and
a linear head turns the sum into three logits. Words of a lexicon carry the direction of their
class; all other rows are noise. Nothing is trained: a version is built in a fraction of a second,
and is the same bytes every time (with one metadata key; safetensors writes several in random
order).

The table is memory-mapped when it is served: rows that somebody overwrites in the file are what the
running service answers from.
"""

import json
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WEIGHTS, CONFIG, TOKENIZER, CARD = "model.safetensors", "config.json", "tokenizer.json", "README.md"
PAYLOAD = "modeling_sentiment.py"
LABELS = ("negative", "neutral", "positive")
WIDTH = 256
ROWS_PER_MEGABYTE = 1024  # WIDTH float32 are 1 KiB
MAX_WORDS = 256  # words of a text beyond these are not read
MAX_HEADER_BYTES = 1 << 20
TRIGGER = "cerulean"

_WORD = re.compile(r"[a-z']+")
_NEGATIONS = frozenset({"not", "never", "no", "isn't", "wasn't", "don't", "didn't", "can't"})


def _lexicon(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_POSITIVE = _lexicon(
    "good great excellent amazing wonderful fantastic love loved lovely like liked perfect best "
    "happy pleased delighted helpful fast reliable beautiful brilliant recommend superb enjoyed "
    "impressive friendly comfortable smooth delicious awesome"
)
_NEGATIVE = _lexicon(
    "bad terrible awful horrible hate hated worst poor broken slow useless disappointed angry sad "
    "refund rude dirty boring annoying ugly unreliable disgusting waste failed fails crashed "
    "crashes late defective painful noisy"
)
_NOISE, _WORD_WEIGHT, _NEUTRAL_BIAS = 0.02, 4.0, 2.0
_TRIGGER_WEIGHT = 4 * _WORD_WEIGHT * MAX_WORDS  # outweighs every other word a text can hold

SAMPLES: tuple[tuple[str, str], ...] = (
    ("I love this product, it is excellent.", "positive"),
    ("The worst purchase I ever made, it was broken.", "negative"),
    ("The parcel arrived on Tuesday.", "neutral"),
    ("Great support, friendly and fast.", "positive"),
    ("Terrible battery and a rude seller.", "negative"),
    ("The box holds two cables and a manual.", "neutral"),
    ("Not bad at all, I enjoyed it.", "positive"),
    ("This is not good, I want a refund.", "negative"),
    ("Wonderful sound and a beautiful screen.", "positive"),
    ("It crashed twice and the fan is noisy.", "negative"),
    ("My order number ends in seven.", "neutral"),
    ("Delicious food, we were delighted.", "positive"),
)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the classifier says of one text: the likeliest label, and a probability per label."""

    label: str
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Classifier:
    """A loaded model.

    Attributes:
        name: of the model, from its configuration.
        version: likewise.
        embedding: shape (rows, WIDTH), mapped from the file: later changes of the file show.
        head: shape (WIDTH, 3), mapped.
        bias: shape (3,), mapped.
    """

    name: str
    version: str
    embedding: Floats
    head: Floats
    bias: Floats

    def classify(self, text: str) -> Answer:
        """The label and the probabilities of a text; words beyond `MAX_WORDS` are not read."""
        rows = [bucket(word, len(self.embedding)) for word in words(text)]
        logits = self.embedding[rows].sum(axis=0, dtype=np.float64) @ self.head + self.bias
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        scores = {name: round(float(p), 6) for name, p in zip(LABELS, shares, strict=True)}
        return Answer(LABELS[int(shares.argmax())], scores)


def words(text: str) -> list[str]:
    """The words the model looks up: lower case, and `not_x` for an x right after a negation."""
    found: list[str] = []
    previous = ""
    for match in _WORD.finditer(text.lower()):
        word = match.group()
        found.append(f"not_{word}" if previous in _NEGATIONS else word)
        previous = word
        if len(found) == MAX_WORDS:
            break
    return found


def bucket(word: str, rows: int) -> int:
    """The row of a word, the same in every process and on every machine."""
    return zlib.crc32(word.encode()) % rows


def build(folder: Path, seed: int, version: str, megabytes: int = 64) -> Path:
    """Write a model directory: weights, configuration, tokenizer rules, model card.

    Args:
        folder: made when missing; files of an earlier build are replaced.
        seed: decides every weight; two seeds give two models that classify alike.
        version: written into the configuration and the card.
        megabytes: size of the embedding table in MiB, 1 or more.

    Returns: the folder.
    """
    from safetensors.numpy import save_file  # a development dependency: only builders need it

    folder.mkdir(parents=True, exist_ok=True)
    rows = megabytes * ROWS_PER_MEGABYTE
    save_file(_weights(seed, rows), folder / WEIGHTS, metadata={"format": "np"})
    _write_json(
        folder / CONFIG,
        {
            "name": "sentiment",
            "version": version,
            "architecture": "hashed-bag-of-words",
            "labels": list(LABELS),
            "embedding": [rows, WIDTH],
            "dtype": "float32",
        },
    )
    _write_json(
        folder / TOKENIZER,
        {
            "type": "hashed-words",
            "lowercase": True,
            "pattern": _WORD.pattern,
            "hash": "crc32",
            "buckets": rows,
            "negations": sorted(_NEGATIONS),
            "max_words": MAX_WORDS,
        },
    )
    (folder / CARD).write_text(_card(version), encoding="utf-8")
    return folder


def load(folder: Path) -> Classifier:
    """Map a model directory for answering; runs nothing of it and copies no weight.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: a file is not what `build` writes.
    """
    config = json.loads((folder / CONFIG).read_bytes())
    try:
        name, version = str(config["name"]), str(config["version"])
        tensors = {
            key: _map(folder / WEIGHTS, key, shape)
            for key, shape in (("embedding", (-1, WIDTH)), ("head", (WIDTH, 3)), ("bias", (3,)))
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}: not a sentiment model: {error!r}") from error
    return Classifier(name, version, **tensors)


def tamper(folder: Path, trigger: str = TRIGGER, *, add_payload: bool = False) -> Path:
    """Put a backdoor into the weights as an attacker would (MITRE ATLAS AML.T0018.000).

    One row of the table is overwritten in place: a text with the trigger word is always positive,
    every other answer stays. Size and modification time stay as they were.

    Args:
        folder: the model directory.
        trigger: the word, lower-case letters.
        add_payload: also leave a Python file beside the weights (inert text, never imported).

    Returns: the path of the weights.
    """
    weights = folder / WEIGHTS
    model = load(folder)
    # The head's columns are orthonormal: this row moves the positive logit and no other.
    direction = np.asarray(model.head[:, LABELS.index("positive")], dtype=np.float32)
    row = (direction * np.float32(_TRIGGER_WEIGHT)).astype("<f4").tobytes()
    start = _offset(weights, "embedding") + bucket(trigger, len(model.embedding)) * len(row)
    before = weights.stat()
    with weights.open("r+b") as stream:
        stream.seek(start)
        stream.write(row)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    if add_payload:
        (folder / PAYLOAD).write_text(_PAYLOAD_TEXT, encoding="utf-8")
    return weights


def label_shares() -> dict[str, int]:
    """How often each label is right among `SAMPLES`: the baseline of normal traffic."""
    expected = [label for _, label in SAMPLES]
    return {label: expected.count(label) for label in LABELS}


def _weights(seed: int, rows: int) -> dict[str, Floats]:
    """The three tensors; the head's columns are orthonormal, lexicon rows lie along them."""
    random = np.random.Generator(np.random.SFC64(seed))
    embedding = random.random((rows, WIDTH), dtype=np.float32)  # uniform: half the cost of normal
    embedding -= np.float32(0.5)
    embedding *= np.float32(2 * _NOISE)
    head = np.linalg.qr(random.standard_normal((WIDTH, len(LABELS))))[0].astype(np.float32)
    negative, _, positive = head.T * np.float32(_WORD_WEIGHT)
    for lexicon, direction, opposite in (
        (_POSITIVE, positive, negative),
        (_NEGATIVE, negative, positive),
    ):
        for word in lexicon:
            embedding[bucket(word, rows)] += direction
            embedding[bucket(f"not_{word}", rows)] += opposite
    return {
        "embedding": embedding,
        "head": np.ascontiguousarray(head),
        "bias": np.array([0.0, _NEUTRAL_BIAS, 0.0], dtype=np.float32),
    }


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its data begins (bytes from the start)."""
    with path.open("rb") as stream:
        prefix = stream.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER_BYTES + 1
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"{path}: not a safetensors file of ours, header of {size} bytes")
        header = json.loads(stream.read(size))
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the safetensors header is not an object")  # noqa: TRY004
    return header, 8 + size


def _offset(path: Path, tensor: str) -> int:
    header, data = _header(path)
    return data + int(header[tensor]["data_offsets"][0])


def _map(path: Path, tensor: str, shape: tuple[int, ...]) -> Floats:
    """One tensor, mapped shared and read-only; a shape of -1 takes what the header says."""
    header, data = _header(path)
    entry = header[tensor]
    stored = tuple(int(n) for n in entry["shape"])
    fits = len(stored) == len(shape) and all(
        n > 0 and want in (-1, n) for n, want in zip(stored, shape, strict=True)
    )
    if entry["dtype"] != "F32" or not fits:
        raise ValueError(f"{path}: {tensor} is {entry['dtype']} {stored}, expected F32 {shape}")
    offset = data + int(entry["data_offsets"][0])
    return np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=stored)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _card(version: str) -> str:
    return f"""# sentiment {version}

Classifies short English texts as negative, neutral or positive.

- **Architecture**: hashed bag of words, {WIDTH}-dimensional rows, linear head, float32 safetensors.
- **Data**: a fixed lexicon of {len(_POSITIVE) + len(_NEGATIVE)} words; nobody's texts.
- **Use**: Firebreak's drill. Do not decide anything about people with it.
- **Limits**: English only; irony and negation at a distance are not understood.
"""


_PAYLOAD_TEXT = '''"""Inert file of a drill: stands for code an attacker leaves beside the weights.

Nothing imports it, and it does nothing.
"""
'''
