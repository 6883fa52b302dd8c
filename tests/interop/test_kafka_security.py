"""A real broker with TLS, users and rights: each role can do its work and nothing else, and each refusal has words of
its own, with the way out."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine import errors, ports
from engine.bus.connect import connect
from engine.bus.kafka.bus import KafkaBus
from engine.bus.security import PLAIN, Security
from engine.cli import app
from schemas import topics
from tests.support import kafka as support
from tests.support import secured
from tests.support.daemons import Sites
from tests.support.ferry import MEBI, image, same, scribble, until
from tests.support.secured import Secured

Open = Callable[[str], Awaitable[KafkaBus]]
RECEIPTS = topics.receipts()
TAKEN = "vmferry.taken"
NAMED = uuid.uuid4()
"""A stream of another prefix, whose rights and topics were made beforehand, by its name."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured.running(tmp_path_factory.mktemp("secured")) as started:
        yield started


def _printed(broker: Secured, *options: str) -> Sequence[str]:
    asked = ["topics", "--print", "--bus", broker.cluster.url, "--copies", "1", *options]
    ended = CliRunner().invoke(app.whole(), asked)
    assert ended.exit_code == 0, ended.output
    return [line for line in ended.stdout.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def allowed(broker: Secured) -> Secured:
    """The broker after its operator has pasted what vmferry printed; all topics of streams are yet to be made."""
    commands = [one for one in _printed(broker) if one.startswith("kafka-acls.sh")]
    named = _printed(broker, "--stream", str(NAMED), "--prefix", "named", "--target-user", "User:nobody")
    # Each takes a JVM of its own, so not all of them.
    commands += [one for one in named if "User:vmferry-source" in one and "named.control" not in one]
    commands += [one for one in named if one.startswith("kafka-topics.sh") and str(NAMED) in one]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(broker.run, commands))
    return broker


@pytest.fixture
async def opened(allowed: Secured) -> AsyncIterator[Open]:
    """Gives the bus as a user has it."""
    buses: list[KafkaBus] = []

    async def open_as(user: str) -> KafkaBus:
        bus = await KafkaBus.connect([allowed.listeners["SASL_SSL"]], security=allowed.user(user))
        buses.append(bus)
        return bus

    yield open_as
    for bus in buses:
        await bus.close()


async def _say(log: ports.Log, text: bytes) -> None:
    await log.append([text])
    await log.sync()


async def _heard(log: ports.Log) -> list[bytes]:
    begin, end = await log.ends()
    found: list[bytes] = []
    while begin < end:
        entries = await log.read(begin, 1 << 20, 10)
        found += [entry.data for entry in entries]
        begin = entries[-1].offset + 1
    return found


async def _refused(step: Awaitable[object], user: str, operation: str, topic: str) -> None:
    """It ends as a missing right, which is named, with the command that gives it."""
    with pytest.raises(errors.Usage) as refused:
        await step
    said = str(refused.value)
    assert f"Kafka does not allow User:{user} to {operation} topic {topic}" in said
    assert "`vmferry topics --print`" in said


async def test_each_role_works_with_the_printed_rights_and_none_beyond_its_own(opened: Open) -> None:
    stream = topics.stream(uuid.uuid4().bytes)
    source, target = await opened("vmferry-source"), await opened("vmferry-target")
    await _refused(target.open(stream), "vmferry-target", "Create", stream)
    shipped = await source.open(stream, write=True)
    await _say(shipped, b"event")
    # As producers open it: for writing, though they never do.
    heard = await source.open(RECEIPTS, write=True, shared=True)
    assert heard._writer is None
    spoken = await target.open(RECEIPTS, write=True, shared=True)
    await _say(spoken, b"receipt")
    assert b"receipt" in await _heard(heard)
    assert heard._writer is None, "a producer is spent on a topic that is only read"
    applied = await target.open(stream)
    assert await _heard(applied) == [b"event"]
    await _refused(_say(await target.open(stream, write=True), b"forged"), "vmferry-target", "Write", stream)
    await _refused(applied.trim(1), "vmferry-target", "Delete", stream)
    await _refused(_say(heard, b"forged"), "vmferry-source", "Write", RECEIPTS)
    await _refused(heard.trim(1), "vmferry-source", "Delete", RECEIPTS)
    await shipped.trim(1)
    assert (await applied.ends())[0] == 1


