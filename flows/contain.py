"""Containment: every target, in parallel; one stubborn target does not save the others."""

from prefect import flow
from prefect.futures import wait

import firebreak.prefect_bridge as bridge
from firebreak.containment.actions import contained, no_targets
from firebreak.containment.marking import COMPROMISED
from firebreak.errors import PartialContainmentError
from firebreak.incidents.case import open_case
from firebreak.records import Json
from firebreak.triage import NO_MODEL, is_about_model

bridge.expose_project()

from tasks.contain import contain_target, mark_model  # noqa: E402


@flow(name="contain", flow_run_name="contain-{incident}-{mode}")
def contain(incident: str, step: str, mode: str, waived_by: str | None = None) -> Json:
    """Isolate (reversible) or stop (destructive) every target of the incident's model.

    Raises:
        PartialContainmentError: names the targets that are not contained.
    """
    case = open_case(incident)
    if not is_about_model(case):
        why = f"nothing of ours to contain: {NO_MODEL}"
        return {"targets": [], "probes": [], "proven": 0, "unproven": why}
    targets = [target.uri for target in case.model.targets]
    mark_model(incident, step, COMPROMISED)
    if not targets:
        return no_targets(case)
    done = contain_all(incident, step, targets, mode, waived_by)
    return {
        "targets": targets,
        "probes": [d["probe"] for d in done],
        "proven": contained(d["probe"] for d in done),
    }


def contain_all(
    incident: str, step: str, targets: list[str], mode: str, waived_by: str | None
) -> list[Json]:
    """Contain every target; the result of each.

    Raises:
        PartialContainmentError: names those that are not contained.
    """
    runs = {}
    # Cut what serves first, copy files after: a copy of a large model takes its time.
    for wave in ([t for t in targets if not is_file(t)], [t for t in targets if is_file(t)]):
        for uri in wave:
            runs[uri] = contain_target.submit(incident, step, uri, mode, waived_by)
        wait([runs[uri] for uri in wave])
    states = {uri: run.state for uri, run in runs.items()}
    failed = {uri: state.message for uri, state in states.items() if not state.is_completed()}
    if failed:
        reasons = "; ".join(f"{uri}: {message}" for uri, message in failed.items())
        raise PartialContainmentError(len(targets) - len(failed), len(targets), reasons)
    return [run.result() for run in runs.values()]


def is_file(uri: str) -> bool:
    """Whether a target is files rather than something that serves them."""
    return uri.startswith("file://")
