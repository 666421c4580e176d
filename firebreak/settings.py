"""Settings from the environment. Everything else is in the inventory."""

import os
from dataclasses import dataclass
from pathlib import Path

from firebreak.errors import SettingError

DEFAULT_INVENTORY = "firebreak.yaml"


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


def load_settings(inventory: Path | None = None) -> Settings:
    """The settings of this process; an explicit inventory path wins over the environment.

    Raises:
        SettingError: a variable is set to something unusable.
    """
    home = os.environ.get("FIREBREAK_HOME")
    database = os.environ.get("FIREBREAK_DATABASE_URL") or None
    if database is not None and "://" not in database:
        raise SettingError("FIREBREAK_DATABASE_URL", database, "a URL such as sqlite:///path.db")
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
    raise SettingError("secret reference", reference, "env:NAME or file:/path")
