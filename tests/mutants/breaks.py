"""The breaks: what is changed where, and which tests are to notice."""

from __future__ import annotations

from typing import Final, NamedTuple


class Break(NamedTuple):
    """One break. `old` occurs once in `path`."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...] = ("tests/sidecar/test_relay.py",)


RELAY: Final = "sidecar/worker/relay.py"
WINDOW: Final = "sidecar/worker/window.py"
HOLDS: Final = "sidecar/worker/holds.py"
READING: Final = "sidecar/worker/reading.py"
OWNERSHIP: Final = "sidecar/worker/ownership.py"
RECOVERY: Final = "sidecar/worker/recovery.py"
PUBLISHER: Final = "sidecar/redis/publisher.py"
RETENTION: Final = "sidecar/redis/retention.py"
PIPELINE: Final = "sidecar/worker/pipeline.py"
LUA: Final = "sidecar/redis/lua/"
ANCHORS: Final = "sidecar/redis/anchors.py"
HANDS: Final = ("tests/sidecar/test_recovery.py",)
ATTACK: Final = ("tests/sidecar/test_attack.py",)
SCRIPTS: Final = ("tests/sidecar/test_publisher.py",)
TRIMMING: Final = ("tests/sidecar/test_retention.py",)
TOPOLOGY: Final = "sidecar/redis/topology.py"
WAY: Final = ("tests/sidecar/test_topology.py",)
EMPTIED: Final = ("tests/topology/test_emptied.py",)
MADE_ANEW: Final = ("tests/topology/test_made_anew.py",)
CLUSTER: Final = ("tests/topology/test_cluster.py",)

BREAKS: Final = (
    Break(
        "publish before the put",
        RELAY,
        "            if item.known or item.bury or not item.ref:\n",
        "            item.ready = True\n            if item.known or item.bury or not item.ref:\n",
    ),
    Break(
        "acknowledge before the publish",
        RELAY,
        "            self._committing.begin(",
        "            self._control.acknowledge([item.id for item in run.events])\n"
        "            self._committing.begin(",
    ),
    Break(
        "acknowledge a dead letter before it is written",
        RELAY,
        "            finished, halted = self._committing.bury(",
        "            self._control.acknowledge([item.id for item in run.letters])\n"
        "            finished, halted = self._committing.bury(",
    ),
    Break(
        "no fence at publish",
        LUA + "publish.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, 0, ''} end\n",
        "",
        SCRIPTS,
    ),
    Break(
        "no fence at a dead letter",
        LUA + "bury.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end\n",
        "",
        SCRIPTS,
    ),
    Break(
        "no fence at renewal",
        LUA + "renew.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, '', 0} end\n",
        "",
        SCRIPTS,
    ),
    Break(
        "another's lease is taken",
        LUA + "acquire.lua",
        "if owner and owner ~= ARGV[1] then",
        "if false then",
        SCRIPTS,
    ),
    Break(
        "another's lease is given back",
        LUA + "release.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n",
        "",
        SCRIPTS,
    ),
    Break(
        "no deduplication",
        LUA + "publish.lua",
        "call('HSETNX', shard, id, content .. stamp) == 1 then",
        "call('HSET', shard, id, content .. stamp) >= 0 then",
        SCRIPTS,
    ),
    Break(
        "other content passes for a duplicate",
        LUA + "publish.lua",
        "result = sub(known, 1, 16) == content and -first or 0",
        "result = -first",
        SCRIPTS,
    ),
    Break(
        "a note of a repair publishes what is there",
        LUA + "sent_again.inc",
        "  return #redis.call('XRANGE', notifications, lost, lost) == 0\n",
        "  return true\n",
        ("tests/sidecar/test_sent_again.py",),
    ),
    Break(
        "a failed append is remembered as published",
        LUA + "publish.lua",
        "      call('HDEL', shard, id)  -- not published, so not remembered\n",
        "",
        SCRIPTS,
    ),
    Break(
        "a halt does not stop publishing",
        LUA + "publish.lua",
        "if halt[1] then return {-1, 0, ''} end\n",
        "",
        SCRIPTS,
    ),
    Break(
        "the clock forgets what it gave",
        LUA + "publish.lua",
        "local clock = math.max(now - 1, tonumber(ARGV[3]))",
        "local clock = now - 1",
        SCRIPTS,
    ),
    Break(
        "the lowest unfinished entry moves past a conflict",
        LUA + "publish.lua",
        "if complete then redis.call('SET', KEYS[3], ARGV[2]) end",
        "redis.call('SET', KEYS[3], ARGV[2])",
        SCRIPTS,
    ),
    Break(
        "nothing to wait for",
        LUA + "publish.lua",
        "redis.pcall('SET', KEYS[1], ARGV[1])  -- so that WAIT has something to wait for\n",
        "{}\n",
        ("tests/sidecar/test_replicas.py",),
    ),
    Break(
        "replicas are not counted",
        PUBLISHER,
        "        if reached < self._wait_replicas:\n",
        "        if reached < 0:\n",
        ("tests/sidecar/test_replicas.py",),
    ),
    Break(
        "two letters of one origin",
        LUA + "bury.lua",
        "redis.pcall('HSET', origin_shard, origin, mark .. stamp)\n",
        "1\n",
        SCRIPTS,
    ),
    Break(
        "a letter for a published event",
        LUA + "bury.lua",
        "  if known and string.sub(known, 1, 16) == content then\n",
        "  if false then\n",
        SCRIPTS,
    ),
    Break(
        "what a stalled worker took is not noticed",
        READING,
        "        if found.total != self._pending:\n",
        "        if False:\n",
    ),
    Break(
        "a gap between two reads is not noticed",
        READING,
        "        if is_back or (next_id and next_id < first_id):\n",
        "        if is_back:\n",
    ),
    Break(
        "that someone else has read is not noticed",
        READING,
        "        if last.after != self._next_new:\n",
        "        if False:\n",
    ),
    Break(
        "what another consumer has is left to it",
        READING,
        "elsewhere=self._elsewhere > 0",
        "elsewhere=False",
        HANDS,
    ),
    Break(
        "a position beyond the end stays",
        RECOVERY,
        "        if is_beyond(last, ground.given):\n",
        "        if False:\n",
        HANDS,
    ),
    Break(
        "what was lost behind a held entry is not looked for",
        RECOVERY,
        "if self._pending_list_tells(ground) else self._first_lost(first, until)\n",
        "\n",
        HANDS,
    ),
    Break(
        "another stream with the same IDs is taken for the one before",
        ANCHORS,
        "            return self.checksum == checksum_of(entry)\n",
        "            return True\n",
        ATTACK,
    ),
    Break(
        "pruning forgets what is finished behind a held event",
        "sidecar/redis/pruning.py",
        "before_us = max(0, min(now_us - self._window_us, kept_us))",
        "before_us = max(0, now_us - self._window_us)",
        ATTACK,
    ),
    Break(
        "what is finished and was made pending is done again",
        RECOVERY,
        "            if finished:  # somebody may acknowledge them meanwhile\n"
        "                self._control.acknowledge(finished)\n",
        "            break\n",
        ATTACK,
    ),
    Break(
        "another stream is trimmed before it is read",
        RETENTION,
        "        if not anchors or self._is_there(anchors[0]):",
        "        if True:",
        ATTACK,
    ),
    Break(
        "who cannot serve keeps the lease",
        OWNERSHIP,
        "            detail += self._yield_lease()\n",
        "",
        HANDS,
    ),
    Break(
        "the lease is taken before the control side answers",
        OWNERSHIP,
        "        self._control.check()  # the lease is for who can serve\n",
        "",
        HANDS,
    ),
    Break(
        "the lowest unfinished entry is noted too high",
        RELAY,
        "        return min(low for low in found",
        "        return max(low for low in found",
    ),
    Break(
        "a held event holds back nothing",
        RELAY,
        "        for gone in (item, *followers):\n",
        "        for gone in (item,):\n",
    ),
    Break(
        "what is ready overtakes its tenant",
        WINDOW,
        "            if tenant is not None and tenant in blocked:\n",
        "            if False:\n",
    ),
    Break(
        "two items store at one ref at a time",
        "sidecar/worker/claims.py",
        "        return self._is_first(item)\n",
        "        return True\n",
        ("tests/sidecar/test_turns.py", "tests/sidecar/test_window.py"),
    ),
    Break(
        "a poisonous entry is never found",
        RELAY,
        "is_poison = self._admission, died >= DEATHS_ALONE\n",
        "is_poison = self._admission, False\n",
    ),
    Break(
        "an outage is a reason to bury",
        "sidecar/worker/policy.py",
        "    if reason is not None and spent_s >= budget_s:\n",
        "    if spent_s >= budget_s:\n        reason = reason or Reason.ARTIFACT_MISSING\n",
        ("tests/sidecar/test_policy.py", "tests/sidecar/test_relay.py"),
    ),
    Break(
        "the data is not held against the event",
        PIPELINE,
        "    if checksum != event.checksum:\n",
        "    if False:\n",
        ("tests/sidecar/test_pipeline.py",),
    ),
    Break(
        "the manifest is not held against the event",
        PIPELINE,
        '    if event.manifest_checksum not in ("", checksum):\n',
        "    if False:\n",
        ("tests/sidecar/test_pipeline.py",),
    ),
    Break(
        "a ref may move back",
        PIPELINE,
        '{"position": position} if self._orders_fleet else {}',
        "{}",
        ("tests/sidecar/test_pipeline.py", "tests/sidecar/test_relay.py"),
    ),
    Break(
        "trimming does not ask the groups",
        "sidecar/redis/lua/trim.lua",
        "for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do",
        "for _, group in ipairs({}) do",
        TRIMMING,
    ),
    Break(
        "trimming does not ask the readers",
        RETENTION,
        "for r in self.readers().good if not r.expired]",
        "for r in self.readers().good if False]",
        TRIMMING,
    ),
    Break(
        "trimming does not ask the relay",
        RETENTION,
        "            return low\n",
        '            return "99999999999999-0"\n',
        TRIMMING,
    ),
    Break(
        "a replica named as the master is believed",
        TOPOLOGY,
        '        if role != "master":\n',
        '        if role == "sentinel":\n',
        WAY,
    ),
    Break(
        "always the same Sentinel is asked",
        TOPOLOGY,
        "self._turn = [*others, node]",
        "self._turn = [node, *others]",
        WAY,
    ),
    Break(
        "a master that was cut off is not left",
        OWNERSHIP,
        "        self._publisher.reconnect()\n",
        "",
        WAY,
    ),
    Break(
        "a slot that moved is an error like any other",
        TOPOLOGY,
        "        if isinstance(error, _CLUSTER):\n",
        "        if isinstance(error, ()):\n",
        CLUSTER,
    ),
    Break(
        "a dead-letter stream may lie in any slot",
        "sidecar/redis/client.py",
        "    if route is not None and _slot(stream) != route.slot:\n",
        "    if route is not None and route.slot < 0:\n",
        CLUSTER,
    ),
    Break(
        "a server that took over has the history of the one before",
        LUA + "publish.lua",
        "goes_on = known and noted[1] == server\n",
        "goes_on = known\n",
        MADE_ANEW,
    ),
    Break(
        "a cursor is a mere number",
        "sidecar/wire/incarnations.py",
        "    if carried in ids:\n",
        "    if False:\n",
        MADE_ANEW,
    ),
    Break(
        "what a lost history named is a time",
        "sidecar/wire/incarnations.py",
        "any(one.kept < cursor < one.began for one in incarnations)",
        "False",
        MADE_ANEW,
    ),
    Break(
        "control_version is a counter",
        LUA + "publish.lua",
        "local now = time[1] * 1000000 + time[2]\n",
        "local now = 0\n",
        EMPTIED,
    ),
    Break(
        "the script is not loaded again",
        PUBLISHER,
        "        self._loaded = False  # it may be another server than before\n",
        "",
        EMPTIED,
    ),
    Break(
        "a record is not flushed",
        "store/file/tree.py",
        "            os.fsync(fd)\n",
        "            pass\n",
        ("tests/store/crash/test_power_cut.py",),
    ),
)
