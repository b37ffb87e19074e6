"use strict";
// Everything that comes out of an event goes through textContent, and `visible`: it is data.
const $ = (id) => document.getElementById(id);
const MARKS = { published: "●", duplicate: "◌", dead: "✕", redriven: "↻", waiting: "▲", unknown: "?" };
const SAID = { published: "published", duplicate: "a repeat", dead: "dead", redriven: "redriven", waiting: "waits", unknown: "end unknown" };
const visible = (text) => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]/gu,
  (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
const clock = (us) => us ? new Date(us / 1000).toISOString().replace("T", " ") : "–";
const span = (us) => us < 0 ? "-" + span(-us) : us < 1e3 ? us.toFixed(0) + " µs" : us < 1e6 ? (us / 1e3).toFixed(us < 1e4 ? 1 : 0) + " ms"
  : us < 6e7 ? (us / 1e6).toFixed(1) + " s" : us < 36e8 ? Math.floor(us / 6e7) + " min " + Math.round(us % 6e7 / 1e6) + " s" : (us / 36e8).toFixed(1) + " h";
const some = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
// Ticks of the delay chart, in seconds: where a person would put them.
const TICKS = new Map([[1e-4, "100 µs"], [1e-3, "1 ms"], [1e-2, "10 ms"], [0.1, "100 ms"], [1, "1 s"], [10, "10 s"], [60, "1 min"], [600, "10 min"], [3600, "1 h"], [36e3, "10 h"], [36e4, "100 h"]]);
const MOST_TICKS = 7, MOST_GROUPS = 50, MOST_LISTED = 50;
const moment = (id) => Number(id.split("-")[0]) ? clock(Number(id.split("-")[0]) * 1000) : "the beginning";
function el(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = visible(text);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
const put = (parent, ...children) => { parent.replaceChildren(...children); return parent; };

async function read() {
  const packed = Uint8Array.from(atob($("data").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function start(data) {
  const { head, strings, columns, ends } = data;
  const total = columns.begun.length;
  const text = (name, i) => strings[columns[name][i]];
  const end = (i) => ends[columns.end[i]];
  const time = (i) => columns.took[i] >= 0 ? columns.begun[i] + columns.took[i] : columns.begun[i];
  const order = Array.from({ length: total }, (_, i) => i).sort((a, b) => time(a) - time(b));
  const lanes = [...new Set(columns.tenant)].sort((a, b) => strings[a] < strings[b] ? -1 : 1);
  const laneOf = new Map(lanes.map((tenant, lane) => [tenant, lane]));
  const now = { hidden: new Set(), reasons: new Set(), search: "", tenant: "", chosen: order, selected: -1 };
  const span0 = total ? [time(order[0]) / 1e6 - 0.5, time(order[total - 1]) / 1e6 + 0.5] : [0, 1];
  let xs = [...span0], ys = [0, Math.max(1, Math.min(lanes.length, 40))];

  // --- what it is -------------------------------------------------------------------------------
  document.title = visible("Replay, " + head.window);
  $("window").textContent = visible(head.window);
  $("source").textContent = visible(`Taken from ${head.history} at ${head.taken_at}. ${some(total, "event")}.` + (head.filters ? ` Only ${head.filters}.` : ""));
  put($("covered"), ...head.covered.map((one) => {
    const item = el("li", one.stream + ": ");
    item.append(one.first ? `${moment(one.first)} to ${moment(one.last)}` : "nothing");
    for (const gap of one.missing) item.append(" ", el("span", `${gap.why}: ${moment(gap.first)} to ${moment(gap.last)} is gone`, { class: "bad" }));
    return item;
  }));
  if (head.filters) $("quiet-hint").append(visible(` This is about all events of the window, not only ${head.filters}.`));
  const halted = (one) => data.halts.filter((halt) => halt.from_us < one.to_us && halt.to_us > one.from_us);
  const held = (one) => [...new Set(halted(one).filter((halt) => halt.tenant === null).map((halt) => `, while ${halt.stream} was halted`))].join("");
  const after = (one) => one.letters ? `, right after ${some(one.letters, "dead letter")} in a row` + (one.tenants > 1 ? `, of ${some(one.tenants, "tenant")}` : one.tenant && `, all of ${one.tenant}`) : "";
  put($("quiet"), ...(data.quiet.length ? data.quiet.map((one) => {
    const item = el("li");
    const link = el("button", `${clock(one.from_us)}, for ${span(one.to_us - one.from_us)}`, { type: "button" });
    link.onclick = () => { zoom(one.from_us / 1e6 - 1, one.to_us / 1e6 + 1); };
    item.append(link, visible(` while ${some(one.waiting, "event")} waited${held(one)}${after(one)}`));
    return item;
  }) : [el("p", "Never for long.")]));
  put($("tenants"), ...lanes.slice(0, 2000).map((tenant) => el("option", undefined, { value: visible(strings[tenant]) })));

  const backs = new Map(data.causes.filter((one) => one.back && one.row !== null).map((one) => [one.row, one.what]));

  // --- what went wrong --------------------------------------------------------------------------
  function groups() {  // the dead letters by reason and tenant, the most first
    const found = new Map();
    for (const i of order.filter((i) => end(i) === "dead")) {
      const key = columns.reason[i] + " " + columns.tenant[i], group = found.get(key) || { first: i, count: 0 };
      found.set(key, { ...group, last: i, count: group.count + 1 });
    }
    return [...found.values()].sort((a, b) => b.count - a.count);
  }
  function wrong() {
    const all = groups(), left = all.slice(MOST_GROUPS);
    put($("wrong"), ...data.halts.map((halt) => {
      const item = el("li"), button = el("button", halt.said, { type: "button" });
      button.onclick = () => zoom(halt.from_us / 1e6 - 1, halt.to_us / 1e6 + 1);
      item.append(button, " ", el("span", `${clock(halt.from_us)} to ${clock(halt.to_us)}`, { class: "soft" }));
      return item;
    }), ...all.slice(0, MOST_GROUPS).map(({ first, last, count }) => {
      const item = el("li"), reason = visible(text("reason", first)), tenant = visible(text("tenant", first));
      const button = el("button", `${some(count, "dead letter")}: ${reason}, ${tenant || "no tenant"}`, { type: "button" });
      button.onclick = () => {
        now.search = $("search").value = reason;
        now.tenant = $("tenant").value = tenant;
        now.hidden.clear(); now.reasons.clear();
        xs = [time(first) / 1e6 - 1, time(last) / 1e6 + 1];
        choose();
      };
      item.append(button, " ", el("span", count > 1 ? `${clock(time(first))} to ${clock(time(last))}` : clock(time(first)), { class: "soft" }));
      return item;
    }));
    if (!all.length && !data.halts.length) put($("wrong"), el("p", "No event is a dead letter, and nothing was halted."));
    if (left.length) $("wrong").append(el("p", `And ${some(left.reduce((sum, one) => sum + one.count, 0), "dead letter")} of ${some(left.length, "smaller group")}.`, { class: "soft" }));
  }

  function causes() {
    put($("summary"), ...data.summary.map((line) => {
      const item = el("p"), at = line.indexOf(":") + 1;
      item.append(el("strong", at ? line.slice(0, at) : line), visible(at ? line.slice(at) : ""));
      return item;
    }));
    put($("causes"), ...data.causes.map((one) => {
      const item = el("li", undefined, { class: one.level, id: "cause-" + one.number, value: one.number });
      const button = el("button", one.what, { type: "button" });
      button.onclick = () => { zoom(one.from_us / 1e6 - 1, one.to_us / 1e6 + 1); if (one.row !== null) open(one.row, true); };
      item.append(el("strong", one.level), " ", el("span", one.kind, { class: "soft" }), " ", button);
      if (one.causes.length) item.append(" ", el("span", "caused by " + one.causes.join(", "), { class: "soft" }));
      if (one.fix) item.append(el("div", "Fix: " + one.fix, { class: "soft" }));
      return item;
    }));
    if (!data.causes.length) put($("causes"), el("p", "No rule has found anything."));
  }

  // --- choosing ---------------------------------------------------------------------------------
  const count = (values) => values.reduce((sums, value) => sums.set(value, (sums.get(value) || 0) + 1), new Map());
  const byEnd = count(columns.end.map((n) => ends[n]));
  const byReason = count(columns.reason.filter((n) => strings[n]).map((n) => strings[n]));
  const toggles = (place, counts, off, label) => put(place, ...[...counts].sort((a, b) => b[1] - a[1]).map(([name, n]) => {
    const button = el("button", undefined, { type: "button", "aria-pressed": "true" });
    button.append(...label(name), ` ${n.toLocaleString("en")}`);
    button.onclick = () => { off.has(name) ? off.delete(name) : off.add(name); choose(); };
    button.sync = () => button.setAttribute("aria-pressed", String(!off.has(name)));
    return button;
  }));
  const dot = (name) => { const mark = el("span", MARKS[name], { class: "dot", "aria-hidden": "true" }); mark.style.color = `var(--${name})`; return mark; };
  toggles($("ends"), byEnd, now.hidden, (name) => [dot(name), SAID[name]]);
  toggles($("reasons"), byReason, now.reasons, (name) => [visible(name)]);
  put($("legend"), ...ends.map((name) => { const item = el("span"); item.append(dot(name), SAID[name]); return item; }));

  let searched = null;  // each text as it is shown, in lower case: made when somebody searches
  function choose() {
    const wanted = visible(now.search).toLowerCase();
    if (wanted) searched ??= strings.map((one) => visible(one).toLowerCase());
    const fits = (i) => !now.hidden.has(end(i)) && !(text("reason", i) && now.reasons.has(text("reason", i)))
      && (!now.tenant || visible(text("tenant", i)) === now.tenant)
      && (!wanted || ["event_id", "tenant", "stack", "ref", "reason", "type", "detail"].some((name) => searched[columns[name][i]].includes(wanted)));
    now.chosen = order.filter(fits);
    $("chosen").textContent = `${now.chosen.length.toLocaleString("en")} of ${some(total, "event")}`;
    for (const button of document.querySelectorAll("#ends button, #reasons button")) button.sync();
    if (now.tenant) ys = laneWindow(now.tenant);
    delays();
    table.scrollTop = 0;
    redraw();
    link();
  }
  function laneWindow(tenant) {
    const lane = lanes.findIndex((one) => visible(strings[one]) === tenant);
    return lane < 0 ? ys : [Math.max(0, lane - 5), Math.min(lanes.length, Math.max(0, lane - 5) + 12)];
  }

  // --- drawing ----------------------------------------------------------------------------------
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const shapes = {
    published: (c, x, y, r) => c.arc(x, y, r, 0, 7), duplicate: (c, x, y, r) => { c.moveTo(x + r, y); c.arc(x, y, r, 0, 7); },
    dead: (c, x, y, r) => { c.moveTo(x - r, y - r); c.lineTo(x + r, y + r); c.moveTo(x + r, y - r); c.lineTo(x - r, y + r); },
    redriven: (c, x, y, r) => c.rect(x - r, y - r, 2 * r, 2 * r),
    waiting: (c, x, y, r) => { c.moveTo(x, y - r); c.lineTo(x + r, y + r); c.lineTo(x - r, y + r); c.closePath(); },
    unknown: (c, x, y, r) => { c.moveTo(x, y - r); c.lineTo(x + r, y); c.lineTo(x, y + r); c.lineTo(x - r, y); c.closePath(); },
  };
  function visibleRange() {  // of now.chosen, which is sorted by time
    const find = (at) => { let low = 0, high = now.chosen.length; while (low < high) { const mid = (low + high) >> 1; time(now.chosen[mid]) / 1e6 < at ? low = mid + 1 : high = mid; } return low; };
    return [find(xs[0]), find(xs[1])];
  }
  function drawEvents(plot, yOf, keep, heaped) {
    const c = plot.ctx, ratio = devicePixelRatio, r = 4 * ratio;
    c.save();
    c.beginPath(); c.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height); c.clip();
    c.fillStyle = colour("quiet");
    for (const one of [...data.quiet, ...data.halts.filter((halt) => halt.tenant === null)]) {  // when nothing continued
      const left = plot.valToPos(one.from_us / 1e6, "x", true), right = plot.valToPos(one.to_us / 1e6, "x", true);
      c.fillRect(left, plot.bbox.top, right - left, plot.bbox.height);
    }
    const marks = ends.map(() => []), [low, high] = visibleRange();
    const { left, top, width, height } = plot.bbox, across = (width >> 1) + 1, scale = width / (xs[1] - xs[0]);
    const taken = ends.map(() => new Uint8Array(across * ((height >> 1) + 1)));  // one mark a few pixels: a hundred thousand are drawn as fluently as ten
    const newest = new Map(), heaps = [];  // of dead marks in a lane that touch: they come from left to right
    for (let n = low; n < high; n++) {
      const i = now.chosen[n], code = columns.end[i];
      if (!keep(i)) continue;
      const x = (time(i) / 1e6 - xs[0]) * scale, y = plot.valToPos(yOf(i), "y", true) - top;
      if (heaped && code === DEAD) {
        let heap = newest.get(columns.tenant[i]);
        if (!heap || x - heap.to > 2 * r) { heap = { from: x, y, count: 0 }; heaps.push(heap); newest.set(columns.tenant[i], heap); }
        heap.to = x; heap.count++;
      }
      const cell = (x >> 1) + across * (y >> 1);
      if (taken[code][cell]) continue;
      taken[code][cell] = 1;
      marks[code].push(left + x, top + y);
    }
    ends.forEach((name, code) => {
      const found = marks[code], dense = found.length > 6000;
      c.beginPath();
      for (let n = 0; n < found.length; n += 2) {
        const x = found[n], y = found[n + 1];
        if (dense && name === "published") { c.rect(x - r / 2, y - r / 2, r, r); continue; }
        if (name === "published") c.moveTo(x + r, y);
        shapes[name](c, x, y, name === "published" ? r * 0.8 : r);
      }
      c.strokeStyle = c.fillStyle = colour(name);
      c.lineWidth = 2 * ratio;
      name === "dead" || name === "duplicate" ? c.stroke() : c.fill();
    });
    c.font = `600 ${11 * ratio}px system-ui`; c.textBaseline = "middle";
    if (heaped) for (const i of backs.keys()) {  // a subject went back: told also without a colour
      if (!keep(i) || !now.chosen.includes(i)) continue;
      c.textAlign = "left"; c.lineWidth = 3 * ratio; c.strokeStyle = colour("card"); c.fillStyle = colour("dead");
      const at = [plot.valToPos(time(i) / 1e6, "x", true) + r + 3 * ratio, plot.valToPos(yOf(i), "y", true)];
      c.strokeText("↩ back", ...at); c.fillText("↩ back", ...at);
    }
    c.lineWidth = 3 * ratio; c.strokeStyle = colour("card"); c.fillStyle = colour("dead");
    for (const { from, to, y, count } of heaps) {
      if (count < 2) continue;
      const said = String(count), fits = to + r + (6 + 8 * said.length) * ratio < width;
      const at = left + (fits ? to + r + 3 * ratio : from - r - 3 * ratio);
      c.textAlign = fits ? "left" : "right";
      c.strokeText(said, at, top + y); c.fillText(said, at, top + y);
    }
    if (now.selected >= 0 && keep(now.selected)) {
      c.beginPath();
      c.arc(plot.valToPos(time(now.selected) / 1e6, "x", true), plot.valToPos(yOf(now.selected), "y", true), 10 * ratio, 0, 7);
      c.strokeStyle = colour("mark"); c.lineWidth = 2 * ratio; c.stroke();
    }
    c.restore();
  }
  const DEAD = ends.indexOf("dead");
  const lane = (i) => laneOf.get(columns.tenant[i]) + 0.5;
  const axis = () => ({ stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") }, font: "12px system-ui" });
  function chart(place, height, y, yOf, keep) {
    const plot = new uPlot({
      width: place.clientWidth || 600, height, legend: { show: false }, cursor: { drag: { x: true, y: false }, points: { show: false }, y: false },
      scales: { x: { time: true, range: () => xs }, y: y.scale }, series: [{}, { paths: () => null, points: { show: false } }],
      tzDate: (at) => uPlot.tzDate(new Date(at * 1e3), "Etc/UTC"),
      axes: [{ ...axis(), space: 90, values: hours }, { ...axis(), ...y.axis }],
      hooks: {
        draw: [(plot) => drawEvents(plot, yOf, keep, y.heaped)],
        setSelect: [(plot) => { if (plot.select.width > 3) { zoom(plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")); plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false); } }],
      },
    }, [[0, 1], [null, null]], place);
    plot.over.addEventListener("wheel", (event) => {
      event.preventDefault();
      const width = xs[1] - xs[0];
      if (event.shiftKey) return pan((event.deltaY || event.deltaX) > 0 ? 0.15 : -0.15);
      const at = plot.posToVal(event.offsetX, "x"), by = event.deltaY > 0 ? 1.25 : 0.8;
      zoom(at - (at - xs[0]) * by, at - (at - xs[0]) * by + width * by);
    }, { passive: false });
    plot.over.addEventListener("click", (event) => {
      const near = nearest(plot, event.offsetX, event.offsetY, yOf, keep);
      if (near >= 0) open(near);
    });
    return plot;
  }
  function nearest(plot, left, top, yOf, keep) {
    const [low, high] = visibleRange();
    let best = -1, least = 15 * 15;
    for (let n = low; n < high; n++) {
      const i = now.chosen[n];
      if (!keep(i)) continue;
      const dx = plot.valToPos(time(i) / 1e6, "x") - left, dy = plot.valToPos(yOf(i), "y") - top;
      if (dx * dx + dy * dy < least) { least = dx * dx + dy * dy; best = i; }
    }
    return best;
  }
  function hours(plot, values) {  // UTC, as fine as the window asks for
    const width = xs[1] - xs[0], [from, to] = width > 2 * 86400 ? [0, 10] : width > 600 ? [11, 16] : width > 10 ? [11, 19] : [11, 23];
    return values.map((value) => new Date(value * 1e3).toISOString().slice(from, to));
  }
  function ticks(plot, axis, least, most) {
    const all = [...TICKS.keys()].filter((at) => at >= least && at <= most), step = Math.ceil(all.length / MOST_TICKS);
    return all.filter((_, n) => n % step === 0);
  }
  const names = (plot, values) => values.map((value) => Number.isInteger(value) ? "" : visible(strings[lanes[Math.floor(value)]] ?? "").slice(0, 22) || (lanes[Math.floor(value)] === undefined ? "" : "no tenant"));
  const inLane = (i) => { const at = lane(i); return at >= ys[0] && at <= ys[1]; };
  const took = (i) => columns.took[i] >= 0 && end(i) !== "duplicate";
  let timeline, delay;
  function build() {
    for (const id of ["timeline", "delay"]) $(id).replaceChildren();
    timeline = chart($("timeline"), Math.max(180, Math.min(640, 22 * Math.min(lanes.length, 40) + 60)), {
      heaped: true, scale: { dir: -1, range: () => ys },
      axis: { size: 150, splits: () => { const step = Math.max(1, Math.ceil((ys[1] - ys[0]) / 40)); const at = []; for (let n = Math.floor(ys[0]); n < ys[1] && n < lanes.length; n += step) at.push(n + 0.5); return at; }, values: names },
    }, lane, inLane);
    delay = chart($("delay"), 190, {
      scale: { distr: 3, range: () => [1e-4, Math.max(1, ...data.tallest.map((us) => us / 1e6 * 2))] },
      axis: { size: 150, splits: ticks, filter: (plot, values) => values, values: (plot, values) => values.map((value) => TICKS.get(value)) },
    }, (i) => Math.max(columns.took[i] / 1e6, 1e-4), took);
  }
  let asked = 0;
  function redraw() {
    if (asked) return;
    asked = requestAnimationFrame(() => { asked = 0; timeline.setScale("x", { min: xs[0], max: xs[1] }); delay.setScale("x", { min: xs[0], max: xs[1] }); timeline.redraw(); delay.redraw(); rows(); });
  }
  function zoom(from, to) {
    const least = 1e-3;
    if (to - from < least) to = from + least;
    xs = [from, to];
    redraw(); link();
  }
  const pan = (part) => zoom(xs[0] + part * (xs[1] - xs[0]), xs[1] + part * (xs[1] - xs[0]));
  function climb(by) {
    const height = ys[1] - ys[0], first = Math.max(0, Math.min(Math.max(0, lanes.length - height), ys[0] + by));
    ys = [first, first + height];
    redraw();
  }
  function delays() {
    const all = now.chosen.filter(took).map((i) => columns.took[i]).sort((a, b) => a - b);
    const at = (part) => all.length ? span(all[Math.min(all.length - 1, Math.floor(part * all.length))]) : "–";
    put($("delays"), ...[["median", at(0.5)], ["99 of 100 within", at(0.99)], ["longest", at(1)]].map(([name, value]) => { const pair = el("div"); pair.append(el("dt", name), el("dd", value)); return pair; }));
  }

  // --- the table --------------------------------------------------------------------------------
  const table = $("table"), HEIGHT = 28;
  const named = (tenant, stack, version) => [tenant, stack].filter(Boolean).join("/") + (version ? "@" + version : "") || "–";
  const whose = (i) => named(text("tenant", i), text("stack", i), columns.version[i]);
  function rows() {
    const first = Math.max(0, Math.floor(table.scrollTop / HEIGHT) - 5), last = Math.min(now.chosen.length, first + Math.ceil(table.clientHeight / HEIGHT) + 10);
    $("rows").style.height = now.chosen.length * HEIGHT + "px";
    put($("rows"), ...now.chosen.slice(first, last).map((i, n) => {
      const row = el("div", undefined, { class: "row", role: "option", id: "row" + i, "aria-selected": String(i === now.selected) });
      row.style.top = (first + n) * HEIGHT + "px";
      const how = el("span"); how.append(dot(end(i)), SAID[end(i)], visible(text("reason", i) && ": " + text("reason", i)));
      row.append(el("span", clock(time(i)), { class: "wide" }), el("span", took(i) ? span(columns.took[i]) : "", { class: "soft" }), how, el("span", whose(i)), el("span", text("type", i), { class: "wide" }),
        el("span", text("ref", i), { class: "wide" }), el("span", text("event_id", i) || "?", { class: "wide" }));
      row.onclick = () => open(i);
      return row;
    }));
    const selected = $("row" + now.selected);
    selected ? table.setAttribute("aria-activedescendant", selected.id) : table.removeAttribute("aria-activedescendant");
  }
  table.addEventListener("scroll", rows);
  function walk(by) {
    const at = now.chosen.indexOf(now.selected);
    const next = now.chosen[Math.max(0, Math.min(now.chosen.length - 1, at < 0 ? 0 : at + by))];
    if (next === undefined) return;
    now.selected = next;
    const n = now.chosen.indexOf(next);
    if (n * HEIGHT < table.scrollTop) table.scrollTop = n * HEIGHT;
    if ((n + 1) * HEIGHT > table.scrollTop + table.clientHeight) table.scrollTop = (n + 1) * HEIGHT - table.clientHeight;
    const at1 = time(next) / 1e6;
    if (at1 < xs[0] || at1 > xs[1]) zoom(at1 - (xs[1] - xs[0]) / 2, at1 + (xs[1] - xs[0]) / 2);
    if (!inLane(next)) climb(lane(next) - ys[0] - 2);
    if (!$("detail").hidden) open(next);
    redraw();
  }
  table.addEventListener("keydown", (event) => {
    const keys = { ArrowDown: () => walk(1), ArrowUp: () => walk(-1), PageDown: () => walk(12), PageUp: () => walk(-12), Home: () => walk(-1e9), End: () => walk(1e9), Enter: () => now.selected >= 0 && open(now.selected, true) };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  $("timeline").addEventListener("keydown", (event) => {
    const middle = (by) => { const at = (xs[0] + xs[1]) / 2, half = (xs[1] - xs[0]) / 2 * by; zoom(at - half, at + half); };
    const keys = {
      ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), ArrowUp: () => climb(-3), ArrowDown: () => climb(3), "+": () => middle(0.5), "=": () => middle(0.5), "-": () => middle(2),
      0: () => zoom(...span0), n: () => walk(1), p: () => walk(-1), Enter: () => now.selected >= 0 && open(now.selected, true),
    };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });

  // --- one event --------------------------------------------------------------------------------
  let before = null;
  function open(i, focus = false) {
    now.selected = i;
    if ($("detail").hidden) before = document.activeElement;
    put($("detail-title")).textContent = visible(text("event_id", i) || "an event that cannot be read");
    $("detail-whose").textContent = visible([text("type", i), whose(i), text("ref", i)].filter(Boolean).join("  ·  "));
    const hops = [];
    const hop = (name, at, lines, since, bad) => {
      const item = el("li");
      if (since && at) item.append(el("span", "+" + span(at - since), { class: "took" }));
      item.append(el("strong", name, bad ? { class: "bad" } : {}), " ", el("span", at ? clock(at) : "", { class: "soft" }), ...lines.filter(Boolean).map((line) => line instanceof Node ? line : el("div", line, { class: "mono" })));
      hops.push(item);
    };
    const began = columns.begun[i], ended = took(i) ? began + columns.took[i] : 0;
    if (text("created_at", i)) hop("made", 0, [text("created_at", i) + " by the producer's clock", columns.ahead[i] && `That clock is ${span(columns.ahead[i] * 1e6)} ahead: it cannot be right.`], 0, columns.ahead[i] > 0);
    hop("entry", began, [text("origin", i), columns.there[i] ? "" : "trimmed or deleted since"]);
    const stream = text("origin", i).slice(0, text("origin", i).lastIndexOf("/"));
    if (ended || end(i) === "waiting") for (const halt of halted({ from_us: began, to_us: ended || Infinity })) if (halt.stream === stream && [null, text("tenant", i)].includes(halt.tenant)) hop("halt", Math.max(halt.from_us, began), [halt.said], began, true);
    if (text("ref", i)) hop("artifact", 0, [text("ref", i), text("checksum", i), text("put", i) && `${text("put", i)} in the fleet's store`], 0, Boolean(text("put", i)) && text("put", i) !== "there" && end(i) === "published");
    const over = data.overtaken[i], fix = over ? data.prevent[text("reason", i)] : text("fix", i);
    const told = { published: "notification", duplicate: "a repeat", dead: "dead letter", redriven: "redriven", waiting: "it waits", unknown: "nobody knows how it ended" }[end(i)];
    hop(told, ended, [text("end_id", i), [text("reason", i), text("detail", i)].filter(Boolean).join(": "), fix && "Fix: " + fix], began, ["dead", "unknown"].includes(end(i)));
    if (over) hop("overtaken", over.at_us, [overtaker(over), "Fix: " + data.leave_it], ended, true);
    if (backs.has(i)) hop("went back", 0, [backs.get(i)], 0, true);
    put($("hops"), ...hops);
    const alike = (...names) => text(names[0], i) ? order.filter((other) => names.every((name) => columns[name][other] === columns[name][i])) : [];
    related($("versions"), alike("ref"), i, "It names no artifact.", changed);
    related($("stack"), alike("stack", "tenant"), i, "It names no stack.");
    $("detail").hidden = false;
    if (focus) $("detail-title").focus();
    redraw(); link();
  }
  function overtaker(over) {
    const line = el("div", "by ", { class: "mono" }), there = over.row !== null;
    const name = el(there ? "button" : "span", over.event_id, there ? { type: "button" } : {});
    if (there) name.onclick = () => open(over.row, true);
    line.append(name, visible(`, ${named(over.tenant, over.stack, over.version)}`), there ? "" : ", which the filters left out");
    return line;
  }
  function related(place, all, i, none, more = () => []) {  // a bounded list: those around this one
    const from = Math.max(0, Math.min(all.indexOf(i) - MOST_LISTED / 2, all.length - MOST_LISTED));
    put(place, ...all.slice(from, from + MOST_LISTED).map((other) => {
      const item = el("li"), version = columns.version[other];
      const go = el("button", `${clock(time(other))}  ${text("event_id", other)}`, { type: "button" });
      go.onclick = () => open(other, true);
      item.append(go, ` ${version ? "@" + version + " " : ""}${SAID[end(other)]}${other === i ? " (this one)" : ""}`, ...more(other));
      return item;
    }));
    place.start = from + 1;
    if (!all.length) put(place, el("p", none));
    if (all.length > MOST_LISTED) place.append(el("p", `${MOST_LISTED} of ${some(all.length, "event")}: those around this one.`, { class: "soft" }));
  }
  const changed = (i) => data.diffs.filter((one) => one.new === columns.begun[i] + columns.took[i] && text("ref", i) === one.ref)
    .flatMap((diff) => [el("div", `What changed against the version before (${diff.kind}):`, { class: "soft" }), shown(diff.lines)]);
  function shown(lines) {
    const block = el("pre", undefined, { tabindex: "0", "aria-label": "difference" });
    for (const line of lines) block.append(el("span", line || " ", { class: { "+": "came", "-": "went", "@": "hunk" }[line[0]] || "" }), line && "+-@".includes(line[0]) ? "" : "\n");
    return block;
  }
  function close() { $("detail").hidden = true; now.selected = -1; redraw(); link(); if (before) before.focus(); }
  $("close").onclick = close;
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !$("detail").hidden) close(); });

  // --- links ------------------------------------------------------------------------------------
  function link() {
    const parts = new URLSearchParams();
    if (now.selected >= 0) parts.set("event", text("origin", now.selected) + " " + end(now.selected));
    if (now.tenant) parts.set("tenant", now.tenant);
    if (now.search) parts.set("search", now.search);
    if (xs[0] !== span0[0] || xs[1] !== span0[1]) { parts.set("from", Math.round(xs[0] * 1e6)); parts.set("to", Math.round(xs[1] * 1e6)); }
    if (now.hidden.size) parts.set("without", [...now.hidden].join(","));
    history.replaceState(null, "", "#" + parts);
  }
  function follow() {
    const parts = new URLSearchParams(location.hash.slice(1));
    $("search").value = now.search = parts.get("search") || parts.get("ref") || "";
    $("tenant").value = now.tenant = parts.get("tenant") || "";
    now.hidden = new Set((parts.get("without") || "").split(",").filter((name) => ends.includes(name)));
    toggles($("ends"), byEnd, now.hidden, (name) => [dot(name), SAID[name]]);
    const [from, to] = [Number(parts.get("from")) / 1e6, Number(parts.get("to")) / 1e6];
    xs = from > 0 && to > from ? [from, to] : [...span0];
    const asked = parts.get("event");
    const found = asked ? order.find((i) => text("origin", i) + " " + end(i) === asked || text("event_id", i) === asked) : undefined;
    choose();
    if (found !== undefined) open(found, true);
  }
  const later = (work) => { let due; return () => { clearTimeout(due); due = setTimeout(work, 120); }; };
  $("search").addEventListener("input", later(() => { now.search = $("search").value; choose(); }));
  $("tenant").addEventListener("input", later(() => { now.tenant = $("tenant").value; choose(); }));
  $("clear").onclick = () => { now.search = now.tenant = $("search").value = $("tenant").value = ""; now.hidden.clear(); now.reasons.clear(); xs = [...span0]; ys = [0, Math.max(1, Math.min(lanes.length, 40))]; choose(); };
  $("theme").onclick = () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    build(); redraw();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { build(); redraw(); });
  addEventListener("resize", later(() => { for (const [plot, id] of [[timeline, "timeline"], [delay, "delay"]]) plot.setSize({ width: $(id).clientWidth, height: plot.height }); rows(); }));
  addEventListener("hashchange", follow);
  causes();
  wrong();
  build();
  follow();
  $("loading").remove();
  document.documentElement.dataset.ready = "true";
}

read().then(start).catch((error) => { $("loading").textContent = "The report cannot be read: " + visible(error.message); throw error; });
