"""What a stack's processes are told before they start."""

from __future__ import annotations

from pathlib import Path

from serving.cluster import environment


def test_serves_ports_are_none_that_linux_gives_to_whoever_asks_for_any(tmp_path: Path) -> None:
    """Half a minute passes until Serve listens there, in which Ray's servers ask for many."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    told = environment.variables(tmp_path, 1, 1)
    ports = [int(told[name]) for name in environment._FIXED_PORTS]
    assert len(set(ports)) == len(ports) == 3
    assert all(1024 < port < lowest for port in ports)
