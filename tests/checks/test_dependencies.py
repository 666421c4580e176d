"""Installed packages against an expected list."""

import pytest

from firebreak.checks.dependencies import SUBJECT, compare_packages, normalized
from firebreak.records import FindingType, Severity


def compared(expected: dict[str, str], installed: dict[str, str]):
    return compare_packages(expected, installed, "/srv/env")


def test_equal_packages_are_clean_whatever_is_installed_beside_them():
    """Only what is expected is compared."""
    assert compared({"torch": "2.6.0"}, {"torch": "2.6.0", "extra": "1"}) == []
    assert compared({}, {"torch": "2.6.0"}) == []


@pytest.mark.parametrize("name", ["PyYAML", "pyyaml", "PYYAML"])
def test_names_are_compared_without_case(name):
    """The earlier monitor's lists were written by people."""
    assert compared({name: "6.0"}, {"pyyaml": "6.0"}) == []
    assert compared({"pyyaml": "6.0"}, {name: "6.0"}) == []


def test_dots_dashes_and_underscores_are_one():
    """As the package index compares names."""
    assert normalized("Ruamel._-YAML") == "ruamel-yaml"
    assert compared({"ruamel_yaml.clib": "1"}, {"ruamel-yaml-clib": "1"}) == []


def test_a_missing_package_is_high_and_a_changed_one_critical():
    """A swapped version is the attack; the evidence has both versions and the place."""
    missing, changed = compared({"absent": "1.0", "torch": "2.6.0"}, {"Torch": "2.6.1"})
    assert (missing.type, missing.severity) == (FindingType.DEPENDENCY_MISSING, Severity.HIGH)
    assert (changed.type, changed.severity) == (FindingType.DEPENDENCY_CHANGED, Severity.CRITICAL)
    assert changed.evidence == {
        "package": "torch",
        "expected": "2.6.0",
        "actual": "2.6.1",
        "path": "/srv/env",
    }
    assert missing.subject == changed.subject == SUBJECT


def test_two_copies_of_a_package_are_a_change():
    """A shadowing second copy is reported, not hidden behind the expected version."""
    (found,) = compared({"torch": "2.6.0"}, {"torch": "2.6.0, 2.6.1"})
    assert found.type is FindingType.DEPENDENCY_CHANGED


def test_changed_again_is_another_finding():
    """The third version is news; the second one seen twice is not."""
    keys = [compared({"t": "1"}, {"t": v})[0].key for v in ("2", "2", "3")]
    assert keys[0] == keys[1] != keys[2]
