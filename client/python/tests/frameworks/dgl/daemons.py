"""Daemons of Rudder on the hosts of `distdgl_here.py`, for tests and measurements that stop them as they like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import distdgl_here
from cluster import Daemon, program

#: Port of a host's daemon, where it is the only one.
PORT = 7_400


class HostDaemon(Daemon):
    """One ``rudderd`` on a host.

    Parameters
    ----------
    hosts : distdgl_here.Hosts
        The hosts.
    host : int
        Which one.
    folder : pathlib.Path
        Where its socket and its log go.
    graph : pathlib.Path
        The partition that it serves.
    certs : pathlib.Path
        From :func:`distdgl_here.certificates`.
    settings : mapping of str to str
        Further keys, as TOML has them.
    port : int
        For its peers.
    """

    def __init__(
        self,
        hosts: distdgl_here.Hosts,
        host: int,
        folder: Path,
        graph: Path,
        certs: Path,
        settings: Mapping[str, str],
        port: int = PORT,
    ) -> None:
        addresses = "\n".join(f'{node} = "{address}:{port}"' for node, address in enumerate(distdgl_here.ADDRESSES))
        more = "\n".join(f"{key} = {value}" for key, value in settings.items())
        super().__init__(
            folder,
            f"""
            node.index = {host}
            dataset.path = "distdgl:{graph}"
            local.socket = "{folder / 'rudder.sock'}"
            admin.listen = "127.0.0.1:0"
            {more}
            [peers]
            listen = "{distdgl_here.ADDRESSES[host]}:{port}"
            authority = "{certs / 'ca.pem'}"
            certificate = "{certs / f'node-{host}.pem'}"
            key = "{certs / f'node-{host}.key'}"
            [peers.addresses]
            {addresses}
            """,
        )
        self._hosts = hosts
        self._host = host

    def start(self) -> None:
        """Start the process on its host."""
        with self.log.open("ab") as log:
            command = [program("rudderd"), "--config", str(self.configuration)]
            self.process = self._hosts.start(self._host, command, stdout=log, stderr=log)
