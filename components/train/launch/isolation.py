"""A network for the workers of one machine alone.

TensorFlow's servers listen on all addresses of a machine, whatever address they are given, and do what anyone
asks of them. Linux can give the workers a network namespace, with loopback alone, in which no one else
is. Buckets can't be reached from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator

from latentfaces.components.train.launch.processes import end_with_parent, start

_SECONDS = 20.0  # for a process to start
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # Linux' linux/sockios.h and linux/if.h


@contextlib.contextmanager
def loopback_network() -> Iterator[list[str] | None]:
    """Makes a network namespace with loopback alone, for as long as the block runs.

    Yields:
        The wrapper with which a command runs in it, or None where this machine does not let us.
    """
    # With the rights to it without a user namespace, in which root could not read other users' files
    for kinds in (["--net"], ["--user", "--net"]):
        make = ["unshare", *kinds, *(["--map-current-user"] if "--user" in kinds else []), "--"]
        if (
            not shutil.which("nsenter")
            or subprocess.run([*make, "true"], stderr=subprocess.DEVNULL).returncode
        ):
            continue
        with open(os.devnull, "wb") as nowhere:
            holder = start("latentfaces.components.train.launch.isolation", [], {}, nowhere, make)
        try:
            enter = ["nsenter", f"--target={holder.popen.pid}", *kinds]
            enter += [*(["--preserve-credentials"] if "--user" in kinds else []), "--"]
            holder.link.settimeout(_SECONDS)
            with contextlib.suppress(TimeoutError):
                if holder.link.recv(1) and subprocess.run([*enter, "true"]).returncode == 0:
                    yield enter
                    return
        finally:
            holder.kill()
    yield None


def main() -> None:
    """Holds the namespace that this process is in, its loopback up, until the parent is gone."""
    end_with_parent()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP))
    os.write(0, b".")
    signal.pause()


if __name__ == "__main__":
    main()
