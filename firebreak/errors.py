"""Every error Firebreak raises on purpose.

Each class says what went wrong (both values and the place) and carries a `hint`, the next move.
`args` equal the signature: an error raised in one Prefect process must unpickle in another.
The command line prints `str(error)` and the hint, and exits with 2.
"""

from typing import ClassVar


class FirebreakError(Exception):
    """Root of every error raised on purpose."""

    hint: ClassVar[str] = "Run the command again with --help, or see docs/errors.md."


class SourceError(FirebreakError):
    """A YAML or JSON file says something that cannot be used.

    Args:
        where: `file:line:column` (line and column counted from 1), or the file alone.
        problem: what is wrong, with both values.
        fix: what to write instead.
    """

    hint = "Correct the named line; nothing was changed."

    def __init__(self, where: str, problem: str, fix: str = "") -> None:
        super().__init__(where, problem, fix)
        self.where, self.problem, self.fix = where, problem, fix

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f"; {self.fix}" if self.fix else "")


class SettingError(FirebreakError):
    """An environment variable `FIREBREAK_*` has a value that cannot be used."""

    hint = "Unset the variable, or give it a value of the named form."

    def __init__(self, name: str, value: str, expected: str) -> None:
        super().__init__(name, value, expected)

    def __str__(self) -> str:
        return "{}={!r} is not usable, expected {}".format(*self.args)


class UnknownModelError(FirebreakError):
    """A model id that the inventory does not list."""

    hint = "Use one of the listed ids, or add the model to firebreak.yaml."

    def __init__(self, model: str, known: str) -> None:
        super().__init__(model, known)

    def __str__(self) -> str:
        return "unknown model {!r}; the inventory lists: {}".format(*self.args)


class UnknownPersonError(FirebreakError):
    """A person whom the inventory does not list."""

    hint = "Use one of the listed ids, or add the person under `people:` in firebreak.yaml."

    def __init__(self, person: str, known: str) -> None:
        super().__init__(person, known)

    def __str__(self) -> str:
        return "unknown person {!r}; the inventory lists: {}".format(*self.args)


class UnknownIncidentError(FirebreakError):
    """An incident id that the store does not hold."""

    hint = "List them with: firebreak incident list"

    def __init__(self, incident: str, store: str) -> None:
        super().__init__(incident, store)

    def __str__(self) -> str:
        return "no incident {!r} in {}".format(*self.args)


class ModelPathError(FirebreakError):
    """The path of a model is missing, unreadable, or not a plain file or directory."""

    hint = "Correct the path in firebreak.yaml, or restore the model; nothing was changed."

    def __init__(self, where: str, path: str, problem: str) -> None:
        super().__init__(where, path, problem)

    def __str__(self) -> str:
        return "{}: model path {!r} {}".format(*self.args)


class UnsafeFileError(FirebreakError):
    """A file that must not be trusted as part of a model.

    FIFO, socket, device, symbolic link that leaves the model, name that is not UTF-8, or a file
    that cannot be read.
    """

    hint = "Remove or replace the named file, then try again; nothing was changed."

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)

    def __str__(self) -> str:
        return "{!r}: {}".format(*self.args)


class BaselineError(FirebreakError):
    """A baseline that is missing, already there, or does not verify."""

    hint = "Make one on purpose with: firebreak baseline create MODEL"

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(model, problem)

    def __str__(self) -> str:
        return "baseline of {!r}: {}".format(*self.args)


class ManifestError(FirebreakError):
    """A signed manifest that cannot be used: malformed, hostile paths, duplicate entries."""

    hint = "Treat the release as unverified; obtain it again from the publisher."

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)

    def __str__(self) -> str:
        return "{}: {}".format(*self.args)


class KeyFileError(FirebreakError):
    """A key file that is missing or is not a key of the expected kind."""

    hint = "Name the right key under `keys:` in firebreak.yaml."

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)

    def __str__(self) -> str:
        return "key {!r}: {}".format(*self.args)


class SealError(FirebreakError):
    """A sealed record whose signature does not verify, or that was sealed by another key."""

    hint = "Somebody changed the file, or another installation wrote it; do not use it as evidence."

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)

    def __str__(self) -> str:
        return "{}: {}".format(*self.args)


class JournalCorruptError(FirebreakError):
    """An incident's journal does not verify.

    Args:
        incident: incident id.
        seq: first entry that does not fit, counted from 0.
        problem: what does not fit.
    """

    hint = (
        "The record was altered or damaged. Keep the store as it is and restore the journal "
        "from the last exported bundle or a backup."
    )

    def __init__(self, incident: str, seq: int, problem: str) -> None:
        super().__init__(incident, seq, problem)

    def __str__(self) -> str:
        return "journal of {}: entry {}: {}".format(*self.args)


class StoreError(FirebreakError):
    """The incident store cannot be opened, read or written."""

    hint = "Check `database_url` (or FIREBREAK_DATABASE_URL), that the server runs, and the disk."

    def __init__(self, store: str, problem: str) -> None:
        super().__init__(store, problem)

    def __str__(self) -> str:
        return "incident store {}: {}".format(*self.args)


class JournalContendedError(FirebreakError):
    """Too many writers appended to one journal at once."""

    hint = "Start the command again; what was written stays valid."

    def __init__(self, incident: str, attempts: int) -> None:
        super().__init__(incident, attempts)

    def __str__(self) -> str:
        return "journal of {}: no free place after {} attempts".format(*self.args)


