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


def handshake(link, **more):
    """What a client on the first web host sees of a service."""
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
    result = node(FIRST).run(f"python3 -c {quote(HANDSHAKE)} <<'QUINTET'\n{json.dumps(given)}\nQUINTET")
    assert result.rc == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def foreign(tmp_path):
    """A certificate with the right names, by an authority that calls itself like ours."""

    authority.Store(str(tmp_path), datetime.datetime.now(datetime.UTC), 730, 3650).fill(contract("host_certificates"))
    return (tmp_path / f"{FIRST}.pem").read_text()


@pytest.fixture
def expired():
    """A certificate of our own authority, which was good for a month and is over."""
    pem = min(Path(contract("secrets_dir"), "tls").glob("authority-*.pem")).read_bytes()
    signer, key = x509.load_pem_x509_certificate(pem), serialization.load_pem_private_key(pem, None)
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=40)
    own_key = ec.generate_private_key(ec.SECP256R1())
    made = authority.signed("x", own_key.public_key(), signer.subject, key, then, 30, [])
    return authority.as_pem(made, own_key).decode()


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
def test_who_has_no_certificate_of_ours_is_refused(link, foreign, expired):
    for identity in ("", foreign, expired):
        seen = handshake(link, identity=identity)
        assert seen.get("closed") or "alert" in seen.get("refused", ""), seen


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
    print("ready", flush=True)
    link, _ = server.accept()
    try:
        with context.wrap_socket(link, server_side=True) as secure:
            print("heard", secure.recv(100))
    except OSError as exc:
        print("refused", exc)
"""


def test_an_impostor_hears_nothing(foreign):
    """Somebody answers in the place of Redis, with a certificate that another authority has made for its name."""
    _, host, port, _ = next(link for link in LINKS if link[2] == contract("cache_port"))
    server, heard = node(host), []
    address = contract("host_addresses")[host] if host != FIRST else "127.0.0.1"
    server.check_output("systemctl stop redis-server@cache")
    try:
        server.check_output(f"cat >/run/impostor.pem <<'QUINTET'\n{foreign}\nQUINTET")
        command = f"python3 -c {quote(IMPOSTOR)} /run/impostor.pem {address} {port}"
        impostor = threading.Thread(target=lambda: heard.append(server.run(command).stdout))
        impostor.start()
        # Where HAProxy asks several whether they are well, it may have been heard by now.
        eventually(lambda: heard or server.run(f"ss -Hltn sport = :{port}").stdout, 10)
        node(FIRST).run("quintet-manage producer health")
        impostor.join(30)
    finally:
        server.check_output("rm -f /run/impostor.pem; systemctl start redis-server@cache")
    assert "refused" in heard[0], heard
    assert "heard" not in heard[0]
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
