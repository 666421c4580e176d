"""A model against a reference copy: what is only here, only there, modified, identical."""

from dataclasses import dataclass
from pathlib import Path

from firebreak.checks.hashing import FileDigest, Problem, Tree, scan
from firebreak.investigation.scan import SIGNATURE_FOLDER
from firebreak.investigation.weights import differing_tensors
from firebreak.records import Finding, FindingType, Json, Severity, printable

SOURCE = "compare"
MAX_TENSORS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Difference:
    """One file that both sides have, with other bytes.

    Attributes:
        path: relative to the model, escaped.
        here: sha256 in the model.
        there: sha256 in the reference.
        tensors: which tensors differ (`name: why`), escaped, for `.safetensors` files.
        problem: why the tensors could not be compared; empty when they were, or do not apply.
    """

    path: str
    here: str
    there: str
    tensors: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model compared with its reference. Paths are relative and escaped.

    Attributes:
        subject: model id.
        only_here: files that the reference does not have.
        only_there: files that the model lacks.
        modified: files with other content.
        identical: number of files that are the same.
        problems: what could not be compared; as long as there are any, "same" is not proven.
    """

    subject: str
    only_here: tuple[str, ...] = ()
    only_there: tuple[str, ...] = ()
    modified: tuple[Difference, ...] = ()
    identical: int = 0
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> Json:
        """The comparison as evidence."""
        return {
            "subject": self.subject,
            "only_here": list(self.only_here),
            "only_there": list(self.only_there),
            "modified": [_difference_json(d) for d in self.modified],
            "identical": self.identical,
            "problems": [{"path": p.path, "problem": p.problem} for p in self.problems],
        }

    def to_findings(self) -> list[Finding]:
        """One `reference_differs` per file (HIGH), one `model_unreadable` per problem (HIGH)."""
        differs = FindingType.REFERENCE_DIFFERS
        found = [
            self._finding(differs, path, "is not in the reference", {}) for path in self.only_here
        ]
        found += [
            self._finding(differs, path, "is missing; the reference has it", {})
            for path in self.only_there
        ]
        found += [self._finding(differs, d.path, _wording(d), _hashes(d)) for d in self.modified]
        unreadable = FindingType.UNREADABLE
        found += [self._finding(unreadable, p.path, p.problem, {}) for p in self.problems]
        return found

    def _finding(self, kind: FindingType, path: str, problem: str, more: Json) -> Finding:
        evidence: Json = {"file": path, "problem": problem, **more}
        return Finding(kind, Severity.HIGH, SOURCE, f"{path} {problem}", evidence, self.subject)


def compare_with_reference(model_path: Path, reference_path: Path, subject: str) -> Comparison:
    """Compare a model with a reference copy, file by file and, for safetensors, tensor by tensor.

    Both sides are hashed in constant memory; `.signatures` is left out. Nothing found there makes
    it raise: a missing side or an unreadable file is in `problems`.
    """
    here, there = _tree(model_path), _tree(reference_path)
    problems = tuple(Problem(f"model/{p.path}", p.problem) for p in here.problems)
    problems += tuple(Problem(f"reference/{p.path}", p.problem) for p in there.problems)
    ours, theirs = here.by_path(), there.by_path()
    if model_path.is_file() and reference_path.is_file():
        theirs = dict(zip(ours, theirs.values(), strict=False))  # two files under any name
    both = sorted(ours.keys() & theirs.keys())
    changed = [p for p in both if _identity(ours[p]) != _identity(theirs[p])]
    missing = () if there.problems and not theirs else sorted(ours.keys() - theirs.keys())
    return Comparison(
        subject,
        only_here=tuple(printable(p) for p in missing),
        only_there=tuple(printable(p) for p in sorted(theirs.keys() - ours.keys())),
        modified=tuple(
            _describe(p, ours[p], theirs[p], model_path, reference_path) for p in changed
        ),
        identical=len(both) - len(changed),
        problems=problems,
    )


def _tree(root: Path) -> Tree:
    try:
        return scan(root, skip=frozenset({SIGNATURE_FOLDER}))
    except OSError as error:
        return Tree((), (Problem(printable(str(root)), f"cannot be read: {error.strerror}"),))


def _identity(file: FileDigest) -> tuple[str, str | None]:
    return file.sha256, file.link


def _describe(
    path: str, here: FileDigest, there: FileDigest, root: Path, reference: Path
) -> Difference:
    tensors: tuple[str, ...] = ()
    problem = ""
    if path.lower().endswith(".safetensors") and here.link is None and there.link is None:
        try:
            tensors = tuple(differing_tensors(_place(root, path), _place(reference, there.path)))
        except (ValueError, OSError) as error:
            problem = f"suspicious: cannot parse as safetensors ({printable(str(error))[:300]})"
    return Difference(printable(path), here.sha256, there.sha256, tensors, problem)


def _place(root: Path, path: str) -> Path:
    return root / path if root.is_dir() else root


def _wording(difference: Difference) -> str:
    text = "differs from the reference"
    if difference.problem:
        return f"{text}; {difference.problem}"
    if difference.tensors:
        shown = ", ".join(t[:120] for t in difference.tensors[:5])
        more = len(difference.tensors) - 5
        return f"{text} in: {shown}" + (f" and {more} more" if more > 0 else "")
    return text


def _hashes(difference: Difference) -> Json:
    return {
        "actual_sha256": difference.here,
        "expected_sha256": difference.there,
        "tensors": [t[:300] for t in difference.tensors[:MAX_TENSORS_SHOWN]],
        "tensors_total": len(difference.tensors),
    }


def _difference_json(difference: Difference) -> Json:
    named = {"path": difference.path, "problem": difference.problem}
    return {**named, **_hashes(difference)}