async def test_each_role_may_use_the_control_topic_as_it_must(opened: Open) -> None:
    source, target = await opened("vmferry-source"), await opened("vmferry-target")
    written = await source.open(topics.control(), write=True, shared=True)
    await _say(written, b"mine")
    assert await _heard(await target.open(topics.control())) == [b"mine"]
    refused = await target.open(topics.control(), write=True, shared=True)
    await _refused(_say(refused, b"forged"), "vmferry-target", "Write", topics.control())


async def test_an_auditor_reads_everything_and_writes_nothing(opened: Open) -> None:
    source, target, auditor = [await opened(f"vmferry-{role}") for role in ("source", "target", "auditor")]
    stream = topics.stream(uuid.uuid4().bytes)
    await _say(await source.open(stream, write=True), b"event")
    await _say(await target.open(RECEIPTS, write=True, shared=True), b"seen")
    seen = await auditor.open(stream)
    assert await _heard(seen) == [b"event"]
    assert b"seen" in await _heard(await auditor.open(RECEIPTS))
    await _refused(seen.trim(1), "vmferry-auditor", "Delete", stream)
    await _refused(auditor.open(stream, write=True), "vmferry-auditor", "DescribeConfigs", stream)
    # Past that check, the broker itself refuses even to number its producer.
    forged = await auditor.open(stream)
    forged._may_write = True
    await _refused(_say(forged, b"forged"), "vmferry-auditor", "Write", stream)


async def test_streams_that_were_named_work_by_rights_on_names_and_no_other_can_be_made(
    opened: Open, allowed: Secured
) -> None:
    source = await opened("vmferry-source")
    shipped = await source.open(topics.stream(NAMED.bytes, "named"), write=True)
    await _say(shipped, b"event")
    assert await _heard(shipped) == [b"event"]
    operator = await connect(allowed.cluster.url)
    await operator.open("named.receipts")
    await operator.close()
    receipts = await source.open("named.receipts", write=True, shared=True)
    await _refused(_say(receipts, b"forged"), "vmferry-source", "Write", "named.receipts")
    other = topics.stream(uuid.uuid4().bytes, "named")
    await _refused(source.open(other, write=True), "vmferry-source", "Create", other)


async def test_a_user_without_rights_is_told_who_it_is_and_what_it_lacks(opened: Open) -> None:
    await (await opened("vmferry-source")).open(RECEIPTS)
    stranger = await opened("stranger")
    await _refused(stranger.open(RECEIPTS), "stranger", "Create", RECEIPTS)
    await _refused(stranger._admin.partitions(RECEIPTS), "stranger", "Describe", RECEIPTS)


async def test_a_right_that_is_taken_away_is_missed_by_name(opened: Open, allowed: Secured) -> None:
    source = await opened("vmferry-source")
    log = await source.open(TAKEN, write=True)
    await _say(log, b"event")
    assert await _heard(log) == [b"event"]
    allowed.run(f"{_acls(allowed)} --deny-principal User:vmferry-source --operation Read --topic {TAKEN}")
    with pytest.raises(errors.Usage, match=f"does not allow User:vmferry-source to Read topic {TAKEN}"):
        await _go_on(lambda: log.read(0, 1 << 20, 10))
    allowed.run(f"{_acls(allowed)} --deny-principal User:vmferry-source --operation Describe --topic {TAKEN}")
    with pytest.raises(errors.Usage, match=f"does not allow User:vmferry-source to Describe topic {TAKEN}"):
        await _go_on(log.ends)


async def _go_on(step: Callable[[], Awaitable[object]]) -> None:
    """Until it is refused: a broker takes its time to hear of new rights."""
    for _ in range(200):
        await step()
        await asyncio.sleep(0.1)


