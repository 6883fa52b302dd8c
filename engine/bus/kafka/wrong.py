"""What an operator must mend before a Kafka cluster lets us in, each in its own words, with the way out."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from engine import errors
from engine.bus.kafka import settings
from engine.bus.security import MECHANISMS, Security

_EXPIRED, _NOT_YET, _NAME, _ADDRESS = 10, 9, 62, 64
"""X509_V_ERR_* of OpenSSL."""
RIGHTS = "`vmferry topics --print` prints the rights of each role and the commands that give them"


def user(given: Security, server: str) -> errors.Usage:
    """Wrong password, or no such user: a broker does not say which."""
    return errors.Usage(
        f"Kafka at {server} refuses user {given.username} ({given.mechanism}): wrong password, or no such user; check"
        f" username in [kafka] and the content of {given.password_file}"
    )


def impostor(server: str) -> errors.Usage:
    """The other end does not know the password itself."""
    return errors.Usage(f"{server} does not know the password of our user, so it is not the broker it claims to be")


def clock(topic: str) -> errors.Usage:
    """A topic that was not made by us, or long ago, and a host whose clock is ahead."""
    name, value = settings.STAMPED
    return errors.Usage(
        f"Kafka topic {topic} refuses the time stamps of this host: its clock is further from the brokers' than"
        " message.timestamp.after.max.ms allows (an hour): set the clock right (`timedatectl`), or have the brokers"
        f" stamp: kafka-configs.sh --bootstrap-server HOST:PORT --alter --entity-type topics --entity-name {topic}"
        f" --add-config {name}={value}"
    )


def mechanism(given: Security, server: str, offered: Sequence[str]) -> errors.Usage:
    """The listener has users, but not our way to prove one."""
    usable = [one for one in MECHANISMS if one in offered]
    way = f'set sasl = "{usable[0]}"' if usable else "of these vmferry has none: give it a listener with SCRAM-SHA-512"
    offers = ", ".join(offered)
    if not given.mechanism:
        return errors.Usage(
            f"Kafka at {server} asks for a user (it offers {offers}): {way}, username and password_file in [kafka]"
        )
    return errors.Usage(f"Kafka at {server} does not offer {given.mechanism}, but {offers}: {way} in [kafka]")


def no_users(given: Security, server: str) -> errors.Usage:
    """The listener would take us for somebody else."""
    return errors.Usage(
        f"Kafka at {server} asks for no user there, and would not take us for {given.username}: name the port of its"
        " listener with SASL, or leave sasl, username and password out of [kafka]"
    )


def tls_wanted(server: str) -> errors.Usage:
    """We speak in the clear to a listener that speaks TLS."""
    return errors.Usage(
        f"Kafka at {server} speaks TLS, and we do not: set tls = true in [kafka], and ca where it has a CA of its own"
    )


def no_tls(server: str) -> errors.Usage:
    """We speak TLS to a listener that does not."""
    return errors.Usage(
        f"Kafka at {server} does not speak TLS, and we do: name the port of its listener with TLS, or set tls = false"
        " in [kafka], which lets everybody on the way read the disks"
    )


def untrusted(given: Security, server: str, why: ssl.SSLCertVerificationError) -> errors.Usage:
    """We refuse the certificate of a broker."""
    said = why.verify_message.rstrip(".")
    if why.verify_code in (_NAME, _ADDRESS):
        return errors.Usage(
            f"the certificate of Kafka at {server} is for another name ({said}): name the broker in --bus and in its"
            " advertised.listeners as its certificate does, or have a certificate made for this name (subjectAltName)"
        )
    if why.verify_code in (_EXPIRED, _NOT_YET):
        return errors.Usage(
            f"the certificate of Kafka at {server} is not valid today ({said}): renew it there, or set the clock here"
        )
    trusted = given.ca_file or "the CAs of this system"
    return errors.Usage(
        f"the certificate of Kafka at {server} is not trusted by {trusted} ({said}): set ca in [kafka] to the"
        " certificate of the CA that signed it"
    )


def refused_by_tls(server: str, why: ssl.SSLError) -> errors.Usage:
    """A broker and we find no TLS in common."""
    said = _reason(why)
    if "protocol" in said:
        return errors.Usage(
            f"Kafka at {server} does not speak TLS 1.3, and vmferry nothing older ({said}): add TLSv1.3 to its"
            " ssl.enabled.protocols"
        )
    return errors.Usage(f"Kafka at {server} refuses TLS with us ({said}): look at its log and its ssl settings")


def certificate_refused(given: Security, server: str, why: Exception) -> errors.Usage:
    """A broker refuses our certificate, or that we have none."""
    if given.certificate_file:
        return errors.Usage(
            f"Kafka at {server} refuses our certificate {given.certificate_file} ({_reason(why)}): have it signed by a"
            " CA in the truststore of the broker, and look whether it has expired"
        )
    return errors.Usage(
        f"Kafka at {server} asks for a certificate of ours ({_reason(why)}): set certificate and key in [kafka]"
    )


def _reason(why: Exception) -> str:
    reason = getattr(why, "reason", None) or "the connection was closed"
    return str(reason).replace("_", " ").lower()


def forbidden(topic: str, operation: str, principal: str) -> errors.Usage:
    """A right is missing.  A topic that may not be described looks as one that is not there, so it would be created."""
    hidden = ", which is not there, or hidden from it" if operation == "Create" else ""
    return errors.Usage(f"Kafka does not allow {principal} to {operation} topic {topic}{hidden}: {RIGHTS}")
