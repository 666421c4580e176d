"""What a file is by its bytes: native code, pickles, scripts, archives. Reads, never executes.

At most `HEAD` bytes of a file are read, and of a zip its central directory. What a parser does not
understand is reported as suspicious, never passed as clean.
"""

import io
import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from firebreak.records import Severity, printable

HEAD = 4096  # bytes
MAX_ZIP_DIRECTORY = 32 << 20  # bytes
ZIP_TAIL = (1 << 16) + 22  # bytes: where the end record of a zip can lie

NATIVE = frozenset({".so", ".dylib", ".pyd", ".dll", ".exe"})
PICKLES = frozenset({".pkl", ".pickle", ".dill", ".joblib", ".sav"})
SCRIPTS = frozenset({".py", ".pyc", ".pyo", ".sh"})
TORCH = frozenset({".pt", ".pth", ".ckpt"})
DANGEROUS = NATIVE | PICKLES | SCRIPTS
ZIPS = frozenset({".zip", ".npz", ".keras", ".mar", ".pt", ".pth", ".ckpt", ".bin", ".whl"})
COMPRESSED = frozenset({".gz", ".xz", ".bz2", ".zst", ".lz4", ".z"})
RAW_WEIGHTS = TORCH | {"", ".bin", ".dat", ".model"}  # where a protocol 0 pickle would be loaded

_MACHO = tuple(
    bytes.fromhex(m) for m in ("feedface", "feedfacf", "cefaedfe", "cffaedfe", "cafebabe")
)
_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
_OPCODES = {op.code: op for op in pickletools.opcodes}
_TEXT_PICKLE = re.compile(rb"[(\]})l]{0,3}(?:i|c)[\w.]{1,80}\n[\w.]{1,80}\n")


@dataclass(frozen=True, slots=True)
class Trait:
    """One reason to look at a file.

    Attributes:
        problem: what it is, for people; names inside archives are escaped.
        severity: CRITICAL native code or content that denies its name; HIGH pickles, scripts and
            what no parser understands; MEDIUM what only deserves a look.
    """

    problem: str
    severity: Severity


def traits_by_name(name: str) -> list[Trait]:
    """What a file name alone says; suffixes are compared without regard to case."""
    parts = [s.lower().rstrip() for s in PurePosixPath(name.rstrip(". ")).suffixes]
    if not parts:
        return []
    last = parts[-1]
    if last in COMPRESSED and len(parts) > 1:
        last = parts[-2]
    if last in DANGEROUS:
        return [Trait(f"has the suffix {printable(last)}", _severity_of(last))]
    hidden = [p for p in parts[:-1] if p in DANGEROUS]
    if hidden:
        return [Trait(f"hides the suffix {printable(hidden[0])}", Severity.MEDIUM)]
    return []


def traits_by_content(name: str, stream: IO[bytes]) -> list[Trait]:
    """What the first bytes, and a zip's directory, say. Never raises for what it reads.

    Args:
        name: the file's name; content that contradicts it is worse than content that fits it.
        stream: a seekable binary stream at its start.
    """
    suffix = PurePosixPath(name).suffix.lower()
    head = stream.read(HEAD)
    found = _native(head) + _pickle(head, suffix) + _script(head, suffix) + _archive(head)
    found += _zip(head, suffix, stream)
    if not found and head and suffix in TORCH:
        found.append(Trait("suspicious: not a torch archive nor any known format", Severity.HIGH))
    return found


def _severity_of(suffix: str) -> Severity:
    return Severity.CRITICAL if suffix in NATIVE else Severity.HIGH


def _native(head: bytes) -> list[Trait]:
    if head.startswith(b"\x7fELF"):
        return [Trait("is native code (ELF)", Severity.CRITICAL)]
    if head.startswith(_MACHO):
        return [Trait("is native code (Mach-O)", Severity.CRITICAL)]
    if head.startswith(b"MZ"):
        offset = int.from_bytes(head[60:64], "little")
        if offset > HEAD - 4 or head[offset : offset + 4] == b"PE\0\0":
            return [Trait("is native code (PE)", Severity.CRITICAL)]
    return []


