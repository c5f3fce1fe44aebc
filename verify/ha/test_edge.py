"""The edge: whoever has the address, people are answered; a web host that does not answer is not asked."""

import contextlib
import socket
import time
from shlex import quote

import docker
import pytest

from verify import BASE, TOPOLOGY, container, contract, deploy, eventually, killed, node, visitor
from verify.visits import PATH, Visits

EDGES, WEBS = TOPOLOGY.hosts("edge"), TOPOLOGY.hosts("web")
ADDRESS, PORT, SITE_PORT = (contract(name) for name in ("edge_address", "edge_ports[-1]", "site_ports[-1]"))
PROXY = f"web.{contract('service_domain')}:{PORT}"
# What a move of the address may cost (VRRP waits for a second and a half), and until who hangs is left alone.
MOVE_SECONDS, HANG_SECONDS = 5, 25  # six, three for who is being connected, and fifteen as it may just be busy


def holders():
    """The hosts that have the address."""
    return [host for host in EDGES if node(host).run(f"ip -br address show to {ADDRESS}").stdout.strip()]


def holder():
    """The host that has it, when that is one."""
    [host] = eventually(lambda: len(found := holders()) == 1 and found, 20)
    return host


def servers(host, port=PORT):
    """The state of each server of an edge's HAProxy, as `UP`, `DRAIN` or `DOWN`, by its name."""
    rows = [line.split(",") for line in node(host).check_output("quintet-haproxy show stat").splitlines()]
    names = [name.strip("# ") for name in rows[0]]
    found = [dict(zip(names, row, strict=False)) for row in rows[1:]]
    proxy = f"web.{contract('service_domain')}:{port}"
    return {
        one["svname"]: one["status"].split()[0] for one in found if one["pxname"] == proxy and one["svname"] in WEBS
    }


@pytest.fixture(autouse=True)
def healthy():
    """Every host is there, and each edge takes each web host for well, before and after."""
    yield
    for host in EDGES:
        eventually(lambda host=host: set(servers(host).values()) == {"UP"}, 90)
        eventually(lambda host=host: node(host).run("systemctl is-active keepalived").stdout.strip() == "active", 30)
    holder()


def requests_of(host):
    """How many requests nginx has written down."""
    return int(node(host).check_output("wc -l </var/log/nginx/access.log"))


# -- The address ------------------------------------------------------------------------------------------------------


def test_one_host_has_the_address_and_each_could():
    assert holder() in EDGES
    for host in EDGES:
        answer = visitor().get(BASE.replace(ADDRESS, contract("host_address", host)), timeout=10)
        assert answer.status_code == 200


@pytest.mark.slow
def test_the_address_moves_when_its_host_is_gone_and_stays():
    before = holder()
    with Visits() as visits:
        with killed(before):
            time.sleep(8)
            assert holders_but(before) == [host for host in EDGES if host != before][:1]
        # Who comes back does not take it.
        time.sleep(8)
    assert holder() != before
    assert visits.gap < MOVE_SECONDS, visits
    assert deploy(limit=",".join(EDGES))[0] == 0, "a deploy changes something after a move"


def holders_but(gone):
    """The hosts that have the address, where one cannot be asked."""
    return [
        host for host in EDGES if host != gone and node(host).run(f"ip -br address show to {ADDRESS}").stdout.strip()
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "remedy", "seconds"),
    [
        ("systemctl stop haproxy", "systemctl start haproxy", 1),
        # Nobody starts it again.
        (
            "systemctl mask --runtime haproxy && systemctl kill --signal KILL haproxy",
            "systemctl unmask --runtime haproxy && systemctl start haproxy",
            MOVE_SECONDS,
        ),
        ("systemctl kill --signal STOP haproxy", "systemctl kill --signal CONT haproxy", MOVE_SECONDS + 3),
        ("systemctl stop keepalived", "systemctl start keepalived", 1),
        ("systemctl kill --signal KILL keepalived", "true", MOVE_SECONDS),
    ],
    ids=["haproxy-stopped", "haproxy-killed", "haproxy-hangs", "keepalived-stopped", "keepalived-killed"],
)
def test_the_address_moves_when_a_daemon_of_its_host_is_gone(fault, remedy, seconds):
    before = holder()
    with Visits() as visits:
        node(before).check_output(fault)
        try:
            time.sleep(8)
        finally:
            node(before).check_output(remedy)
        time.sleep(2)
    assert visits.gap < seconds, visits
    assert remedy == "true" or holder() != before


