"""The simulated server against a real one: the same commands, the same answers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

import pytest
import redis

from sidecar.redis import scripts
from tests.proofs import sampled
from tests.servers import usual
from tests.simulation.server import Server

COMMANDS = 1500
FAR_US = 4_000_000_000_000_000
"""A control_version above every clock, so that both servers count on from it."""


class Both:
    """Sends each command to both servers, and holds their answers against each other."""

    def __init__(self, real: redis.Redis) -> None:
        self._real = real
        real.response_callbacks.clear()
        self.simulated = Server(self._now_us)

    def _now_us(self) -> int:
        seconds, micros = self._ask("TIME")
        return int(seconds) * 1_000_000 + int(micros)

    def _ask(self, *args: Any) -> Any:
        try:
            return self._real.execute_command(*args)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            return error

    def send(self, *args: Any) -> Any:
        """Send one command. Raises AssertionError where the answers differ."""
        command = tuple(arg if isinstance(arg, bytes) else str(arg).encode() for arg in args)
        real, simulated = self._ask(*command), self.simulated.execute(command)
        assert _alike(command, simulated) == _alike(command, real), command
        return real


def _alike(command: Sequence[bytes], answer: Any) -> Any:  # noqa: PLR0911 -- one a command
    """Return what of an answer must be the same."""
    if isinstance(answer, Exception):
        return type(answer), str(answer).split(maxsplit=1)[0]
    if command[:2] == (b"XINFO", b"GROUPS") and isinstance(answer, list):
        wanted = {
            b"name", b"consumers", b"pending", b"last-delivered-id", b"entries-read", b"lag",
        }  # fmt: skip
        return [
            {k: v for k, v in zip(group[::2], group[1::2], strict=True) if k in wanted}
            for group in answer
        ]
    if command[:2] == (b"XINFO", b"STREAM") and isinstance(answer, list):
        fields = dict(zip(answer[::2], answer[1::2], strict=True))
        names = (
            b"first-entry",
            b"last-entry",
            b"length",
            b"last-generated-id",
            b"max-deleted-entry-id",
            b"entries-added",
        )
        return [fields[name] for name in names]
    if command[:1] == (b"XPENDING",) and len(command) > 3 and isinstance(answer, list):
        return [[*row[:2], row[3]] for row in answer]  # without the idle time
    if command[:1] == (b"SCAN",) and isinstance(answer, list):
        return sorted(answer[1])
    if command[:2] == (b"XINFO", b"CONSUMERS") and isinstance(answer, list):
        return [row[:4] for row in answer]
    if command[:1] == (b"EVALSHA",) and isinstance(answer, list):
        return _without_times(answer)
    return answer


def _without_times(answer: list[Any]) -> list[Any]:
    """Return a script's answer without what depends on when it was asked."""
    if answer[0] == 0:
        return [0, *answer[2:]]  # a lease's remaining time
    is_now = [isinstance(one, int) and 10**15 < one < FAR_US for one in answer]
    return ["now" if now else one for now, one in zip(is_now, answer, strict=True)]


@pytest.fixture
def both(client: redis.Redis) -> Both:
    """A simulated server and a real one, both empty."""
    if usual() != "valkey":
        pytest.skip("the simulated server answers as Valkey does")
    return Both(client)


@pytest.mark.parametrize("seed", sampled(range(4), ["0"]))
def test_random_commands_have_the_answers_of_a_real_server(both: Both, seed: int) -> None:
    """Fifteen hundred commands on few keys are answered as Valkey answers them, errors too."""
    chance = random.Random(seed)
    for number in range(1, COMMANDS):
        both.send(*_command(chance, number))
    for key in ("s1", "s2"):
        both.send("XINFO", "STREAM", key)
        both.send("XINFO", "GROUPS", key)