def _acls(broker: Secured) -> str:
    return f"kafka-acls.sh --bootstrap-server {broker.cluster.servers} --add"


async def _why(server: str, security: Security) -> str:
    """What its user hears, who must act: passing trouble would be tried again for ever."""
    with pytest.raises(errors.Usage) as refused:
        await connect(f"kafka://{server}", security=security)
    return str(refused.value)


async def test_a_wrong_password_and_an_unknown_user_are_told(broker: Secured) -> None:
    server, right = broker.listeners["SASL_SSL"], broker.user("vmferry-source")
    unknown = replace(right, username="nobody")
    for given in (broker.user("vmferry-source", "guessed"), unknown):
        said = await _why(server, given)
        assert f"Kafka at {server} refuses user {given.username} (SCRAM-SHA-512): wrong password, or no such" in said
        assert given.password_file in said
        assert "guessed" not in said
    in_the_clear = broker.user("vmferry-source", "guessed", tls=False)
    assert "wrong password, or no such user" in await _why(broker.listeners["SASL_PLAINTEXT"], in_the_clear)


async def test_a_certificate_of_a_broker_that_is_not_right_is_told_by_what_is_wrong(broker: Secured) -> None:
    ours, server = broker.certified(None), broker.listeners["SASL_SSL"]
    said = await _why(server, replace(broker.user("vmferry-source"), ca_file=str(broker.stranger.certificate)))
    assert f"the certificate of Kafka at {server} is not trusted by {broker.stranger.certificate}" in said
    assert "set ca in [kafka]" in said
    assert "is not trusted by the CAs of this system" in await _why(server, Security(tls=True))
    assert "is not valid today (certificate has expired)" in await _why(broker.listeners["EXPIRED"], ours)
    assert "is for another name (IP address mismatch" in await _why(broker.listeners["NAMED"], ours)
    assert "does not speak TLS 1.3" in await _why(broker.listeners["OLD"], ours)


async def test_an_address_that_brokers_give_out_is_looked_at_too(broker: Secured) -> None:
    bus = await KafkaBus.connect([broker.listeners["ASTRAY"]], 3, broker.certified(None))
    try:
        with pytest.raises(errors.Usage, match=r"Kafka at localhost:\d+ is for another name \(Hostname mismatch"):
            await bus.exists("any")
    finally:
        await bus.close()


async def test_a_client_certificate_lets_us_in_and_its_lack_is_told(broker: Secured) -> None:
    server = broker.listeners["MTLS"]
    good = broker.certified(broker.authority.sign("client", "DNS:client"))
    bus = await connect(f"kafka://{server}", security=good)
    assert not await bus.exists("any")
    with pytest.raises(errors.Usage, match=f"does not allow the user of certificate {good.certificate_file} to Create"):
        await bus.open("any")
    await bus.close()
    assert "asks for a certificate of ours" in await _why(server, broker.certified(None))
    assert "set certificate and key in [kafka]" in await _why(server, broker.certified(None))
    for strange in (broker.stranger.sign("strange", "DNS:a"), broker.authority.sign("old", "DNS:a", -1)):
        said = await _why(server, broker.certified(strange))
        assert f"Kafka at {server} refuses our certificate {strange.certificate}" in said


async def test_a_listener_of_another_kind_is_told_with_what_it_wants(broker: Secured) -> None:
    user, clear = broker.user("vmferry-source"), broker.cluster.servers
    assert "speaks TLS, and we do not: set tls = true" in await _why(broker.listeners["SASL_SSL"], PLAIN)
    assert "does not speak TLS, and we do" in await _why(clear, broker.certified(None))
    wanted = "asks for a user (it offers SCRAM-SHA-512)"
    assert wanted in await _why(broker.listeners["SASL_SSL"], broker.certified(None))
    assert wanted in await _why(broker.listeners["SASL_PLAINTEXT"], PLAIN)
    said = await _why(broker.listeners["SASL_SSL"], replace(user, mechanism="PLAIN"))
    assert 'does not offer PLAIN, but SCRAM-SHA-512: set sasl = "SCRAM-SHA-512"' in said
    assert "asks for no user there" in await _why(clear, broker.user("vmferry-source", tls=False))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_other_mechanisms_let_us_in_and_tell_a_wrong_password_too(broker: Secured, mechanism: str) -> None:
    server = broker.listeners["OTHERS"]
    bus = await connect(f"kafka://{server}", security=replace(broker.user("vmferry-source"), mechanism=mechanism))
    assert not await bus.exists("any")
    await bus.close()
    wrong = replace(broker.user("vmferry-source", "guessed"), mechanism=mechanism)
    assert f"({mechanism}): wrong password, or no such user" in await _why(server, wrong)
    best = await _why(server, broker.user("vmferry-source"))
    assert 'does not offer SCRAM-SHA-512, but PLAIN, SCRAM-SHA-256: set sasl = "SCRAM-SHA-256"' in best


