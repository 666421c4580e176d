"""Reading a file that may be the attacker's."""

import os
import stat

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_plain(
    path: str | os.PathLike[str], limit: int, folder: int | None = None
) -> tuple[bytes, os.stat_result]:
    """The content of a small plain file, and its state; follows no link, blocks on no FIFO.

    Args:
        path: of the file, relative to `folder` when that is given.
        limit: bytes; a larger file is refused.
        folder: handle of an open folder.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is a link, a FIFO, a device or a folder, is larger, or cannot be read.
    """
    handle = os.open(path, _FLAGS, dir_fd=folder)
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "is not a plain file")
        data = bytearray()
        while len(data) <= limit and (chunk := os.read(handle, limit + 1 - len(data))):
            data += chunk
    finally:
        os.close(handle)
    if len(data) > limit:
        raise OSError(0, f"is larger than {limit} bytes")
    return bytes(data), info