class EvidenceError(FirebreakError):
    """Evidence that is missing from the store, or that no longer has its digest."""

    hint = "Evidence was altered or lost. Compare with an exported bundle."

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(digest, problem)

    def __str__(self) -> str:
        return "evidence {}: {}".format(*self.args)


class BundleError(FirebreakError):
    """An exported incident bundle that does not verify."""

    hint = "Do not rely on this bundle; ask for it again from the store it came from."

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)

    def __str__(self) -> str:
        return "bundle {}: {}".format(*self.args)


class ExpressionError(FirebreakError):
    """A `when` expression that cannot be parsed or evaluated."""

    hint = (
        "Use comparison, membership and boolean operators over incident.* and steps.*; "
        "docs/playbooks.md lists them."
    )

    def __init__(self, expression: str, column: int, problem: str) -> None:
        super().__init__(expression, column, problem)

    def __str__(self) -> str:
        return "expression {!r}, column {}: {}".format(*self.args)


class PlaybookChangedError(FirebreakError):
    """The playbook differs from the one this incident's response was started with."""

    hint = "Restore the playbook file of that digest; a running response never changes its plan."

    def __init__(self, incident: str, started: str, found: str) -> None:
        super().__init__(incident, started, found)

    def __str__(self) -> str:
        return "response of {} was started with playbook {}, the file now has {}".format(*self.args)


class ResponderBusyError(FirebreakError):
    """Another process works on this incident right now."""

    hint = "Watch it with: firebreak incident show INCIDENT; start again when it has ended."

    def __init__(self, incident: str, waited_s: float) -> None:
        super().__init__(incident, waited_s)

    def __str__(self) -> str:
        return "{} has another responder at work, waited {:g} s".format(*self.args)


class ContainmentError(FirebreakError):
    """A target could not be isolated, stopped, started or probed."""

    hint = "Isolate this target by hand and note it in the incident; the other targets went on."

    def __init__(self, target: str, problem: str) -> None:
        super().__init__(target, problem)

    def __str__(self) -> str:
        return "{}: {}".format(*self.args)


class PartialContainmentError(FirebreakError):
    """Some targets are not contained; the others are, and stay so."""

    hint = "Isolate the named targets by hand, then start the response again."

    def __init__(self, contained: int, total: int, failures: str) -> None:
        super().__init__(contained, total, failures)

    def __str__(self) -> str:
        return "{} of {} targets contained; failed: {}".format(*self.args)


class NoKnownGoodError(FirebreakError):
    """No archived version may be restored; every candidate was rejected, with its reason."""

    hint = (
        "Publish a signed release into the archive, or serve without this model; nothing was "
        "changed and the incident is held."
    )

    def __init__(self, model: str, reasons: str) -> None:
        super().__init__(model, reasons)

    def __str__(self) -> str:
        return "no verified version of {!r} to roll back to: {}".format(*self.args)


class RestoreError(FirebreakError):
    """A rollback stopped. Either the old or the new version is whole in its place."""

    hint = (
        "Read which version is in place in the incident's journal, then start the response again."
    )

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(model, problem)

    def __str__(self) -> str:
        return "rollback of {!r}: {}".format(*self.args)


class TemplateError(FirebreakError):
    """A message template that is unknown, unsafe, or needs a value that is not there."""

    hint = "Correct the template or supply the value."

    def __init__(self, template: str, problem: str) -> None:
        super().__init__(template, problem)

    def __str__(self) -> str:
        return "template {!r}: {}".format(*self.args)


class ChannelError(FirebreakError):
    """A message could not be delivered over one channel."""

    hint = "Check the channel's address and secret; the response goes on without it."

    def __init__(self, channel: str, problem: str) -> None:
        super().__init__(channel, problem)

    def __str__(self) -> str:
        return "channel {!r}: {}".format(*self.args)


class IncidentClosedError(FirebreakError):
    """A closed incident is not acted on any more."""

    hint = "If the model is in trouble again, firebreak detect opens a new incident."

    def __init__(self, incident: str, by: str) -> None:
        super().__init__(incident, by)

    def __str__(self) -> str:
        return "{} was closed by {}; nothing more is done for it".format(*self.args)


class ApprovalError(FirebreakError):
    """An approval that cannot be taken: no open question, or the answer was refused."""

    hint = "See the open question with: firebreak incident show INCIDENT"

    def __init__(self, incident: str, step: str, problem: str) -> None:
        super().__init__(incident, step, problem)

    def __str__(self) -> str:
        return "{}, gate {!r}: {}".format(*self.args)


class ClocksError(FirebreakError):
    """The clocks of some incidents could not be run; those of all others were."""

    hint = "Look at the named incidents with: firebreak incident verify INCIDENT"

    def __init__(self, problems: str) -> None:
        super().__init__(problems)

    def __str__(self) -> str:
        return "clocks: {}".format(*self.args)


class ServerError(FirebreakError):
    """The Prefect server cannot be reached or does not hold what is needed."""

    hint = (
        "Start it (make demo shows how), set PREFECT_API_URL, and serve the flows with: "
        "python deployments/serve.py"
    )

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(address, problem)

    def __str__(self) -> str:
        return "Prefect at {}: {}".format(*self.args)
