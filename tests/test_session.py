"""A Ray of this machine's own is nobody else's."""

import ipaddress

import psutil
import pytest

pytestmark = pytest.mark.ray


def test_a_local_ray_listens_on_loopback_alone(local_ray: None) -> None:
    ours = {process.pid for process in psutil.Process().children(recursive=True)}
    listening = [c for c in psutil.net_connections("tcp") if c.pid in ours and c.status == psutil.CONN_LISTEN]
    addresses = {ipaddress.ip_address(str(connection.laddr[0]).removeprefix("::ffff:")) for connection in listening}
    assert len(listening) > 5 and all(address.is_loopback for address in addresses), addresses