@pytest.mark.slow
def test_haproxy_comes_back_at_once_where_it_dies():
    before = holder()
    with Visits() as visits:
        node(before).check_output("systemctl kill --signal KILL haproxy")
        time.sleep(4)
    assert visits.gap < MOVE_SECONDS, visits


@pytest.mark.slow
def test_a_host_that_was_cut_off_comes_back_by_another_device():
    before, network = holder(), docker.from_env().networks.get(contract("stack"))
    own = contract("host_address", before)
    with Visits() as visits:
        network.disconnect(container(before))
        try:
            time.sleep(6)
        finally:
            network.connect(container(before), ipv4_address=own)
        time.sleep(6)
    assert visits.gap < MOVE_SECONDS, visits
    after = holder()
    assert after != before
    # And it could have the address again.
    node(after).check_output("systemctl stop keepalived")
    try:
        eventually(lambda: holders() == [before], 10)
        eventually(lambda: visitor().get(BASE, timeout=2).status_code == 200, 10)
    finally:
        node(after).check_output("systemctl start keepalived")


# -- The web hosts ----------------------------------------------------------------------------------------------------


def test_who_asks_is_known_behind_the_edge():
    """By the address of this machine, as the containers see it, and nothing that anybody says of himself."""
    own = f"{contract('node_network')}.1"
    for forged in ({}, {"X-Forwarded-For": "203.0.113.9"}):
        mark = f"/nowhere-{time.monotonic_ns()}"
        assert visitor().get(BASE + mark, headers=forged, timeout=10).status_code == 404
        lines = [
            line
            for host in WEBS
            for line in node(host).check_output("tail -n 200 /var/log/nginx/access.log").splitlines()
            if mark in line
        ]
        assert [line.split()[0] for line in lines] == [own]


def test_a_web_host_is_for_the_edge_alone():
    for host in WEBS:
        with pytest.raises(TimeoutError):
            socket.create_connection((contract("host_address", host), SITE_PORT), 2)


UNPROXIED = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as link:
    link.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print(link.recv(99))
