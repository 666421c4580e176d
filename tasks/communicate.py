"""Messages and the report."""

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from firebreak.communication.send import send
from firebreak.incidents.case import open_case, working_on
from firebreak.investigation.report import write_report
from firebreak.records import Json


@task(cache_policy=NO_CACHE, task_run_name="send-{template}")
def send_message(incident: str, step: str, template: str) -> Json:
    """Send one message over every channel. A channel that fails is journaled and never raises."""
    with working_on(step):
        return send(open_case(incident), template)


@task(cache_policy=NO_CACHE)
def publish_report(incident: str, step: str) -> str:
    """Write the report (Markdown and HTML) and show it in Prefect; returns the Markdown's path."""
    with working_on(step):
        written = write_report(open_case(incident))
        create_markdown_artifact(
            key=f"incident-{incident.lower()}",
            markdown=written.markdown.read_text(encoding="utf-8"),
            description=f"Incident {incident}",
        )
        return str(written.markdown)
