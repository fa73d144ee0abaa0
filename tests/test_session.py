"""A Ray of this machine's own is nobody else's."""

import ipaddress

import psutil
import pytest

pytestmark = pytest.mark.ray


def test_a_local_ray_listens_on_loopback_alone(local_ray: None) -> None:
    ours = {process.pid for process in psutil.Process().children(recursive=True)}
    connections = psutil.net_connections("tcp")
    listening = [c.laddr.ip for c in connections if c.pid in ours and c.status == psutil.CONN_LISTEN and c.laddr]
    assert len(listening) > 5
    assert all(ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback for ip in listening), listening
