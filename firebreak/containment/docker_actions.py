"""What is done to one container. Each function looks first, and does only what is not done yet."""

import time
from typing import TYPE_CHECKING, Any

import requests

from firebreak.evidence.redaction import storable
from firebreak.records import Json

if TYPE_CHECKING:
    from docker.models.containers import Container

END_TIMEOUT_S = 20.0
NO_RESTART: Any = {"Name": "no"}  # the stubs know only two of the four names


class RefusedError(Exception):
    """A container that did not become what was asked. Becomes a ContainmentError."""


# docker.errors.APIError is a requests.RequestException; its other errors are not met here
ENGINE_ERRORS = (requests.RequestException, RefusedError)


def before_state(container: "Container") -> Json:
    """What `release_one` needs, and what a responder wants to know later."""
    host = container.attrs["HostConfig"]
    state: Json = storable(
        {
            "name": container.name,
            "image": container.attrs.get("Image"),
            "status": container.status,
            "network_mode": host.get("NetworkMode"),
            "restart_policy": host.get("RestartPolicy") or {"Name": "no"},
            "auto_remove": bool(host.get("AutoRemove")),
        }
    )
    state["networks"] = {
        name: {
            "id": end.get("NetworkID"),
            "aliases": [str(a) for a in end.get("Aliases") or []],
            "links": [str(a) for a in end.get("Links") or []],
            "ip": end.get("IPAddress"),
            "fixed": dict(end.get("IPAMConfig") or {}),
            "driver_options": end.get("DriverOpts"),
        }
        for name, end in networks_of(container).items()
    }
    return state


def networks_of(container: "Container") -> dict[str, Any]:
    """The networks it could be cut from; `none` and the host's do not count."""
    found = container.attrs.get("NetworkSettings", {}).get("Networks") or {}
    return {name: end for name, end in found.items() if name not in ("none", "host")}


def shares_network(container: "Container") -> bool:
    """Whether it uses the network of the host or of another container."""
    mode = str(container.attrs["HostConfig"].get("NetworkMode") or "")
    return mode == "host" or mode.startswith("container:")


def isolate_one(container: "Container", before: Json, done: list[str]) -> None:
    """Pause it when it runs, then disconnect every network.

    One that the engine restarts again and again cannot be paused: it is ended (nothing of it is
    left to lose between two starts).

    Raises:
        requests.RequestException: the engine refused (docker's APIError is one).
        RefusedError: it is still running.
    """
    container.reload()
    if container.status == "restarting":
        _keep_down(container, done)
        container.stop(timeout=0)
        done.append(f"ended {before['name']}, which was restarting")
    elif container.status == "running":
        _pause(container)
        done.append(f"paused {before['name']}")
    container.reload()
    for name in sorted(networks_of(container)):
        container.client.networks.get(name).disconnect(container, force=True)  # type: ignore[union-attr]
        done.append(f"disconnected {before['name']} from {name}")
    container.reload()
    if container.status in ("running", "restarting") or networks_of(container):
        raise RefusedError(f"is {container.status} on {sorted(networks_of(container))}")


def end(container: "Container", done: list[str]) -> None:
    """Kill it and keep it down. Not one made with `--rm`: its end would remove it.

    Raises:
        requests.RequestException: the engine refused.
        RefusedError: it does not end; or it was made with `--rm` (it stays paused).
    """
    container.reload()
    if container.status in ("exited", "created", "dead"):
        _keep_down(container, done)
        return
    if container.attrs["HostConfig"].get("AutoRemove"):
        raise RefusedError("was made with --rm: ending it would remove it, so it stays paused")
    _keep_down(container, done)
    container.kill(signal="SIGKILL")
    deadline = time.monotonic() + END_TIMEOUT_S
    while container.status not in ("exited", "dead"):
        if time.monotonic() > deadline:
            raise RefusedError(f"is {container.status} {END_TIMEOUT_S:g} s after SIGKILL")
        time.sleep(0.02)
        container.reload()
    done.append(f"killed {container.name}")


def release_one(container: "Container", before: Json, done: list[str]) -> None:
    """Bring it back to its state from before: restart policy, networks, start, unpause.

    Raises:
        requests.RequestException: the engine refused, for example because a network was removed.
    """
    container.reload()
    was_up = before["status"] in ("running", "restarting")
    _reconnect(container, before, done)
    policy = before["restart_policy"]
    if before["status"] == "paused" and container.status == "exited":
        done.append(f"left {before['name']} down: it was paused by somebody else before")
        return
    if was_up and container.status in ("exited", "created"):
        container.start()
        done.append(f"started {before['name']}")
        container.reload()
    if was_up and container.status == "paused":
        container.unpause()
        done.append(f"unpaused {before['name']}")
    if container.attrs["HostConfig"].get("RestartPolicy") != policy:
        container.update(restart_policy=policy)
        done.append(f"gave {before['name']} its restart policy {policy.get('Name') or 'no'!r} back")


def _pause(container: "Container") -> None:
    try:
        container.pause()
    except requests.RequestException:
        container.reload()  # paused by somebody else, or ended, since we looked
        if container.status in ("running", "restarting"):
            raise


def _keep_down(container: "Container", done: list[str]) -> None:
    policy = container.attrs["HostConfig"].get("RestartPolicy") or {}
    if policy.get("Name") not in ("", "no", None):
        container.update(restart_policy=NO_RESTART)
        container.reload()
        done.append(f"took the restart policy {policy['Name']!r} from {container.name}")


def _reconnect(container: "Container", before: Json, done: list[str]) -> None:
    present = networks_of(container)
    for name, end_ in before["networks"].items():
        if name in present:
            continue
        options: dict[str, Any] = {}
        if name != "bridge":  # the default bridge knows no aliases
            own = (container.id or "")[:12]
            options["aliases"] = [a for a in end_["aliases"] if a != own] or None
        fixed = end_["fixed"]
        if fixed.get("IPv4Address"):
            options["ipv4_address"] = fixed["IPv4Address"]
        if fixed.get("IPv6Address"):
            options["ipv6_address"] = fixed["IPv6Address"]
        if end_["links"]:
            options["links"] = end_["links"]
        network = container.client.networks.get(end_["id"] or name)  # type: ignore[union-attr]
        network.connect(container, **options)
        done.append(f"connected {before['name']} to {name}")
