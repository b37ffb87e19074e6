"use strict";
// Texts come escaped, and go through textContent alone: they are data.
const EVERY_MS = 3000, SOON_MS = 250, PATIENCE_MS = 15000;
const $ = (id) => document.getElementById(id);
const drawn = {};
let last = null, heard = 0;

function el(name, content, kind) {
  const made = document.createElement(name);
  if (content instanceof Node) made.append(content); else made.textContent = content ?? "";
  if (kind) made.className = kind;
  return made;
}
const some = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
const number = (n) => n === null || n === undefined ? "unknown" : n.toLocaleString("en");
const span = (s) => s === null ? "of unknown age" : s < 1 ? "under 1 s" : s < 120 ? `${Math.round(s)} s` : s < 7200 ? `${Math.round(s / 60)} min`
  : s < 172800 ? `${(s / 3600).toFixed(1)} h` : `${(s / 86400).toFixed(1)} days`;
const bytes = (n) => n < 1 << 20 ? `${(n / 1024).toFixed(0)} KiB` : n < 1 << 30 ? `${(n / (1 << 20)).toFixed(1)} MiB` : `${(n / (1 << 30)).toFixed(1)} GiB`;
const at = (us) => us ? new Date(us / 1000).toISOString().replace("T", " ").slice(0, 19) + " UTC" : "–";
const PARTS = { control: "control streams, in Redis", notifications: "notifications, in Redis", dead: "dead letters, in Redis", index: "deduplication index", own: "other keys" };
const badly = (text) => el("span", text, "bad");

// A part is drawn again only when it has changed: what a person has selected stays.
function part(id, key, draw) {
  const now = JSON.stringify(key);
  if (drawn[id] !== now) { drawn[id] = now; $(id).replaceChildren(...draw()); }
}

// Each column is its title and, for numbers, its kind; each row has as many cells.
function table(columns, rows, none) {
  if (!rows.length) return [el("p", none, "none")];
  const made = el("table"), head = el("tr"), body = el("tbody");
  for (const [title, kind] of columns) { const one = el("th", title, kind); one.scope = "col"; head.append(one); }
  for (const row of rows) {
    const line = el("tr");
    row.forEach((cell, i) => line.append(el("td", cell, columns[i][1])));
    body.append(line);
  }
  made.append(el("thead", head), body);
  return [made];
}
function pairs(rows) {
  const made = el("dl");
  for (const [name, value] of rows) made.append(el("dt", name), el("dd", value));
  return [made];
}

function trouble(found, worker) {
  const said = [];
  for (const one of found.streams) {
    if (one.halt) said.push(["bad", `${one.stream} is halted: ${one.halt.reason}`]);
    for (const [tenant, why] of Object.entries(one.paused)) said.push(["bad", `${one.stream}: tenant ${tenant} is paused since ${why.since} by ${why.by}: ${why.reason}`]);
    if (!one.owner_alive) said.push(["bad", `${one.stream}: nobody holds the lease`]);
    if (one.position_beyond_end) said.push(["bad", `${one.stream}: its group's position lies beyond the end`]);
  }
  for (const [what, detail] of found.warnings) said.push(["bad", `${what}: ${detail}`]);
  for (const [stream, one] of Object.entries(worker.states))
    if (["waiting", "failing", "recovering"].includes(one.state)) said.push(["bad", `this worker, ${stream}: ${one.state}: ${one.detail}`]);
  const held = found.workers.flatMap((one) => one.held);
  if (held.length) said.push(["warn", `${some(held.length, "event")} held back`]);
  if (found.dead.length) said.push(["warn", some(found.dead.length, "dead letter")]);
  for (const one of found.readers) if (one.expired) said.push(["warn", `reader ${one.name} has expired: what it has not read may be trimmed`]);
  return said;
}

function state(one) {
  if (one.halt) return badly(`halted since ${one.halt.since} by ${one.halt.by}: ${one.halt.reason}`);
  if (!one.exists) return "there is no such stream yet";
  if (one.dead_in_a_row) return el("span", `runs; ${some(one.dead_in_a_row, "dead letter")} in a row`, "warn");
  return one.owner_alive ? el("span", "runs", "good") : badly("waits for a worker");
}

