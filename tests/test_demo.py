"""What the demo and the tests of the whole system start with."""

import socket

from actors.demo import UNCLAIMED, free_port


def test_a_free_port_is_the_wanted_one_or_one_that_is_not_handed_out_meanwhile() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        wanted = int(other.getsockname()[1])
        assert free_port(wanted) in UNCLAIMED and free_port(0) in UNCLAIMED
        other.close()
        assert free_port(wanted) == wanted