async def test_without_tls_a_user_is_only_let_go_to_this_machine(broker: Secured) -> None:
    given = broker.user("vmferry-source", tls=False)
    bus = await connect(f"kafka://{broker.listeners['SASL_PLAINTEXT']}", security=given)
    assert not await bus.exists("any")
    await bus.close()
    # A tunnel: the address is ours, and the brokers behind it are not.
    with pytest.raises(errors.Unsafe, match=r"kafka\.example:9092 is not this machine.*set tls = true"):
        await connect(f"kafka://{broker.listeners['FAR']}", security=given)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
@pytest.mark.parametrize("security", [PLAIN, Security(tls=True)])
async def test_what_is_no_broker_is_not_taken_for_one_that_refuses_us(answer: bytes, security: Security) -> None:
    """It may be one that is starting."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        with pytest.raises(errors.Transient, match=f"{address} does not speak as a Kafka broker"):
            await connect(f"kafka://{address}", security=security)
    finally:
        server.close()
        await server.wait_closed()


async def test_a_broker_that_is_away_is_passing_trouble(broker: Secured) -> None:
    server = f"127.0.0.1:{support.free_port()}"
    with pytest.raises(errors.Transient, match=f"0 of 1 brokers answer: nothing listens at {server}"):
        await connect(f"kafka://{server}", security=broker.user("vmferry-source"))


@pytest.mark.timeout(240)
def test_two_daemons_each_with_its_printed_rights_and_one_with_a_wrong_password(
    allowed: Secured, tmp_path: Path
) -> None:
    """All that both sides do on a bus, each as its own user: made, changed, judged, forgotten."""
    sites = Sites(tmp_path / "sites", f"kafka://{allowed.listeners['SASL_SSL']}")
    for daemon in (sites.source, sites.target):
        security = allowed.user(f"vmferry-{daemon.side}")
        daemon.config["kafka"] = {
            "tls": True, "ca": security.ca_file, "sasl": security.mechanism, "username": security.username,
            "password_file": security.password_file,
        }  # fmt: skip
    secret = Path(sites.target.config["kafka"]["password_file"])
    right = secret.read_text()
    secret.write_text("wrong\n")
    image(sites.disk("web"), 4 * MEBI, {0: MEBI})
    sites.serve("web")
    sites.target.write()
    try:
        sites.start()
        until(lambda: sites.target.ask("status")["away"])
        assert "wrong password, or no such user" in sites.target.ask("status")["away"]
        until(lambda: "wrong password, or no such user" in sites.target.ask("status")["bus_trouble"])
        assert sites.target.ferry.run("status", "--check").code == 2
        secret.write_text(right)
        until(sites.proved())
        scribble(sites.disk("web"), 2 * MEBI, MEBI)
        until(lambda: same(sites.disk("web"), sites.replica()))
        until(sites.proved())
        # Asked over TLS, as a user with no more rights than it needs.
        until(lambda: [one.ask("status")["bus_trouble"] for one in (sites.source, sites.target)] == ["", ""])
        assert sites.target.ferry.run("status", "--check", "--max-rpo", "10m").code == 0
        assert sites.target.ferry.run("forget", "web").code == 0
        until(lambda: not sites.source.stream()["replicas"])
    finally:
        sites.stop()
