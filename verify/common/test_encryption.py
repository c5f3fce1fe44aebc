"""Every link between hosts: encrypted, with a service's own name, and for nobody without a certificate of ours."""

import threading
from shlex import quote

import pytest

from verify import FIRST, TOPOLOGY, contract, deploy, eventually, manage, node
from verify.links import foreign, handshake, issued, refused, wrong_certificates
from verify.tiers import CLUSTERED, PATRONI, REPLICATED, UNITS

# Each service's port on its host, and whether whoever reaches it needs a certificate, as (name, host, port, mutual).
LINKS = [
    (proxy["name"], server["name"], server["port"], proxy["tls"])
    for proxy in contract("proxies")
    for server in proxy["servers"]
]
IDS = [f"{name.split('.')[0]}-{port}" for name, _, port, _ in LINKS]
MUTUAL = pytest.mark.parametrize(
    "link",
    [link for link in LINKS if link[3]],
    ids=[name for name, link in zip(IDS, LINKS, strict=True) if link[3]],
)


@pytest.mark.parametrize("link", LINKS, ids=IDS)
def test_a_service_has_its_name_and_the_newest_version(link):
    seen = handshake(link)
    assert seen["version"] == "TLSv1.3"
    assert set(seen["names"]) == set(contract("host_certificates")[link[1]])
    assert not seen["closed"]


@pytest.mark.parametrize("link", LINKS, ids=IDS)
def test_an_older_version_is_refused(link):
    assert "alert" in handshake(link, version="TLSv1_2")["refused"]


@pytest.mark.parametrize("link", LINKS, ids=IDS)
def test_the_wrong_name_is_refused_by_the_client(link):
    assert "Hostname mismatch" in handshake(link, name="other.quintet.internal")["refused"]


@MUTUAL
def test_who_has_no_certificate_of_ours_is_refused(link, tmp_path):
    for identity in ("", *wrong_certificates(FIRST, tmp_path).values()):
        assert refused(seen := handshake(link, identity=identity)), seen
    # One that is made in the same way, and good, is not.
    assert handshake(link, identity=issued(["x"]))["closed"] is False


@pytest.mark.slow
def test_the_management_page_is_encrypted_where_its_url_says_so():
    """As on real servers; on containers people come in the clear, from this machine."""
    host = TOPOLOGY.hosts("rabbitmq")[0]
    address, port = (contract(f"rabbitmq_management_{name}", host) for name in ("address", "port"))
    link, more = (contract("service_names.broker"), host, port, True), {"address": address, "identity": ""}
    try:
        deploy(limit="rabbitmq", extra={"management_url": f"https://{address}:{port}"})
        seen = handshake(link, host, **more)
        assert (seen["version"], seen["closed"]) == ("TLSv1.3", False)
        assert set(seen["names"]) == set(contract("host_certificates")[host])
        hello = b"GET / HTTP/1.0\r\n\r\n".hex()
        said = node(host).check_output(f"python3 -c {quote(CLEAR)} {address} {port} {hello}")
        assert said == "closed" or said.startswith(ALERT)
    finally:
        deploy(limit="rabbitmq")


CLEAR = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as link:
    link.sendall(bytes.fromhex(sys.argv[3]))
    try:
        print(link.recv(100).hex() or "closed")
    except ConnectionResetError:
        print("closed")
"""
HELLO = {contract("service_names.redis"): b"PING\r\n", contract("service_names.broker"): b"AMQP\x00\x00\x09\x01"}
# What TLS answers to what it takes for nonsense.
ALERT = "1503"


@MUTUAL
def test_nothing_is_said_in_the_clear(link):
    """PostgreSQL's clients begin in the clear by their protocol: see test_postgresql."""
    name, host, port, _ = link
    words = [quote(CLEAR), contract("host_addresses")[host], str(port), HELLO[name].hex()]
    said = node(FIRST).check_output(f"python3 -c {' '.join(words)}")
    assert said == "closed" or said.startswith(ALERT)


IMPOSTOR = """
import socket, ssl, sys, time
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1])
with socket.create_server((sys.argv[2], int(sys.argv[3]))) as server:
    server.settimeout(20)
    # All who come within ten seconds of the first, and not a second after another.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            link, _ = server.accept()
        except TimeoutError:
            break
        if server.gettimeout() > 1:
            deadline = time.monotonic() + 10
            server.settimeout(1)
        link.settimeout(10)
        try:
            if sys.argv[4] == "asked":
                # PostgreSQL's clients ask first, in the clear, whether TLS may begin.
                link.recv(8)
                link.sendall(b"S")
            with context.wrap_socket(link, server_side=True) as secure:
                heard = secure.recv(100)
            print(*(["heard", heard] if heard else ["left"]))
        except OSError as exc:
            print("refused", exc)
"""
# Whom somebody could pose as, with its port and its unit. Of several hosts of PostgreSQL Patroni says who leads.
POSED = [
    pytest.param("redis", contract("cache_port"), "redis-server@cache", id="redis"),
    pytest.param("rabbitmq", contract("broker_tls_port"), "rabbitmq-server", id="rabbitmq", marks=pytest.mark.slow),
    *(
        [pytest.param("postgresql", contract("database_port"), UNITS["postgresql"][0], id="postgresql")]
        if not PATRONI
        else []
    ),
]


