#!/usr/bin/python
"""An internal certificate authority and the certificates of all hosts, in one directory and one call."""

DOCUMENTATION = r"""
module: certificate_authority
short_description: An internal authority, and a certificate of it for each host
description:
  - Runs on the controller. Makes what is missing, what names something else than wanted, and what has less than half of
    its time left. The rest stays as it is.
  - C(<name>.pem) is a certificate with its key, for servers and clients. C(authorities.pem) is whom to trust. All are
    readable by their owner alone.
  - An authority gets a successor long before it ends. The successor is trusted at once and signs only when certificates
    of its predecessor would outlive it, so that every deploy in between, a year long by default, lets the hosts know.
  - Somebody in a hurry makes one by C(successor), and leads it through the same steps by C(succession).
options:
  directory:
    description: Where authorities and certificates are kept.
    type: path
    required: true
  certificates:
    description: The DNS names that each certificate is for, by the name of its file.
    type: dict
    required: true
  days:
    description: Days that a certificate is valid.
    type: int
    default: 730
  authority_days:
    description: Days that an authority is valid; more than twice as many.
    type: int
    default: 3650
  successor:
    description: Number of an authority that is to succeed those before it at once. None by default.
    type: int
    default: 0
  succession:
    description: How far it has come. It is trusted as well, or also signs, or is the only one, and the others are gone.
    type: str
    choices: [trusted, signs, alone]
    default: trusted
author: Quintet
"""

EXAMPLES = r"""
- name: Make certificates
  certificate_authority:
    directory: inventories/.secrets/quintet/tls
    certificates:
      redis1: [redis1.quintet.internal, redis.quintet.internal]
  delegate_to: localhost
"""

RETURN = r"""
made:
  description: The files that were made, such as C(redis1.pem).
  type: list
  returned: always
removed:
  description: The files of authorities that were succeeded.
  type: list
  returned: always
"""

import datetime
import fcntl
import ipaddress
import os
import re

from ansible.module_utils.basic import AnsibleModule
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY = re.compile(r"authority-([0-9]+)\.pem")
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def usage(*names):
    """The extension that permits a key these usages."""
    return x509.KeyUsage(**{name: name in names for name in USAGES})


def subject(name):
    """A distinguished name with nothing but this."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def signed(name, key, issuer, issuer_key, now, days, extensions):
    """A certificate of a public key by an issuer."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A host's clock may be behind the controller's.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256())


def as_pem(certificate, key):
    """A certificate with its key, as one text."""
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def general_name(name):
    """A name as a certificate has it: of a host, or an address."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def names_of(certificate):
    """The names and addresses that a certificate is for."""
    return {
        str(name.value) for name in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    }


class Store:
    """The directory. `now` is aware of its time zone; with `dry` nothing is written."""

    def __init__(self, directory, now, days, authority_days, dry=False, successor=0, succession="trusted"):
        self.directory, self.now, self.days, self.authority_days, self.dry = directory, now, days, authority_days, dry
        self.successor, self.succession = successor, succession
        self.made, self.removed = [], []

    def content(self, name):
        """The bytes of a file; none, if there is none."""
        try:
            with open(os.path.join(self.directory, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def read(self, name):
        """The certificate and the key in a file, or nothing if it has not both."""
        text = self.content(name)
        try:
            return x509.load_pem_x509_certificate(text), serialization.load_pem_private_key(text, None)
        except ValueError:
            return None

    def write(self, name, content):
        """A file, whole or not at all."""
        self.made.append(name)
        if not self.dry:
            path = os.path.join(self.directory, name)
            with open(f"{path}.new", "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{path}.new", path)

    def days_left(self, certificate):
        return (certificate.not_valid_after_utc - self.now) / datetime.timedelta(days=1)

    def authorities(self):
        """Those that are valid, by number, each with its key; a new one if the last ends soon, or is to succeed."""
        names = os.listdir(self.directory) if os.path.isdir(self.directory) else []
        numbers = sorted(int(match[1]) for match in map(AUTHORITY.fullmatch, names) if match)
        found = {number: one for number in numbers if (one := self.read(f"authority-{number}.pem"))}
        found = {number: one for number, one in found.items() if self.days_left(one[0]) > 0}
        last = max(numbers, default=0)
        if not found or last < self.successor or self.days_left(found[max(found)][0]) < 1.5 * self.days:
            new = max(last + 1, self.successor)
            found[new] = self.new_authority(new)
        if self.succession == "alone":
            for number in [number for number in numbers if number < self.successor]:
                self.remove(f"authority-{number}.pem")
                found.pop(number, None)
        return found

    def remove(self, name):
        self.removed.append(name)
        if not self.dry:
            os.remove(os.path.join(self.directory, name))

    def new_authority(self, number):
        key = ec.generate_private_key(ec.SECP256R1())
        name = f"Quintet authority {number}"
        extensions = [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (usage("key_cert_sign", "crl_sign"), True),
        ]
        made = signed(name, key.public_key(), subject(name), key, self.now, self.authority_days, extensions)
        self.write(f"authority-{number}.pem", as_pem(made, key))
        return made, key

    def fits(self, found, names, signer):
        """Whether a certificate can stay."""
        certificate, key = found
        try:
            certificate.verify_directly_issued_by(signer)
        except Exception:
            return False
        return (
            names_of(certificate) == set(names)
            and certificate.public_key() == key.public_key()
            and self.days_left(certificate) > self.days / 2
        )

    def fill(self, certificates):
        """All that is wanted."""
        authorities = self.authorities()
        trusted = b"".join(one.public_bytes(serialization.Encoding.PEM) for one, _ in authorities.values())
        if self.content("authorities.pem") != trusted:
            self.write("authorities.pem", trusted)
        first = 0 if self.succession == "trusted" else self.successor
        candidates = [one for number, one in authorities.items() if number >= first]
        lasting = [one for one in candidates if self.days_left(one[0]) > self.days]
        signer, signer_key = (lasting or candidates[-1:])[0]
        for name, names in certificates.items():
            found = self.read(f"{name}.pem")
            if found and self.fits(found, names, signer):
                continue
            key = ec.generate_private_key(ec.SECP256R1())
            extensions = [
                (x509.SubjectAlternativeName([general_name(one) for one in names]), False),
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (usage("digital_signature"), True),
                (
                    x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH]),
                    False,
                ),
            ]
            made = signed(names[0], key.public_key(), signer.subject, signer_key, self.now, self.days, extensions)
            self.write(f"{name}.pem", as_pem(made, key))


def main():
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "directory": {"type": "path", "required": True},
            "certificates": {"type": "dict", "required": True},
            "days": {"type": "int", "default": 730},
            "authority_days": {"type": "int", "default": 3650},
            "successor": {"type": "int", "default": 0},
            "succession": {"type": "str", "choices": ["trusted", "signs", "alone"], "default": "trusted"},
        },
    )
    given = module.params
    if given["authority_days"] <= 2 * given["days"]:
        module.fail_json(msg="authority_days must be more than twice days")
    os.umask(0o077)
    now = datetime.datetime.now(datetime.UTC)
    store = Store(
        *(given["directory"], now, given["days"], given["authority_days"], module.check_mode),
        *(given["successor"], given["succession"]),
    )
    if module.check_mode:
        store.fill(given["certificates"])
    else:
        os.makedirs(given["directory"], exist_ok=True)
        # Two deploys of one stack make one authority.
        with open(os.path.join(given["directory"], ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            store.fill(given["certificates"])
    module.exit_json(changed=bool(store.made or store.removed), made=store.made, removed=store.removed)


if __name__ == "__main__":
    main()
