"""The webhooks' certificate, over the years."""

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from wan22_operator.certificates import Certificates, current

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
HOSTS = ["webhook.ns.svc", "127.0.0.1"]


def test_good_certificates_stay() -> None:
    have = current(None, HOSTS, NOW)
    assert current(have, HOSTS, NOW + datetime.timedelta(days=30)) == have


def test_the_server_certificate_is_renewed_before_it_ends_under_the_same_ca() -> None:
    have = current(None, HOSTS, NOW)
    renewed = current(have, HOSTS, NOW + datetime.timedelta(days=70))
    assert (renewed.ca, renewed.ca_key) == (have.ca, have.ca_key)
    assert renewed.server != have.server


def test_another_host_needs_another_certificate() -> None:
    have = current(None, HOSTS, NOW)
    renewed = current(have, [*HOSTS, "elsewhere.example"], NOW)
    assert renewed.ca == have.ca
    assert renewed.server != have.server


def test_a_new_ca_is_trusted_beside_the_old_one_for_a_while() -> None:
    have = current(None, HOSTS, NOW)
    renewed = current(have, HOSTS, NOW + datetime.timedelta(days=3640))
    assert len(x509.load_pem_x509_certificates(renewed.ca.encode())) == 2
    assert renewed.ca.endswith(have.ca)


def test_what_is_broken_is_made_anew() -> None:
    assert current(Certificates("x", "x", "x", "x"), HOSTS, NOW).ca.startswith("-----BEGIN CERTIFICATE-----")
    assert Certificates.from_secret({"ca.crt": "!"}) is None


def test_a_client_accepts_it(tmp_path: Path) -> None:
    made = current(None, HOSTS, datetime.datetime.now(datetime.UTC))
    assert Certificates.from_secret(made.secret_data()) == made
    chain = tmp_path / "chain.pem"
    chain.write_text(made.server + made.server_key)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cadata=made.ca)
    server.load_cert_chain(chain)
    ends = [(ssl.MemoryBIO(), ssl.MemoryBIO())]
    (to_server, to_client) = ends[0]
    a = client.wrap_bio(to_client, to_server, server_hostname=HOSTS[0])
    b = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (a, b):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert a.version() == "TLSv1.3"