@pytest.mark.parametrize(("group", "port", "unit"), POSED)
def test_an_impostor_hears_nothing(group, port, unit, tmp_path):
    """Somebody answers in the place of a service: by another authority, after its time, or in another's name."""
    host = TOPOLOGY.hosts(group)[0]
    server, address = node(host), contract("host_addresses")[host] if host != FIRST else "127.0.0.1"
    shown = wrong_certificates(host, tmp_path) | {"misnamed": issued(["other.quintet.internal"])}

    def hears(identity):
        """What the impostor says of those who come, as lines."""
        heard = []
        server.check_output(f"umask 077; cat >/run/impostor.pem <<'QUINTET'\n{identity}\nQUINTET")
        words = f"/run/impostor.pem {address} {port} {'asked' if group == 'postgresql' else 'at-once'}"
        command = f"python3 -c {quote(IMPOSTOR)} {words}"
        impostor = threading.Thread(target=lambda: heard.extend(server.check_output(command).splitlines()))
        impostor.start()
        # Where HAProxy asks several whether they are well, it may have been heard by now.
        eventually(lambda: heard or server.run(f"ss -Hltn sport = :{port}").stdout, 10)
        node(FIRST).run("timeout 30 quintet-manage producer health")
        impostor.join(60)
        return heard

    server.check_output(f"systemctl stop {unit}")
    try:
        said = {name: hears(identity) for name, identity in shown.items()}
        good = hears(issued(contract("host_certificates")[host]))
    finally:
        server.check_output(f"rm -f /run/impostor.pem; systemctl start {unit}")
    # libpq looks at the name when TLS is there, and then says nothing. Redis and its Sentinels look at the authority of
    # another, and not at its name (docs/decisions/0016-redis-and-sentinel.md).
    own = ("sentinel", "replica") if group == "redis" and REPLICATED else ()
    told = {name: [word for word in who if word.startswith("heard")] for name, who in said.items()}
    assert told["foreign"] + told["expired"] == []
    assert all(any(user in word for user in own) for word in told["misnamed"]), told
    assert any("alert" in word for word in said["foreign"]), said
    assert any("alert" in word for word in said["expired"]), said
    # Who leads our services to it is not among those.
    assert group == "postgresql" or any("alert" in word for word in said["misnamed"]), said
    # Who has a good certificate is spoken with.
    assert any(word.startswith("heard") for word in good), good
    eventually(lambda: manage(FIRST, "producer", "roundtrip")["ok"], 60)


@pytest.mark.slow
@pytest.mark.skipif(CLUSTERED, reason="members that trust different authorities would lose each other")
def test_a_site_brings_its_own_certificates(tmp_path):
    """Of another authority; jobs go through every tier, and what was ours is believed by nobody."""
    foreign(FIRST, tmp_path)
    identity = f"{{{{ lookup('ansible.builtin.file', '{tmp_path}/' ~ inventory_hostname ~ '.pem') }}}}"
    theirs = {
        "identity": (tmp_path / f"{FIRST}.pem").read_text(),
        "authorities": (tmp_path / "authorities.pem").read_text(),
    }
    extra = {"tls_identity": identity, "tls_authorities": theirs["authorities"]}
    try:
        deploy(extra=extra)
        for link in LINKS:
            assert handshake(link, **theirs)["closed"] is False
            assert "CERTIFICATE_VERIFY_FAILED" in handshake(link)["refused"]
        for link in (link for link in LINKS if link[3]):
            assert refused(seen := handshake(link, **theirs | {"identity": contract("tls_identity")})), seen
        assert deploy(extra=extra)[0] == 0
    finally:
        deploy()


# Looks until there is a file /run/captured, which takes as long as what is looked at.
CAPTURE = """
import os, pathlib, socket, sys, time
wanted = sys.argv[1].encode()
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
link.bind((sys.argv[2], 0))
link.settimeout(0.2)
found = packets = 0
pathlib.Path("/run/capturing").touch()
deadline = time.monotonic() + 120
while time.monotonic() < deadline and not os.path.exists("/run/captured"):
    try:
        packet = link.recv(65535)
    except TimeoutError:
        continue
    packets += 1
    found += wanted in packet
print(packets, found)
"""


def captured(host, interface, wanted, act):
    """How many packets a host's interface sees while something is done, and how many have these words in them."""
    seen, machine = [], node(host)
    command = f"python3 -c {quote(CAPTURE)} {wanted} {interface}"
    thread = threading.Thread(target=lambda: seen.append(machine.check_output(command)))
    thread.start()
    try:
        eventually(lambda: machine.file("/run/capturing").exists, 30)
        act()
    finally:
        machine.run("touch /run/captured")
        thread.join()
        machine.run("rm -f /run/capturing /run/captured")
    packets, found = seen[0].split()
    return int(packets), int(found)


@pytest.mark.skipif(len(TOPOLOGY.hosts()) == 1, reason="there is no wire")
def test_no_words_are_on_the_wire():
    canary = "canary7f3a9c"

    def act():
        assert manage(FIRST, "producer", "roundtrip")["ok"]
        assert manage(FIRST, "producer", "call", "adding_task", f'"{canary}"', '"x"')["result"]

    for host in {host for _, host, _, _ in LINKS}:
        packets, found = captured(host, "eth0", canary, act)
        assert packets > 10
        assert found == 0
    # And yet this way of looking finds them: on loopback, before they are encrypted.
    assert captured(FIRST, "lo", canary, act)[1] > 0
