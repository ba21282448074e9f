"""Addresses, tokens and certificates: what is refused before anything is sent, and what TLS refuses."""

from __future__ import annotations

import numpy as np
import pytest

import certificates
import small_bundle
from splitveil_edge import Client, ServerError, UserError, transport
from stub_server import serving

IMAGE = np.zeros((1, 8, 8, 1), np.uint8)
needs_openssl = pytest.mark.skipif(certificates.OPENSSL is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge") / "bundle"
    return folder, small_bundle.make(folder)


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pems")
    return {
        "good": certificates.make(folder, "good"),
        "foreign": certificates.make(folder, "foreign"),
        "expired": certificates.make(folder, "expired", until="20210101000000Z"),
        "elsewhere": certificates.make(folder, "elsewhere", hosts="DNS:elsewhere.example"),
    }


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://models.example.org", "https://models.example.org:443"),
        ("http://localhost:8080/", "http://localhost:8080"),
        ("https://[::1]:8443/a/b/", "https://[::1]:8443/a/b"),
        ("http://bücher.example", "http://xn--bcher-kva.example:80"),
    ],
)
def test_addresses(url, said):
    assert str(transport.address(url)) == said


@pytest.mark.parametrize(
    "url",
    ["models.example.org", "ftp://a", "https://", "https://a:b", "https://a:99999", "http://a/b c", "https://a?b", ""],
)
def test_what_is_no_address_is_one_line(url):
    with pytest.raises(UserError, match=r"^url .*expected https://HOST:PORT"):
        transport.address(url)


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(UserError, match=r"with a user, \? or #.* give a token in a file") as caught:
        transport.address("https://me:hunter2@models.example.org")
    assert "hunter2" not in str(caught.value)


def test_a_token_needs_tls_but_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("SPLITVEIL_TOKEN", raising=False)
    far, near, own = (transport.address(url) for url in ("http://10.0.0.1", "http://127.0.0.2:1", "http://[::1]:1"))
    with pytest.raises(UserError, match=r"a token for http://10\.0\.0\.1:80, where anybody .*; use https://"):
        transport.read_token("secret", far)
    assert transport.read_token(None, far) is None
    assert transport.read_token("secret", near) == transport.read_token("secret", own) == "secret"
    with pytest.raises(UserError, match="holds a space or a letter that no token has") as caught:
        transport.read_token("sec\nret", near)
    assert "sec" not in str(caught.value).replace("no token has", "")
    with pytest.raises(UserError, match=r"cannot read the token in .*none: No such file"):
        transport.read_token(tmp_path / "none", near)
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="empty is empty; expected the token"):
        transport.read_token(tmp_path / "empty", near)


def test_files_of_certificates_that_hold_none(tmp_path):
    place = transport.address("https://localhost:1")
    (tmp_path / "not.pem").write_text("nothing")
    with pytest.raises(
        UserError, match=r"cannot read certificates from .*not\.pem: no certificate in it; expected PEM"
    ):
        transport.tls_context(place, tmp_path / "not.pem")
    with pytest.raises(UserError, match=r"gone\.pem: No such file"):
        transport.tls_context(place, tmp_path / "gone.pem")
    with pytest.raises(UserError, match=r"which is not encrypted; use https://"):
        transport.tls_context(transport.address("http://localhost"), tmp_path / "not.pem")


@needs_openssl
def test_a_trusted_certificate_is_accepted_and_the_connection_kept(made, pems):
    folder, bundle = made
    with serving(bundle, tls=pems["good"]) as stub:
        for url in (stub.url, stub.url.replace("127.0.0.1", "localhost")):
            with Client(url, folder, ca=pems["good"][0], token="secret") as client:
                assert len(client.classify(IMAGE) + client.classify(IMAGE)) == 2
    assert {asked.headers["Authorization"] for asked in stub.asked} == {"Bearer secret"}


@needs_openssl
@pytest.mark.parametrize(
    ("served", "trusted", "words"),
    [
        ("good", "foreign", "self-signed certificate"),
        ("good", None, "self-signed certificate"),
        ("expired", "expired", "certificate has expired"),
        ("elsewhere", "elsewhere", "IP address mismatch.*"),
    ],
)
def test_an_expired_or_foreign_certificate_or_host_is_one_line_and_nothing_is_sent(made, pems, served, trusted, words):
    folder, bundle = made
    with (
        serving(bundle, tls=pems[served]) as stub,
        Client(stub.url, folder, ca=pems[trusted][0] if trusted else None, token="secret") as client,
        pytest.raises(ServerError, match=rf"its certificate is not accepted \({words}\); check the address"),
    ):
        client.classify(IMAGE)
    assert stub.asked == []


@needs_openssl
def test_tls_where_there_is_none_and_none_where_there_is_tls(made, pems):
    folder, bundle = made
    with (
        serving(bundle) as stub,
        Client(stub.url.replace("http://", "https://"), folder, ca=pems["good"][0]) as client,
        pytest.raises(ServerError, match=r"no answer in HTTP over TLS \(.*\); check the url"),
    ):
        client.classify(IMAGE)
    with (
        serving(bundle, tls=pems["good"]) as stub,
        Client(stub.url.replace("https://", "http://"), folder, retries=0) as client,
        pytest.raises(ServerError),
    ):
        client.classify(IMAGE)
