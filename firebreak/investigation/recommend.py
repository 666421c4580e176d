"""What should happen next, from what was found, with the guidance it rests on."""

from collections.abc import Iterable
from dataclasses import dataclass

from firebreak.inventory import Model
from firebreak.records import Finding, FindingType

DEFAULT_SECRETS = ("registry token", "inference API keys", "build-pipeline secrets")


@dataclass(frozen=True, slots=True)
class Reference:
    """A document that a recommendation or the report rests on."""

    name: str
    title: str
    url: str


NIST_IR = Reference(
    "NIST SP 800-61r3",
    "Incident Response Recommendations and Considerations for Cybersecurity Risk Management",
    "https://doi.org/10.6028/NIST.SP.800-61r3",
)
NIST_AI = Reference(
    "NIST AI RMF 1.0",
    "Artificial Intelligence Risk Management Framework",
    "https://doi.org/10.6028/NIST.AI.100-1",
)
ATLAS = Reference(
    "MITRE ATLAS",
    "Adversarial Threat Landscape for AI Systems; technique ids in this report are of release 5.6",
    "https://atlas.mitre.org/",
)
OWASP = Reference(
    "OWASP LLM03:2025",
    "Supply Chain, in the OWASP Top 10 for LLM Applications",
    "https://genai.owasp.org/llmrisk/llm032025-supply-chain/",
)
SAIF = Reference("Google SAIF", "Secure AI Framework", "https://saif.google/")
REFERENCES = (NIST_IR, NIST_AI, ATLAS, OWASP, SAIF)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One thing to do.

    Attributes:
        text: what, in one sentence.
        why: what makes it necessary here.
        references: names of the documents it rests on.
    """

    text: str
    why: str
    references: tuple[str, ...]


_SPECIFIC: tuple[tuple[frozenset[FindingType], Recommendation], ...] = (
    (
        frozenset({FindingType.TAMPERED, FindingType.MISSING, FindingType.UNEXPECTED}),
        Recommendation(
            "Make the deployed model files read-only for the serving account, and find out who "
            "could write them in the exposure window.",
            "Files of the deployed model were changed.",
            (NIST_IR.name, ATLAS.name),
        ),
    ),
    (
        frozenset({FindingType.DEPENDENCY_CHANGED, FindingType.DEPENDENCY_MISSING}),
        Recommendation(
            "Rebuild the serving environment from a lock file with hashes, with an empty package "
            "cache and a fresh base image; do not repair it in place.",
            "Installed packages differ from the baseline.",
            (OWASP.name, ATLAS.name),
        ),
    ),
    (
        frozenset({FindingType.SIGNATURE_INVALID, FindingType.BASELINE_INVALID}),
        Recommendation(
            "Treat the signing key as exposed until proven otherwise: revoke it, sign anew from a "
            "clean host, and verify every release it signed.",
            "A signature or a sealed baseline did not verify.",
            (OWASP.name, SAIF.name),
        ),
    ),
    (
        frozenset({FindingType.DANGEROUS_FILE}),
        Recommendation(
            "Remove the named files from the model, and refuse such file types at the registry.",
            "The model holds files that can run code when it is loaded.",
            (ATLAS.name, OWASP.name),
        ),
    ),
    (
        frozenset({FindingType.DRIFT, FindingType.DRIFT_UNKNOWN}),
        Recommendation(
            "Review the answers given in the exposure window, and check training and input data "
            "for poisoning.",
            "The model's behaviour changed, or could not be compared.",
            (NIST_AI.name, ATLAS.name),
        ),
    ),
    (
        frozenset({FindingType.SUSPICIOUS_LOG}),
        Recommendation(
            "Read the named lines of the pipeline's logs with its owner, and pin what the "
            "pipeline downloads by digest.",
            "The pipeline's logs show downloads, decoding, shells, keys or tokens.",
            (OWASP.name, NIST_IR.name),
        ),
    ),
    (
        frozenset({FindingType.LOG_MISSING}),
        Recommendation(
            "Recover the missing pipeline logs from backups, and keep logs where the pipeline "
            "cannot delete them.",
            "A pipeline log is missing, empty or unreadable.",
            (NIST_IR.name,),
        ),
    ),
    (
        frozenset({FindingType.NO_BASELINE, FindingType.UNREADABLE}),
        Recommendation(
            "Make and seal a baseline from a verified release, and repair what could not be read.",
            "Part of the model could not be judged.",
            (NIST_AI.name,),
        ),
    ),
    (
        frozenset({FindingType.REFERENCE_DIFFERS}),
        Recommendation(
            "Compare the differing files and tensors with the publisher's release, and restore "
            "from it.",
            "The model differs from its reference.",
            (ATLAS.name, SAIF.name),
        ),
    ),
)


def recommend(findings: Iterable[Finding], model: Model | None) -> list[Recommendation]:
    """What to do next: what always applies, then what these findings ask for.

    Args:
        findings: of the incident.
        model: the affected one, None when the incident is about the environment.
    """
    types = {f.type for f in findings if not _spares_the_key(f)}
    unsigned = FindingType.UNSIGNED in types
    secrets = (model.secrets if model else ()) or DEFAULT_SECRETS
    always = [
        Recommendation(
            "Sign every model release, and verify the signature before each deployment.",
            "This model is not signed." if unsigned else "A change must never go unnoticed.",
            (SAIF.name, OWASP.name),
        ),
        Recommendation(
            "Use safetensors only; accept no pickle, script or native code in a model.",
            "Other formats can run code when a model is loaded.",
            (ATLAS.name, OWASP.name),
        ),
        Recommendation(
            "Review all models that the same pipeline built or published.",
            "Who changed one of them could change all of them.",
            (NIST_IR.name, ATLAS.name),
        ),
        Recommendation(
            f"Rotate all credentials of the pipeline: {', '.join(secrets)}.",
            "They were within reach of whoever made the change.",
            (NIST_IR.name, SAIF.name),
        ),
    ]
    return always + [recommendation for kinds, recommendation in _SPECIFIC if kinds & types]


def _spares_the_key(finding: Finding) -> bool:
    """Whether a signature finding says nothing about the key: files differ, or it is unproven."""
    about_files = finding.evidence.get("verdict") in ("tampered", "unverifiable")
    return finding.type is FindingType.SIGNATURE_INVALID and about_files
