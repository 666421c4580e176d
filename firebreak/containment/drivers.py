"""Which driver contains which kind of target."""

from firebreak.containment.docker import DockerDriver
from firebreak.containment.driver import Driver
from firebreak.containment.filesystem import FileDriver
from firebreak.containment.process import ProcessDriver
from firebreak.errors import ContainmentError
from firebreak.inventory import Target

DRIVERS: dict[str, Driver] = {
    driver.scheme: driver for driver in (FileDriver(), ProcessDriver(), DockerDriver())
}


def driver_for(target: Target) -> Driver:
    """The driver of a target's scheme. Raises: ContainmentError when there is none."""
    try:
        return DRIVERS[target.scheme]
    except KeyError:
        known = ", ".join(f"{scheme}://" for scheme in sorted(DRIVERS))
        raise ContainmentError(target.uri, f"no driver for this scheme; known: {known}") from None
