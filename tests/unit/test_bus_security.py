"""The [kafka] table: every key that is not as it must be is named first, and no secret is held or shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from engine import errors
from engine.bus import connect
from engine.bus.kafka.access import Access, split
from engine.bus.security import MECHANISMS, PLAIN, Misset, Security, parse
from tests.support import tools

USER = {"sasl": "SCRAM-SHA-512", "username": "ferry", "password_file": "/secret"}


def test_nothing_set_is_the_plain_wire() -> None:
    assert parse({}) == PLAIN == Security()


def test_everything_set_is_taken() -> None:
    table = {"tls": True, "ca": "/ca", "certificate": "/crt", "key": "/key", **USER}
    assert parse(table) == Security(True, "/ca", "/crt", "/key", "SCRAM-SHA-512", "ferry", "/secret")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_each_mechanism_is_taken(mechanism: str) -> None:
    assert parse(USER | {"sasl": mechanism}).mechanism == mechanism


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        ({"tsl": True}, "tsl", "is not known; [kafka] has tls, ca, certificate"),
        ({"password": "sesame"}, "password", "is not known"),
        ({"tls": "yes"}, "tls", "must be true or false"),
        ({"tls": 1}, "tls", "must be true or false"),
        ({"tls": True, "ca": 7}, "ca", "must be a string, not 7"),
        ({"tls": True, "ca": ""}, "ca", "is empty"),
        ({"ca": "/ca"}, "ca", "set tls = true"),
        ({"tls": False, "ca": "/ca"}, "ca", "set tls = true"),
        ({"certificate": "/crt", "key": "/key"}, "certificate", "set tls = true"),
        ({"tls": True, "certificate": "/crt"}, "certificate", "set key too"),
        ({"tls": True, "key": "/key"}, "key", "set certificate too"),
        (USER | {"sasl": "GSSAPI"}, "sasl", "'GSSAPI' is not one of SCRAM-SHA-512, SCRAM-SHA-256, PLAIN"),
        ({"sasl": "PLAIN", "password_file": "/p"}, "sasl", "set username too"),
        ({"sasl": "PLAIN", "username": "u"}, "sasl", "set password_file or password_credential too"),
        ({"username": "u"}, "username", "set sasl too"),
        ({"password_file": "/p"}, "password_file", "set sasl too"),
        ({"password_credential": "p"}, "password_credential", "set sasl too"),
        (USER | {"password_credential": "p"}, "password_credential", "either this or password_file"),
        ({"sasl": "PLAIN", "username": "u", "password_credential": "../p"}, "password_credential", "not a path"),
    ],
)
def test_what_is_not_as_it_must_be_is_named_by_its_key(table: dict[str, object], key: str, words: str) -> None:
    with pytest.raises(Misset) as wrong:
        parse(table)
    assert wrong.value.key == key
    assert str(wrong.value).startswith(f"{key}: ")
    assert words in str(wrong.value)
    assert wrong.value.exit_code == errors.Usage.exit_code


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("open sesame \n")
    path.chmod(0o600)
    return path


def test_a_password_is_read_without_its_newline(secret: Path) -> None:
    assert parse(USER | {"password_file": str(secret)}).password() == "open sesame "


def test_a_password_that_is_replaced_is_read_anew_and_never_shown(secret: Path) -> None:
    access = Access(["localhost:9092"], parse(USER | {"password_file": str(secret)}))
    assert access.options()["sasl_plain_password"] == "open sesame "
    assert "sesame" not in f"{access.security!r} {vars(access)!r}"
    secret.write_text("other")
    assert access.options()["sasl_plain_password"] == "other"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_password_that_others_can_read_is_refused_with_the_command_that_mends_it(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    with pytest.raises(errors.Unsafe, match=rf"can be read by others \(mode 0{mode:o}\): chmod 0600 {secret}"):
        parse(USER | {"password_file": str(secret)}).password()


def test_a_password_that_is_not_there_or_empty_is_named(secret: Path) -> None:
    with pytest.raises(errors.NotFound, match="/none: there is no such file"):
        parse(USER | {"password_file": "/none"}).password()
    secret.write_text("\n")
    with pytest.raises(errors.Usage, match=f"{secret}: holds no password"):
        parse(USER | {"password_file": str(secret)}).password()


def test_a_credential_is_looked_up_when_it_is_needed(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = parse({"sasl": "PLAIN", "username": "u", "password_credential": "password"})
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(errors.Usage, match="LoadCredential=password:PATH"):
        given.password()
    secret.chmod(0o440)  # as systemd shows one that its unit's user may read by an ACL
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secret.parent))
    assert given.password() == "open sesame "


@pytest.mark.parametrize("server", ["kafka-1:9092", "10.0.0.7:9092", "127.0.0.1.example.org:9092"])
async def test_a_password_does_not_leave_the_machine_in_the_clear(server: str, secret: Path) -> None:
    given = parse(USER | {"password_file": str(secret)})
    with pytest.raises(errors.Unsafe, match=rf"{server} is not this machine.*set tls = true"):
        await connect.connect(f"kafka://localhost:1,{server}", security=given)


def test_a_password_may_go_in_the_clear_on_this_machine() -> None:
    for server in ("localhost:9092", "127.0.0.1:9092", "127.9.9.9:9092", "[::1]:9092"):
        assert Access([server], parse(USER)).security.username == "ferry"
    assert split("[::1]:9092") == ("::1", 9092)


def _key(path: Path, *options: str) -> None:
    tools.need("openssl")
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", *options]
    subprocess.run([*command, "-out", str(path)], check=True, capture_output=True)


def test_files_of_tls_that_are_not_what_they_should_be_are_named(tmp_path: Path) -> None:
    junk, key = tmp_path / "junk", tmp_path / "key"
    junk.write_text("no PEM")
    with pytest.raises(errors.NotFound, match="/none: there is no such file"):
        Access(["a:1"], Security(True, "/none")).context()
    with pytest.raises(errors.Usage, match=f"^ca: {junk} holds no certificate in PEM"):
        Access(["a:1"], Security(True, str(junk))).context()
    _key(key)
    key.chmod(0o644)
    with pytest.raises(errors.Unsafe, match=f"{key} can be read by others .*: chmod 0640 {key}"):
        Access(["a:1"], Security(True, "", str(junk), str(key))).context()
    key.chmod(0o640)
    with pytest.raises(errors.Usage, match=f"^certificate: {junk} and {key} are no certificate and its key"):
        Access(["a:1"], Security(True, "", str(junk), str(key))).context()


def test_a_key_with_a_passphrase_does_not_wait_for_a_terminal(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "crt"
    _key(key, "-aes256", "-pass", "pass:secret")
    request = ["openssl", "req", "-x509", "-key", str(key), "-passin", "pass:secret", "-subj", "/CN=x"]
    subprocess.run([*request, "-out", str(certificate)], check=True, capture_output=True)
    key.chmod(0o600)
    with pytest.raises(errors.Usage, match=r"^key: it is encrypted"):
        Access(["a:1"], Security(True, "", str(certificate), str(key))).context()
