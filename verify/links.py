"""What somebody sees of a link between hosts, with a certificate of ours or with another."""

import datetime
import json
from pathlib import Path
from shlex import quote

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.samples import module
from verify import FIRST, contract, node

authority = module("certificate_authority")

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
        "identity": contract("tls_identity"),
        "authorities": contract("tls_authorities"),
    } | more
    result = node(client).run(f"python3 -c {quote(HANDSHAKE)} <<'QUINTET'\n{json.dumps(given)}\nQUINTET")
    assert result.rc == 0, result.stderr
    return json.loads(result.stdout)


def refused(seen):
    """Whether a handshake came to nothing because of the client's certificate."""
    return seen.get("closed") or "alert" in seen.get("refused", "")


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
