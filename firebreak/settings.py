"""Settings from the environment. Everything else is in the inventory."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from firebreak.errors import SettingError

DEFAULT_INVENTORY = "firebreak.yaml"
_NOT_SHOWN = "(not shown)"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says.

    Attributes:
        inventory: path of the inventory (`FIREBREAK_INVENTORY`, default `firebreak.yaml`).
        home: overrides the inventory's `home` (`FIREBREAK_HOME`).
        database_url: overrides the incident store (`FIREBREAK_DATABASE_URL`), an SQLAlchemy URL.
        prefect_api_url: where Prefect listens (`PREFECT_API_URL`); None when not set.
    """

    inventory: Path
    home: Path | None = None
    database_url: str | None = None
    prefect_api_url: str | None = None


def hidden(value: object) -> str:
    """A value that may hold credentials, as an error may show it: a URL's scheme, else nothing.

    Example:
        >>> hidden("https://hooks.example/T0/secret"), hidden("hunter2")
        ('https://(not shown)', '(not shown)')
    """
    scheme = re.match(r"[a-z][a-z0-9+.-]{0,31}://", value) if isinstance(value, str) else None
    return (scheme[0] if scheme else "") + _NOT_SHOWN


def database_file(url: str) -> Path | None:
    """The absolute path of an SQLite URL's file; None for a server, or a database in memory."""
    scheme, _, rest = url.partition("://")
    file = rest.removeprefix("/").partition("?")[0].removeprefix("file:")
    if scheme.partition("+")[0] != "sqlite" or not file or file.startswith(":"):
        return None
    return Path(os.path.abspath(file))


def load_settings(inventory: Path | None = None) -> Settings:
    """The settings of this process; an explicit inventory path wins over the environment.

    Raises:
        SettingError: a variable is set to something unusable.
    """
    home = os.environ.get("FIREBREAK_HOME")
    database = os.environ.get("FIREBREAK_DATABASE_URL") or None
    if database is not None and "://" not in database:
        shown = hidden(database)
        raise SettingError("FIREBREAK_DATABASE_URL", shown, "a URL such as sqlite:///path.db")
    chosen = inventory or Path(os.environ.get("FIREBREAK_INVENTORY") or DEFAULT_INVENTORY)
    return Settings(
        inventory=chosen,
        home=Path(home) if home else None,
        database_url=database,
        prefect_api_url=os.environ.get("PREFECT_API_URL") or None,
    )


def secret(reference: str) -> str | None:
    """The secret a reference such as `env:NAME` or `file:/path` points to; None when it is absent.

    Secrets never stand in the inventory, in Prefect parameters or in the journal.

    Raises:
        SettingError: the reference has neither form, or its file cannot be read as text.
    """
    kind, _, name = reference.partition(":")
    if kind == "env" and name:
        return os.environ.get(name) or None
    if kind == "file" and name:
        try:
            return Path(name).read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SettingError("secret reference", reference, "a readable text file") from error
    raise SettingError("secret reference", hidden(reference), "env:NAME or file:/path")