function draw(found, worker) {
  const said = trouble(found, worker), worst = said.some(([kind]) => kind === "bad") ? "bad" : said.length ? "warn" : "";
  $("summary").className = worst;
  part("trouble", said, () => said.length ? said.map(([kind, text]) => el("li", text, kind)) : [el("li", "all streams run, and nothing is held back", "good")]);
  part("streams", found.streams, () => table(
    [["stream"], ["owner"], ["lag", "number"], ["pending", "number"], ["oldest pending", "time"], ["length", "number"], ["state", "long"]],
    found.streams.map((one) => [one.stream, one.owner_alive ? one.owner || "alive" : badly("none"), number(one.lag), number(one.pending),
      one.oldest_pending ? span(one.oldest_pending_age_s) : "–", number(one.length), state(one)]), "none"));
  const held = found.workers.flatMap((one) => one.held);
  part("held", held, () => table([["tenant"], ["event", "id"], ["since", "time"], ["tries", "number"], ["next try", "time"], ["why", "long"]], held.map((one) =>
    [one.tenant_id || "–", `${one.event_id} (${one.entry})`, at(Date.parse(one.since) * 1000), number(one.attempts), at(Date.parse(one.next_at) * 1000),
      one.error + (one.outage ? "" : "; then a dead letter, by --retry-budget")]), "nothing is"));
  $("dead-of").textContent = `${found.dead.stream}: ${number(found.dead.length)}`;
  const reasons = Object.entries(found.dead.by_reason), most = Math.max(1, found.dead.counted);
  part("dead", found.dead, () => [...table([["reason"], ["letters", "number"], ["share"]], reasons.map(([reason, count]) => {
    const filled = el("div"), bar = el("div", filled, "bar");
    filled.style.width = `${100 * count / most}%`;
    return [reason, number(count), bar];
  }), "none"), ...(found.dead.counted < found.dead.length ? [el("p", `reasons of the newest ${number(found.dead.counted)} only`, "none")] : [])]);
  const log = found.notifications;
  $("notifications-of").textContent = log.stream;
  part("notifications", log, () => pairs([["length", number(log.length)], ["last", log.last_control_version ? `${at(log.last_control_version)}, ${span(log.last_age_s)} ago` : "none yet"],
    ["last control_version", log.last_control_version ? String(log.last_control_version) : "–"], ["trimmed", log.trimmed ? `up to ${at(log.trimmed)}` : "never"]]));
  part("readers", [found.readers, log.last_control_version], () => table([["reader", "id"], ["has passed"], ["behind", "time"], ["last heard of", "time"]], found.readers.map((one) =>
    [one.name, `${one.control_version}`, one.control_version >= log.last_control_version ? "nothing" : one.control_version ? span((log.last_control_version - one.control_version) / 1e6) : "everything",
      one.expired ? badly(`${span(one.silent_s)} ago; expired`) : `${span(one.silent_s)} ago`]), "no reader has registered"));
  part("workers", [found.workers, worker], () => table([["worker"], ["owns", "id"], ["serves", "id"], ["holds back", "number"], ["says of itself", "long"]], found.workers.map((one) =>
    [one.name + (one.name === worker.name ? " (this one)" : ""), one.owns.join(", ") || "nothing: it stands by", one.serves.join(", ") || "nothing now", number(one.held.length),
      one.name === worker.name ? Object.entries(worker.states).map(([stream, s]) => `${stream}: ${s.state}${s.detail && " – " + s.detail}`).join("; ") : "–"]), "no worker has registered"));
  part("takeovers", found.takeovers, () => table([["stream", "id"], ["at", "time"], ["by"], ["before"]], found.takeovers.map((one) => [one.stream, at(Date.parse(one.at) * 1000), one.by, one.before || "unknown"]), "none on record"));
  part("stores", [found.fleet, found.memory, found.parts], () => pairs([["log", found.fleet.log || "not noted yet"], ["fleet store", found.fleet.store ? `${found.fleet.store}, noted as ${found.fleet.url || "unknown"}` : "not noted yet"],
    ...found.memory.map((one) => [`memory of ${one.url}`, one.full ? badly(`full: ${bytes(one.used_bytes)} of ${bytes(one.max_bytes)}`) : bytes(one.used_bytes) + (one.max_bytes ? ` of ${bytes(one.max_bytes)}` : ", without a limit")]),
    ...Object.entries(PARTS).map(([name, what]) => [what, !found.parts ? "unknown: this user may not send MEMORY USAGE" : `${name === "index" && found.parts.index_at_most ? "under" : "about"} ${bytes(found.parts[name])}`])]));
}

// What is shown stays when no more comes; how old it is stands above.
function head(problem) {
  const known = last && last.status, age_s = last && last.age_s !== null ? last.age_s + (performance.now() - heard) / 1000 : null;
  document.body.classList.toggle("stale", Boolean(problem && known));
  const when = known ? `as of ${at(Date.parse(last.as_of) * 1000)}, ${span(age_s)} ago` : "nothing collected yet";
  $("as-of").textContent = problem ? `${when}: ${problem}` : when;
}

async function look() {
  let soon = false;
  try {
    const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`the worker answers ${answer.status}`);
    last = await answer.json();
    heard = performance.now();
    $("whose").textContent = `${last.worker.name}, ${last.worker.version}`;
    if (last.status) draw(last.status, last.worker);
    soon = !last.status;
    head(last.error);
  } catch (error) {
    head(error instanceof TypeError || error.name === "TimeoutError" ? "the worker does not answer" : error.message);
  }
  document.documentElement.dataset.ready = String(Boolean(last && last.status));
  setTimeout(look, soon ? SOON_MS : EVERY_MS);
}
look();
