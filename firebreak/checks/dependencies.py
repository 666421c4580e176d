"""Installed packages against an expected list. Names are compared as the index compares them."""

import re
from collections.abc import Mapping

from firebreak.records import Finding, FindingType, Severity

SUBJECT = "environment"


def normalized(name: str) -> str:
    """A package name as it is compared: case, dots, dashes and underscores do not matter.

    Source: PEP 503.
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def compare_packages(
    expected: Mapping[str, str], installed: Mapping[str, str], place: str
) -> list[Finding]:
    """Findings for every expected package that is missing (high) or of another version (critical).

    Args:
        expected: name -> version.
        installed: name -> version.
        place: which environment, for the message and the evidence.
    """
    found = {normalized(name): version for name, version in installed.items()}
    findings = []
    for name, version in sorted(expected.items()):
        actual = found.get(normalized(name))
        evidence = {"package": name, "expected": version, "path": place}
        if actual is None:
            findings.append(
                Finding(
                    FindingType.DEPENDENCY_MISSING,
                    Severity.HIGH,
                    "dependencies",
                    f"{name} {version} is not installed in {place}",
                    evidence,
                    SUBJECT,
                )
            )
        elif actual != version:
            findings.append(
                Finding(
                    FindingType.DEPENDENCY_CHANGED,
                    Severity.CRITICAL,
                    "dependencies",
                    f"{name} is {actual} in {place}, expected {version}",
                    {**evidence, "actual": actual},
                    SUBJECT,
                )
            )
    return findings