"""


def test_who_does_not_say_for_whom_he_speaks_is_not_understood():
    """Even from an edge, which alone is let in."""
    command = f"python3 -c {quote(UNPROXIED)} {contract('host_address', WEBS[0])} {SITE_PORT}"
    assert node(EDGES[0]).check_output(command) == "b''"


def test_an_edge_s_own_questions_are_not_written_down():
    before = requests_of(WEBS[0])
    time.sleep(4)
    assert requests_of(WEBS[0]) - before < 2


@pytest.mark.slow
def test_a_web_host_that_is_gone_is_not_asked():
    with Visits() as visits:
        with killed(WEBS[0]):
            time.sleep(8)
            assert {servers(host)[WEBS[0]] for host in EDGES} == {"DOWN"}
        time.sleep(2)
    # What was being asked when it went.
    assert len(visits.failed) <= 3, visits
    assert visits.slowest < MOVE_SECONDS, visits


def test_nginx_that_was_stopped_fails_no_request():
    with Visits() as visits:
        node(WEBS[0]).check_output("systemctl stop nginx")
        try:
            time.sleep(5)
            assert {servers(host)[WEBS[0]] for host in EDGES} == {"DOWN"}
        finally:
            node(WEBS[0]).check_output("systemctl start nginx")
        time.sleep(2)
    assert visits.failed == [], visits


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["nginx", "gunicorn-producer"])
def test_a_web_host_that_hangs_is_left_alone(unit):
    with Visits() as visits:
        node(WEBS[0]).check_output(f"systemctl kill --signal STOP {unit}")
        try:
            eventually(lambda: {servers(host)[WEBS[0]] for host in EDGES} == {"DOWN"}, HANG_SECONDS)
            left = time.monotonic()
            # It never answers: whoever waits there is cut off.
            time.sleep(HANG_SECONDS)
        finally:
            node(WEBS[0]).check_output(f"systemctl kill --signal CONT {unit}")
    assert visits.slowest < HANG_SECONDS, visits
    assert [visit for visit in visits.failed if visit.began > left + 1] == [], visits


@pytest.mark.slow
def test_when_no_web_host_is_well_they_are_asked_all_the_same():
    """What is asked for their health is not there; all the rest is."""
    conf, reload = "/etc/nginx/conf.d/quintet.conf", "systemctl reload nginx"
    ill = f"sed -i 's#^    server_tokens off;#&\\n    location = {PATH} {{ return 500; }}#' {conf} && {reload}"
    with contextlib.ExitStack() as stack:
        for host in WEBS:
            node(host).check_output(f"cp -p {conf} /root/quintet.conf")
            stack.callback(node(host).check_output, f"mv /root/quintet.conf {conf} && {reload}")
            node(host).check_output(ill)
        eventually(lambda: set(servers(holder()).values()) == {"DOWN"}, 20)
        assert visitor().get(f"{BASE}{PATH}", timeout=10).status_code == 500
        assert visitor().get(BASE, timeout=10).status_code == 200


def tell(state):
    """Have each edge lead people to the first web host (`ready`), or nobody who is new (`drain`)."""
    for host in EDGES:
        for port in contract("edge_ports"):
            proxy = PROXY.replace(f":{PORT}", f":{port}")
            node(host).check_output(f"quintet-haproxy set server {proxy}/{WEBS[0]} state {state}")


def test_who_waits_at_a_web_host_that_is_drained_is_answered():
    """Its application takes its time to start anew: it is down as any that does not answer, but expected back."""
    with Visits() as visits:
        node(WEBS[0]).check_output("systemctl kill --signal STOP gunicorn-producer")
        try:
            time.sleep(0.5)
            tell("drain")
            eventually(lambda: {servers(host)[WEBS[0]] for host in EDGES} == {"DOWN"}, HANG_SECONDS)
            # Until others would be left alone.
            time.sleep(HANG_SECONDS - 4)
        finally:
            node(WEBS[0]).check_output("systemctl kill --signal CONT gunicorn-producer")
            tell("ready")
    assert visits.failed == [], visits
    assert visits.slowest > HANG_SECONDS - 4, "nobody had to wait there"


def test_who_waits_at_a_web_host_that_is_busy_is_answered():
    """It does not answer in time, as one that has too much to do, and is down for some seconds."""
    with Visits() as visits:
        node(WEBS[0]).check_output("systemctl kill --signal STOP gunicorn-producer")
        try:
            eventually(lambda: {servers(host)[WEBS[0]] for host in EDGES} == {"DOWN"}, HANG_SECONDS)
            # Until one that takes no connection would be left alone.
            time.sleep(12)
        finally:
            node(WEBS[0]).check_output("systemctl kill --signal CONT gunicorn-producer")
        time.sleep(2)
    assert visits.failed == [], visits
    assert visits.slowest > 12, "nobody had to wait there"


def test_a_web_host_is_drained_and_nobody_notices():
    """It stays so over a reload and a deploy."""
    with Visits() as visits:
        time.sleep(2)
        tell("drain")
        try:
            time.sleep(1)
            before = requests_of(WEBS[0])
            node(WEBS[0]).check_output("systemctl restart nginx gunicorn-producer")
            time.sleep(3)
            assert requests_of(WEBS[0]) == before
            for host in EDGES:
                node(host).check_output("systemctl reload haproxy")
            time.sleep(2)
            assert deploy(limit=",".join(EDGES))[0] == 0
            for host in EDGES:
                assert servers(host) == {WEBS[0]: "DRAIN", **dict.fromkeys(WEBS[1:], "UP")}
            assert requests_of(WEBS[0]) == before
        finally:
            tell("ready")
        eventually(lambda: requests_of(WEBS[0]) > before + 10, 10)
    assert visits.failed == [], visits
