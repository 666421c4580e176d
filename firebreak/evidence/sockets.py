"""Sockets as evidence, of every network namespace on this host.

psutil shows the sockets of its own namespace only, so a container's connections would be missing.
`/proc/<pid>/net/*` shows those of that process's namespace: one process per namespace is enough.
"""

import ipaddress
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import psutil

from firebreak.records import Json, now, printable, timestamp

MAX_SOCKETS = 100_000  # per namespace and protocol
STATES = (
    "UNKNOWN", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT",
    "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip


def snapshot() -> Json:
    """Every socket this host shows, per network namespace, with the processes that hold it.

    Returns: `{taken_at, namespaces: [{namespace, pids, sockets, problems}]}`. A socket is
        `{protocol, local, remote, state, inode, pids}`, or `{protocol, path, state, inode, pids}`
        for unix ones. Namespaces that no visible process uses are not seen.
    """
    members: dict[str, list[int]] = {}
    for pid in psutil.pids():
        namespace = _namespace(pid)
        if namespace:
            members.setdefault(namespace, []).append(pid)
    owners = _owners([pid for pids in members.values() for pid in pids])
    return {
        "taken_at": timestamp(now()),
        "namespaces": [
            {"namespace": name, "pids": pids, **_read_namespace(pids, owners)}
            for name, pids in members.items()
        ],
    }


def sockets_of(pid: int) -> list[Json]:
    """The sockets of one process's network namespace, with the processes that hold each.

    Raises:
        OSError: the process is gone or may not be read.
    """
    namespace = os.readlink(f"/proc/{pid}/ns/net")
    owners = _owners([p for p in psutil.pids() if _namespace(p) == namespace])
    return [s for table in TABLES for s in _read_table(pid, table, owners)]


TABLES = ("tcp", "tcp6", "udp", "udp6", "unix")


def _read_namespace(pids: list[int], owners: dict[str, list[int]]) -> Json:
    """Read through the first process that still lives."""
    problems: list[str] = []
    for pid in pids:
        try:
            sockets = [s for table in TABLES for s in _read_table(pid, table, owners)]
        except OSError as error:
            problems.append(f"pid {pid}: {error.strerror}")
            continue
        return {"sockets": sockets, "problems": problems[-5:]}
    return {"sockets": [], "problems": problems[-5:]}


def _read_table(pid: int, table: str, owners: dict[str, list[int]]) -> Iterator[Json]:
    place = Path(f"/proc/{pid}/net/{table}")
    if table.endswith("6") and not place.exists():  # IPv6 switched off in this kernel
        return
    with place.open("rb") as lines:
        next(lines, None)
        for count, line in enumerate(lines):
            if count >= MAX_SOCKETS:
                yield {"protocol": table, "truncated_after": MAX_SOCKETS}
                return
            record = _unix(line) if table == "unix" else _inet(table, line)
            if record:
                record["pids"] = owners.get(record["inode"], [])
                yield record


def _inet(table: str, line: bytes) -> Json | None:
    fields = line.decode("ascii", "replace").split()
    if len(fields) < 10:
        return None
    state = int(fields[3], 16)
    return {
        "protocol": table,
        "local": _address(fields[1]),
        "remote": _address(fields[2]),
        "state": STATES[state] if state < len(STATES) else str(state),
        "uid": int(fields[7]),
        "inode": fields[9],
    }


def _unix(line: bytes) -> Json | None:
    fields = line.rstrip(b"\n").split(maxsplit=7)
    if len(fields) < 7:
        return None
    return {
        "protocol": "unix",
        "path": printable(fields[7]) if len(fields) > 7 else "",
        "state": {b"01": "UNCONNECTED", b"02": "CONNECTING", b"03": "CONNECTED"}.get(
            fields[5], printable(fields[5])
        ),
        "inode": fields[6].decode("ascii", "replace"),
    }


def _address(text: str) -> str:
    """`0100007F:1F90` (32-bit words in host order) as `127.0.0.1:8080`."""
    host, _, port = text.partition(":")
    words = struct.unpack(f">{len(host) // 8}I", bytes.fromhex(host))
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return f"[{address}]:{int(port, 16)}" if address.version == 6 else f"{address}:{int(port, 16)}"


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:  # gone, or not ours to look at
        return None


def _owners(pids: list[int]) -> dict[str, list[int]]:
    """Socket inode -> ids of the processes that hold it."""
    found: dict[str, list[int]] = {}
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            handles = os.listdir(folder)  # noqa: PTH208 - names, many of them
        except OSError:
            continue
        for handle in handles:
            try:
                link = os.readlink(f"{folder}/{handle}")
            except OSError:
                continue
            if link.startswith("socket:["):
                holders = found.setdefault(link[8:-1], [])
                if pid not in holders:
                    holders.append(pid)
    return found