def _command(chance: random.Random, number: int) -> list[Any]:
    stream, group = chance.choice(["s1", "s1", "s2", "h1"]), chance.choice(["g1", "g2"])
    key, name = chance.choice(["h1", "h2", "s2"]), chance.choice(["a", "b"])
    entry = f"{chance.randint(max(1, number - 40), number)}-{chance.randint(0, 1)}"
    low, high = chance.choice(["-", entry]), chance.choice(["+", str(number)])
    reads = ["XREADGROUP", "GROUP", group, chance.choice(["c1", "c2"]), "COUNT", number % 4 + 1]
    choices: list[list[Any]] = [
        ["XADD", stream, entry, "event", f"e{number}", name, "x"],
        ["XADD", stream, f"{number}-0", "event", f"e{number}"],
        ["XDEL", stream, entry, f"{max(1, number - 3)}-0"],
        ["XLEN", stream],
        ["XRANGE", stream, low, high, "COUNT", number % 5 + 1],
        ["XREVRANGE", stream, high, low, "COUNT", number % 5 + 1],
        ["XRANGE", stream, low, high],
        ["XGROUP", "CREATE", stream, group, chance.choice(["0-0", "$", entry]), "MKSTREAM"],
        ["XGROUP", "CREATE", stream, group, "0-0"],
        ["XGROUP", "SETID", stream, group, entry],
        ["XGROUP", chance.choice(["DELCONSUMER"] + ["SETID"] * 3), stream, group, "0-1"],
        *[[*reads, "STREAMS", stream, chance.choice([">", ">", "0-0", entry])]] * 6,
        *[["XACK", stream, group, entry, f"{max(1, number - 5)}-0"]] * 3,
        *[["XPENDING", stream, group]] * 3,
        ["XPENDING", stream, group, f"({entry}", "+", 3, *chance.choice([[], ["c1"]])],
        ["XPENDING", stream, group, entry, high, 3],
        ["XCLAIM", stream, group, "c2", 0, entry, f"{max(1, number - 5)}-0", "JUSTID"],
        ["XRANGE", stream, f"({entry}", "+", "COUNT", 2],
        ["XINFO", "GROUPS", stream],
        ["GET", chance.choice(["v1", key])],
        ["SET", "v1", number, *chance.choice([[], ["PX", "100000"], ["NX"]])],
        ["GETSET", chance.choice(["v1", "v1", key]), number],
        ["GETRANGE", chance.choice(["v1", key, "never"]), 0, number % 3],
        ["SADD", chance.choice(["n1", "n1", key]), name],
        ["SREM", chance.choice(["n1", key]), name],
        ["SSCAN", chance.choice([key, "never"]), 0],
        ["DEL", chance.choice(["v1", "h2", "h1"])],
        ["EXISTS", "v1", key],
        ["EXPIRE", key, "1000"],
        ["HSET", key, name, number, "c", "d"],
        ["HSETNX", key, name, number],
        ["HGET", key, name],
        ["HMGET", key, name, "c", "never"],
        ["HEXISTS", key, name],
        ["HDEL", key, name, "c"],
        ["HINCRBY", key, "n", number % 7 - 3],
        ["EVALSHA", "0" * 40, "0"],
        ["TYPE", chance.choice([stream, key, "v1", "never"])],
        ["XREAD", "COUNT", number % 3 + 1, "STREAMS", stream, chance.choice([entry, "$", "0-0"])],
        [
            "XCLAIM",
            stream,
            group,
            chance.choice(["c1", "c2"]),
            "0",
            entry,
            f"{max(1, number - 2)}-0",
            *chance.choice([[], ["JUSTID"], ["FORCE"], ["FORCE", "JUSTID"]]),
        ],
        ["XADD", chance.choice(["s2", "s9"]), "NOMKSTREAM", f"{number}-0", "event", "x"],
        ["XINFO", "CONSUMERS", stream, group],
        ["XGROUP", "CREATECONSUMER", stream, group, "c2"],
        ["HLEN", key],
        ["PERSIST", key],
        ["SCAN", "0", "MATCH", "*1", "COUNT", "100"],
        ["SCAN", "0", "COUNT", "100", "TYPE", chance.choice(["stream", "hash"])],
    ]
    if chance.random() < 0.02:
        choices = [
            ["XGROUP", "DESTROY", stream, group], ["DEL", "s2"], ["HGETALL", "h2"],
            ["XTRIM", stream, "MINID", "=", entry], ["XTRIM", stream, "MAXLEN", "20"],
            ["RENAME", "s2", "s3"], ["RENAMENX", "s3", "s2"], ["XSETID", stream, f"{number}-0"],
            ["HKEYS", "h2"], ["HVALS", "h1"],
        ]  # fmt: skip
    return chance.choice(choices)


@pytest.mark.parametrize("seed", sampled(range(4), ["0"]))
def test_the_scripts_have_the_answers_of_a_real_server(both: Both, seed: int) -> None:
    """The shipped scripts, run in any order, answer and write alike in both servers."""
    chance = random.Random(seed)
    source = {
        name: scripts._SOURCES[name]
        for name in ("acquire", "renew", "release", "publish", "bury", "pause", "resume", "stand",
                     "pause_tenant", "resume_tenant")
    }  # fmt: skip
    for name, keys, args in _calls(chance):
        sha = both.send("SCRIPT", "LOAD", source[name])
        both.send("EVALSHA", sha, len(keys), *keys, *args)
    for key in ("fence", "lease", "low"):
        both.send("GET", key)
    both.send("HMGET", "halt", "reason", "since", "by", "unclean", "dead_in_a_row", "tenants")
    both.send("HMGET", "rows", "t", "u")
    both.send("HMGET", "paused", "t", "u")
    both.send("HGETALL", "anchors")
    both.send("XRANGE", "notes", "-", "+")
    both.send("XLEN", "dead")
    both.send("XLEN", "halts")
    for event in range(12):
        both.send("HGET", "seen", _digest(event))