def _pickle(head: bytes, suffix: str) -> list[Trait]:
    if head.startswith(b"\x93NUMPY"):
        if re.search(rb"'descr':.{0,400}O", head[:1024], re.DOTALL):
            return [Trait("is a NumPy file with pickled objects", Severity.HIGH)]
        return []
    text = suffix in RAW_WEIGHTS and _TEXT_PICKLE.match(head) is not None
    if not (text or _starts_pickle(head)):
        return []
    fits = suffix in PICKLES | RAW_WEIGHTS
    disguise = "" if fits else f", although its name ends in {printable(suffix) or 'nothing'}"
    return [Trait(f"is a pickle{disguise}", Severity.HIGH if fits else Severity.CRITICAL)]


def _starts_pickle(head: bytes) -> bool:
    """Protocol 2-5 followed by real opcodes: a safetensors length can begin with the same byte."""
    if head[:1] != b"\x80" or head[1:2] not in (b"\2", b"\3", b"\4", b"\5"):
        return False
    stream, count = io.BytesIO(head), 0
    while count < 4:
        code = _OPCODES.get(stream.read(1).decode("latin-1"))
        if code is None:
            break
        count += 1
        if code.name == "STOP":
            return True
        if code.arg is not None:
            try:
                code.arg.reader(stream)
            except (ValueError, UnicodeError, OverflowError):
                count += 1  # an argument longer than what was read
                break
    return count >= 3


def _script(head: bytes, suffix: str) -> list[Trait]:
    if not head.startswith(b"#!"):
        return []
    line = printable(head[:80].split(b"\n")[0])
    fits = suffix in SCRIPTS
    return [Trait(f"is a script ({line})", Severity.HIGH if fits else Severity.CRITICAL)]


def _archive(head: bytes) -> list[Trait]:
    kind = next((name for magic, name in _ARCHIVES.items() if head.startswith(magic)), None)
    if head[257:262] == b"ustar":
        kind = "tar"
    if kind is None:
        return []
    return [Trait(f"suspicious: {kind} archive, its content was not analysed", Severity.MEDIUM)]


class _Bounded(io.BufferedIOBase):
    """Reads for zipfile, which trusts the directory size that the file names."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size > MAX_ZIP_DIRECTORY:
            raise zipfile.BadZipFile(f"directory is larger than {MAX_ZIP_DIRECTORY} bytes")
        return self._stream.read(MAX_ZIP_DIRECTORY if size < 0 else size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True


def _zip(head: bytes, suffix: str, stream: IO[bytes]) -> list[Trait]:
    starts = head.startswith((b"PK\3\4", b"PK\5\6"))
    try:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - ZIP_TAIL))
        ends = b"PK\5\6" in stream.read(ZIP_TAIL)
        if not starts and not (ends and zipfile.is_zipfile(_Bounded(stream))):
            return []
        with zipfile.ZipFile(_Bounded(stream)) as archive:
            names = archive.namelist()
    except Exception as error:  # noqa: BLE001 - whatever a parser does with hostile bytes
        why = printable(str(error))[:200] or type(error).__name__
        return [Trait(f"suspicious: zip archive that cannot be parsed ({why})", Severity.HIGH)]
    found = [] if starts else [Trait("has a zip archive appended to it", Severity.CRITICAL)]
    if starts and suffix not in ZIPS:
        ending = printable(suffix) or "nothing"
        found.append(Trait(f"is a zip archive, although its name ends in {ending}", Severity.HIGH))
    dangerous = [n for n in names if traits_by_name(n)]
    if dangerous:
        worst = Severity.highest([t.severity for n in dangerous for t in traits_by_name(n)])
        shown = ", ".join(printable(n)[:100] for n in dangerous[:5])
        more = f" and {len(dangerous) - 5} more" if len(dangerous) > 5 else ""
        found.append(Trait(f"is an archive that holds {shown}{more}", worst))
    return found
