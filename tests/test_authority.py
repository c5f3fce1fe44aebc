"""Certificates that the controller makes: for whom, by whom, for how long, and when they are made anew."""

import datetime
import os
import stat

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from tests.samples import module

authority = module("certificate_authority")
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
HOSTS = {"redis1": ["redis1.example", "redis.example"], "web1": ["web1.example"]}


def fill(directory, days=0, certificates=HOSTS, dry=False, **succession):
    """Deploy so many days later: gives the files that were made."""
    store = authority.Store(str(directory), NOW + datetime.timedelta(days=days), 730, 3650, dry, **succession)
    store.fill(certificates)
    return store.made


def trusted(directory):
    return x509.load_pem_x509_certificates((directory / "authorities.pem").read_bytes())


def verify(directory, name, host, days=1):
    """As a client does that trusts our authorities and expects this name; gives the certificate."""
    certificate = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
    policy = PolicyBuilder().store(Store(trusted(directory))).time(NOW + datetime.timedelta(days=days))
    policy.build_server_verifier(x509.DNSName(host)).verify(certificate, [])
    policy.build_client_verifier().verify(certificate, [])
    return certificate


def test_each_host_has_a_certificate_for_its_names(tmp_path):
    assert fill(tmp_path) == ["authority-1.pem", "authorities.pem", "redis1.pem", "web1.pem"]
    for host in HOSTS["redis1"]:
        verify(tmp_path, "redis1", host)
    with pytest.raises(VerificationError):
        verify(tmp_path, "web1", "redis.example")


def test_a_stranger_s_certificate_is_refused(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
        fill(directory)
    (theirs / "authorities.pem").write_bytes((ours / "authorities.pem").read_bytes())
    with pytest.raises(VerificationError):
        verify(theirs, "redis1", "redis.example")


def test_a_second_deploy_makes_nothing(tmp_path):
    fill(tmp_path)
    assert fill(tmp_path, days=360) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("nonsense"),
        lambda path: path.write_bytes(path.read_bytes()[:500]),
        lambda path: path.write_bytes(path.with_name("redis1.pem").read_bytes()),
    ],
    ids=["gone", "nonsense", "cut off", "another host's"],
)
def test_what_is_no_good_is_made_anew(tmp_path, spoil):
    fill(tmp_path)
    spoil(tmp_path / "web1.pem")
    assert fill(tmp_path, days=1) == ["web1.pem"]
    verify(tmp_path, "web1", "web1.example", days=2)


def test_other_names_make_another_certificate(tmp_path):
    fill(tmp_path)
    assert fill(tmp_path, certificates=HOSTS | {"web1": ["web1.example", "redis.example"]}) == ["web1.pem"]
    verify(tmp_path, "web1", "redis.example")


def test_it_is_renewed_at_half_time(tmp_path):
    fill(tmp_path)
    assert fill(tmp_path, days=366) == ["redis1.pem", "web1.pem"]
    verify(tmp_path, "redis1", "redis.example", days=366 + 729)
    with pytest.raises(VerificationError):
        verify(tmp_path, "redis1", "redis.example", days=366 + 731)


def test_an_authority_has_a_successor_that_is_trusted_long_before_it_signs(tmp_path):
    """A deploy every half year, for twenty years: whoever deployed one year later than another still trusts it."""
    fill(tmp_path)
    before, signers = trusted(tmp_path), set()
    for days in range(0, 20 * 365, 182):
        fill(tmp_path, days=days)
        for host, names in HOSTS.items():
            found = verify(tmp_path, host, names[0], days=days + 1)
            signers.add(found.issuer)
            assert found.issuer in [one.subject for one in before], "a host that is one deploy behind would refuse it"
        before = trusted(tmp_path)
    assert len(signers) == 3
    assert len(before) <= 2


def test_an_authority_is_succeeded_in_three_steps_each_of_which_those_before_and_after_it_trust(tmp_path):
    fill(tmp_path)
    before, steps = trusted(tmp_path), {"trusted": [], "signs": ["redis1.pem", "web1.pem"], "alone": []}
    old = (tmp_path / "redis1.pem").read_bytes()
    for step, made in steps.items():
        found = fill(tmp_path, successor=2, succession=step)
        assert [name for name in found if not name.startswith("authorit")] == made
        assert fill(tmp_path, successor=2, succession=step) == [], "a step that is repeated makes something"
        signer = verify(tmp_path, "redis1", "redis.example").issuer
        assert signer in [one.subject for one in before], "a host that is one step behind would refuse it"
        before = trusted(tmp_path)
    assert fill(tmp_path) == [], "a deploy afterwards makes something"
    assert not (tmp_path / "authority-1.pem").exists()
    (tmp_path / "redis1.pem").write_bytes(old)
    with pytest.raises(VerificationError):
        verify(tmp_path, "redis1", "redis.example")


def test_only_its_owner_reads_it(tmp_path):
    before = os.umask(0o077)
    try:
        fill(tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_dry_run_writes_nothing(tmp_path):
    assert fill(tmp_path, dry=True) == ["authority-1.pem", "authorities.pem", "redis1.pem", "web1.pem"]
    assert not list(tmp_path.iterdir())