def _calls(chance: random.Random) -> Iterator[tuple[str, list[str], list[Any]]]:
    for number in range(300):
        token = chance.choice(["t1", "t1", "t1", "t2"])
        event = chance.randrange(12)
        content = b"%016d" % chance.choice([event, event, event, 99])
        changes = chance.choice(["", "", "1", "2"])
        signed = chance.choice([[], [], ["signature"]])
        floor = FAR_US + (chance.choice([0, 10 * number]) if signed else 0)
        calls: list[tuple[str, list[str], list[Any]]] = [
            ("acquire", ["fence", "lease", "halt"], [token, 60_000]),
            ("renew", ["fence", "lease", "halt"], [token, 60_000]),
            ("release", ["fence", "lease", "halt"], [token]),
            (
                "stand",
                ["fence", "low", "anchors"],
                [token, chance.choice(["", f"{number}-0"]), "S", chance.choice(["", f"{number}"])],
            ),
            ("pause", ["halt", "halts"], ["by hand", "now", "me", "S", 1000]),
            ("resume", ["halt", chance.choice(["halts", "halt"])], ["on", "now", "me", "S", 9]),
            ("resume", ["halt", "halts"], ["continue", "now", "me", "S", 1000]),
            ("pause_tenant", ["other", "halts", "paused", "rows"],
             ["by hand", "now", "me", "S", 1000, "t", "{}"]),
            ("resume_tenant", ["other", "halts", "paused", "rows"],
             ["continue", "now", "me", "S", 1000, chance.choice("tu")]),
            (
                "bury",
                ["fence", "halt", "low", "dead", "halts", "resent", "trimmed", "notes",
                 "rows", "paused", "seen", "buried", "seen", "buried"],
                [
                    token, chance.choice([0, 0, 3]), "now", "S", 1000, changes, 1,
                    *(
                        argument
                        for origin in (number, number + 1)
                        for argument in (
                            f"{origin}-0", chance.choice([b"", _digest(event) + content]),
                            _digest(origin % 40) + content, chance.randrange(2),
                            chance.randrange(2), "too many", chance.choice(["", "t", "u"]),
                            chance.randrange(2), 2, "reason", "malformed",
                        )
                    ),
                ],
            ),
            *[
                (
                    "publish",
                    ["fence", "halt", "low", "notes", "incarnations", "trimmed", "archived",
                     "readers", "resent", "rows", "seen", "seen"],
                    [
                        token, f"{number}-0", floor, chance.randrange(2), changes, 4 + len(signed),
                        _digest(event) + content, b'{"control_version":', "S/1-1", "", *signed,
                        _digest(event - 1) + b"%016d" % (event - 1), chance.choice([b"", b"{"]),
                        "S/1-2", "00-trace", *signed, chance.choice([1, 2]), "t",
                    ],
                )
            ] * 5,
        ]  # fmt: skip
        yield chance.choice(calls)


def _digest(number: int) -> bytes:
    return b"\x00\xff%012d" % number


def test_scripts_read_json_as_on_a_real_server(both: Both) -> None:
    """What is no JSON is refused, and what is has the same types in both servers."""
    script = (
        "local decoded, body = pcall(cjson.decode, ARGV[1])\n"
        "if not decoded or type(body) ~= 'table' then return decoded and type(body) or 'none' end\n"
        "return type(body.a) .. ' ' .. (type(body.a) == 'string' and body.a or '')"
    )
    for text in (
        '{"a":"x"}', '{"a":"é\\u00e9"}', '{"a":1}', '{"a":1.5}', '{"a":true}', '{"a":{"b":[1]}}',
        '{"a":["x"]}', '{"b":"x"}', "[]", '"s"', "7", "{", "", "x" * 100, '{"a":"x"} y',
    ):  # fmt: skip
        both.send("EVAL", script, 0, text)
    both.send("EVAL", script, 0, b"\xff")


def test_append_again_has_the_answers_of_a_real_server(both: Both) -> None:
    """The script that puts an event back looks at the same entries in both servers."""
    source = files("sidecar.redis").joinpath("lua", "append_again.lua").read_text()
    both.send(
        "XADD", "events", "9999999999999-0", "event", "x"
    )  # no clock gives an ID from here on
    event = '{"event_id":"e","tenant_id":"t","stack_id":"s","artifact_ref":"r"}'
    for came in (
        "{",
        event,
        '{"artifact_ref":"r"}',
        '{"stack_id":"s","tenant_id":"u"}',
        '{"a":null}',
    ):
        both.send("XADD", "events", "*", "event", came)
        for seen in ("0-0", "+"):
            last = both.send("XREVRANGE", "events", "+", "-", "COUNT", "1")[0][0]
            since = last if seen == "+" else seen
            for about in (("t", "s", "r"), ("t", "", "r"), ("u", "s", ""), ("", "", "")):
                both.send("EVAL", source, 1, "events", since, *about, "event", event)
                both.send("XLEN", "events")
