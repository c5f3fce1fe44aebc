"""Every link between hosts: encrypted, with a service's own name, and for nobody without a certificate of ours."""

import datetime
import json
import threading
from pathlib import Path
from shlex import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.samples import module
from verify import FIRST, TOPOLOGY, contract, eventually, manage, node
from verify.tiers import PATRONI, UNITS

authority = module("certificate_authority")
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

# Prints what was refused, or else the version, the names, and whether the server closed the link.
HANDSHAKE = """
import json, os, socket, ssl, sys, tempfile
given = json.load(sys.stdin)
with tempfile.TemporaryDirectory() as directory:
    for name in ("identity", "authorities"):
        with open(os.path.join(directory, name), "w") as file:
            file.write(given[name])
    context = ssl.create_default_context(cafile=os.path.join(directory, "authorities"))
    if given["identity"]:
        context.load_cert_chain(os.path.join(directory, "identity"))
if given["alpn"]:
    context.set_alpn_protocols([given["alpn"]])
context.minimum_version = context.maximum_version = ssl.TLSVersion[given["version"]]
try:
    with socket.create_connection((given["address"], given["port"]), 5) as plain:
        with context.wrap_socket(plain, server_hostname=given["name"]) as link:
            # With TLS 1.3 a server says only now that it does not want the client's certificate.
            link.settimeout(1)
            try:
                closed = link.recv(1) == b""
            except TimeoutError:
                closed = False
            names = [name for _, name in link.getpeercert()["subjectAltName"]]
            print(json.dumps({"version": link.version(), "names": names, "closed": closed}))
except OSError as exc:
    print(json.dumps({"refused": f"{type(exc).__name__}: {exc}"}))
"""


def own(name):
    """A file of the authority, on the controller."""
    return contract(name, FIRST)


def handshake(link, client=FIRST, **more):
    """What a client, on the first web host, sees of a service."""
    name, host, port, mutual = link
    given = {
        "name": name,
        "address": contract("host_addresses")[host],
        "port": port,
        # PostgreSQL wants to hear it, if TLS begins at once.
        "alpn": "" if mutual else "postgresql",
        "version": "TLSv1_3",
        "identity": own("tls_identity"),
        "authorities": own("tls_authorities"),
    } | more
    result = node(client).run(f"python3 -c {quote(HANDSHAKE)} <<'QUINTET'\n{json.dumps(given)}\nQUINTET")
    assert result.rc == 0, result.stderr
    return json.loads(result.stdout)


def foreign(host, directory):
    """A certificate with the right names, by an authority that calls itself like ours."""
    now = datetime.datetime.now(datetime.UTC)
    authority.Store(str(directory), now, 730, 3650).fill(contract("host_certificates"))
    return (directory / f"{host}.pem").read_text()


def issued(names, days_ago=0):
    """A certificate of our own authority, good for a month."""
    pem = min(Path(contract("secrets_dir"), "tls").glob("authority-*.pem")).read_bytes()
    signer, key = x509.load_pem_x509_certificate(pem), serialization.load_pem_private_key(pem, None)
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days_ago)
    own_key = ec.generate_private_key(ec.SECP256R1())
    known = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    made = authority.signed("x", own_key.public_key(), signer.subject, key, then, 30, [(known, False)])
    return authority.as_pem(made, own_key).decode()


def wrong_certificates(host, directory):
    """By what is wrong with it, what a host must not be believed; who asks a service needs no name."""
    names = contract("host_certificates")[host]
    return {"foreign": foreign(host, directory), "expired": issued(names, days_ago=40)}


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
        seen = handshake(link, identity=identity)
        assert seen.get("closed") or "alert" in seen.get("refused", ""), seen
    # One that is made in the same way, and good, is not.
    assert handshake(link, identity=issued(["x"]))["closed"] is False


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
import socket, ssl, sys
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1])
with socket.create_server((sys.argv[2], int(sys.argv[3]))) as server:
    server.settimeout(20)
    link, _ = server.accept()
    link.settimeout(10)
    try:
        if sys.argv[4] == "asked":
            # PostgreSQL's clients ask first, in the clear, whether TLS may begin.
            link.recv(8)
            link.sendall(b"S")
        with context.wrap_socket(link, server_side=True) as secure:
            print("heard", secure.recv(100))
    except OSError as exc:
        print("refused", exc)
"""
# Whom somebody could pose as, with its port and its unit. Of several hosts of PostgreSQL Patroni says who leads.
POSED = [
    pytest.param("redis", contract("cache_port"), "redis-server@cache", id="redis"),
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
        """What the impostor says of the first who comes."""
        heard = []
        server.check_output(f"umask 077; cat >/run/impostor.pem <<'QUINTET'\n{identity}\nQUINTET")
        words = f"/run/impostor.pem {address} {port} {'asked' if group == 'postgresql' else 'at-once'}"
        command = f"python3 -c {quote(IMPOSTOR)} {words}"
        impostor = threading.Thread(target=lambda: heard.append(server.run(command).stdout.strip()))
        impostor.start()
        # Where HAProxy asks several whether they are well, it may have been heard by now.
        eventually(lambda: heard or server.run(f"ss -Hltn sport = :{port}").stdout, 10)
        node(FIRST).run("timeout 30 quintet-manage producer health")
        impostor.join(30)
        return heard[0]

    server.check_output(f"systemctl stop {unit}")
    try:
        said = {name: hears(identity) for name, identity in shown.items()}
        good = hears(issued(contract("host_certificates")[host]))
    finally:
        server.check_output(f"rm -f /run/impostor.pem; systemctl start {unit}")
    # libpq looks at the name when TLS is there, and then says nothing.
    assert all(word.startswith("refused") or word == "heard b''" for word in said.values()), said
    assert "refused" in said["foreign"]
    assert "refused" in said["expired"]
    # Who has a good certificate is spoken with.
    assert good.startswith("heard b'"), good
    assert good != "heard b''"
    eventually(lambda: manage(FIRST, "producer", "roundtrip")["ok"], 60)


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
