// Polls /api/status each second, keeps three minutes of history in this page, and draws it. The counters are totals since
// pgweir's start: every rate here is a difference of two answers. Text from the server is set as text, never as HTML.
"use strict";

const KEEP = 180;
// Reasons why something that only reads ran on the primary; all others are writes, DDL and session work.
const READ_REASONS = new Set(["read", "replica", "floor_unknown", "floor_lost", "replica_behind", "last_read_uncovered",
  "max_lag", "no_replica", "replica_failed", "catalog_changing", "rebalance", "consistency_primary", "learned"]);
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

let history = [];
let answers = [];
let shown = null;

// --- small pieces ---------------------------------------------------------------------------------------------------

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return (value / 1e9).toFixed(1) + "G";
  if (size >= 1e6) return (value / 1e6).toFixed(1) + "M";
  if (size >= 1e4) return (value / 1e3).toFixed(1) + "k";
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toFixed(1);
}

function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit++; }
  return (unit && value < 100 ? value.toFixed(1) : Math.round(value)) + " " + units[unit];
}

function time(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return ["–", ""];
  if (seconds === Infinity) return [">10", "s"];
  if (seconds < 1e-3) return [Math.round(seconds * 1e6), "µs"];
  if (seconds < 1) return [(seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0), "ms"];
  return [seconds.toFixed(1), "s"];
}

const timeText = (seconds) => time(seconds).join(" ").trim();

function duration(seconds) {
  const days = Math.floor(seconds / 86400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${Math.floor(seconds) % 60} s` : `${Math.floor(seconds)} s`;
}

function big(id, value, unit) {
  const place = byId(id);
  place.replaceChildren(document.createTextNode(value));
  if (unit) place.append(element("small", "", unit));
}

function colour(node, nodes) {
  if (!node) return "var(--own)";
  if (node.role === "primary") return "var(--primary)";
  // By its place in the configuration, so that a node keeps its colour when another one changes its role.
  return `var(--s${Math.max(0, nodes.indexOf(node) + 5) % 6})`;
}

// --- differences of answers -----------------------------------------------------------------------------------------

const routedKey = (row) => `${row.route}\u0000${row.node}\u0000${row.reason}`;

// What was counted between two answers, by key.
function difference(older, newer, key) {
  const before = new Map((older || []).map((row) => [key(row), row.count]));
  return newer.map((row) => ({ ...row, count: Math.max(0, row.count - (before.get(key(row)) || 0)) }));
}

const sum = (rows) => rows.reduce((total, row) => total + row.count, 0);

// The times counted between two answers, over all nodes, as one histogram.
function timesBetween(older, newer) {
  const merged = newer.bounds_micros.concat([Infinity]).map(() => 0);
  const add = (rows, sign) => rows.forEach((row) => row.times.buckets.forEach((count, i) => { merged[i] += sign * count; }));
  add(newer.query_times, 1);
  add(older.query_times, -1);
  return merged;
}

// The time that a share of all stayed under, interpolated inside its bucket.
function quantile(buckets, bounds, share) {
  const total = buckets.reduce((a, b) => a + b, 0);
  if (total <= 0) return NaN;
  let below = 0;
  for (let i = 0; i < buckets.length; i++) {
    if (below + buckets[i] >= share * total && buckets[i] > 0) {
      if (i >= bounds.length) return Infinity;
      const low = i ? bounds[i - 1] : 0;
      return (low + (bounds[i] - low) * (share * total - below) / buckets[i]) / 1e6;
    }
    below += buckets[i];
  }
  return NaN;
}

function take(status) {
  const older = answers[answers.length - 1];
  if (older && status.uptime_seconds < older.uptime_seconds) { answers = []; history = []; }
  const last = answers[answers.length - 1];
  answers.push(status);
  if (answers.length > 61) answers.shift();
  if (last) history.push(point(last, status));
  if (history.length > KEEP) history.shift();
}

function point(older, newer) {
  const seconds = Math.max(0.001, newer.uptime_seconds - older.uptime_seconds);
  const counted = difference(older.statements, newer.statements, routedKey);
  const isRead = (row) => row.route === "replica" || (row.route === "primary" && READ_REASONS.has(row.reason));
  const nodes = {};
  for (const node of newer.nodes) {
    const own = counted.filter((row) => row.node === node.name);
    const reads = own.filter(isRead), off = reads.filter((row) => row.route === "replica");
    nodes[node.name] = { all: sum(own) / seconds, reads: sum(reads) / seconds, off: sum(off) / seconds, lag: node.lag_seconds };
  }
  const times = timesBetween(older, newer);
  const perSecond = (now, before) => Math.max(0, now - before) / seconds;
  return {
    nodes,
    all: sum(counted) / seconds,
    p50: quantile(times, newer.bounds_micros, 0.5),
    p99: quantile(times, newer.bounds_micros, 0.99),
    clients: newer.clients.connected,
    accepted: perSecond(newer.clients.accepted, older.clients.accepted),
    errors: perSecond(sum(newer.errors), sum(older.errors)),
    retries: perSecond(sum(newer.retries), sum(older.retries)),
  };
}

// --- drawing --------------------------------------------------------------------------------------------------------

function path(svg, name) {
  let found = svg.querySelector("path." + name);
  if (!found) {
    found = document.createElementNS(SVG, "path");
    found.setAttribute("class", name);
    svg.append(found);
  }
  return found;
}

const across = (index, count) => 100 - (count - 1 - index) * 100 / (KEEP - 1);

function spark(svg, values, least) {
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  const top = Math.max(least, ...values.filter(Number.isFinite)) * 1.1 || 1;
  let line = "", first = null, end = 0;
  values.forEach((value, i) => {
    if (!Number.isFinite(value)) return;
    const x = across(i, values.length), y = 98 - 96 * value / top;
    line += `${first === null ? "M" : "L"}${x.toFixed(2)} ${y.toFixed(2)}`;
    if (first === null) first = x;
    end = x;
  });
  path(svg, "line").setAttribute("d", line);
  path(svg, "area").setAttribute("d", line ? `${line}L${end.toFixed(2)} 100L${first.toFixed(2)} 100Z` : "");
}

function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 2.5, 4, 5, 8, 10].map((step) => step * power).find((step) => step >= value) || 10 * power;
}

function flow(status) {
  const svg = byId("flow");
  const top = roundUp(Math.max(1, ...history.map((p) => Object.values(p.nodes).reduce((a, n) => a + n.all, 0))));
  svg.setAttribute("viewBox", "0 0 100 100");
  // The primary lies at the bottom: how thin it is, is the point of the whole thing.
  const order = [...status.nodes].sort((a, b) => (b.role === "primary") - (a.role === "primary"));
  const base = history.map(() => 0);
  const drawn = order.map((node) => {
    const lower = base.map((value, i) => [across(i, history.length), 100 - 100 * value / top]);
    history.forEach((p, i) => { base[i] += p.nodes[node.name] ? p.nodes[node.name].all : 0; });
    const upper = base.map((value, i) => [across(i, history.length), 100 - 100 * value / top]);
    const text = (points) => points.map(([x, y]) => `${x.toFixed(2)} ${y.toFixed(2)}`).join("L");
    const made = document.createElementNS(SVG, "path");
    made.setAttribute("d", history.length > 1 ? `M${text(upper)}L${text(lower.reverse())}Z` : "");
    made.style.fill = made.style.stroke = colour(node, status.nodes);
    return made;
  });
  svg.replaceChildren(...drawn);
  byId("flow-grid").replaceChildren(...[1, 0.75, 0.5, 0.25].map((share) => {
    const line = element("div");
    line.style.top = `${100 - 100 * share}%`;
    line.append(element("span", "", number(top * share)));
    return line;
  }));
  byId("legend").replaceChildren(...order.map((node) => {
    const item = element("li"), last = history[history.length - 1];
    item.append(dot(colour(node, status.nodes)), element("span", "", node.name));
    item.append(element("b", "", last && last.nodes[node.name] ? number(last.nodes[node.name].all) : "–"));
    return item;
  }));
}

function dot(fill) {
  const made = element("span", "dot");
  made.style.background = fill;
  return made;
}

function hover(event) {
  const tip = byId("flow-tip"), box = byId("flow").getBoundingClientRect();
  const share = (event.clientX - box.left) / box.width;
  const index = history.length - 1 - Math.round((1 - share) * (KEEP - 1));
  if (!shown || index < 0 || index >= history.length) { tip.hidden = true; return; }
  const rows = shown.nodes.map((node) => {
    const row = element("div");
    const value = history[index].nodes[node.name];
    row.append(dot(colour(node, shown.nodes)), element("span", "", node.name), element("b", "", value ? number(value.all) : "–"));
    return row;
  });
  tip.replaceChildren(...rows, element("div", "quiet", `${history.length - 1 - index} s ago`));
  tip.hidden = false;
  tip.style.left = share < 0.6 ? `${share * 100 + 1}%` : "auto";
  tip.style.right = share < 0.6 ? "auto" : `${(1 - share) * 100 + 1}%`;
}

function tiles(status) {
  const now = history[history.length - 1];
  const seen = (name) => history.map((p) => p[name]);
  big("clients", number(status.clients.connected));
  byId("clients-note").textContent =
    `${now ? number(now.accepted) : "–"} new/s · ${number(status.clients.refused)} refused · ${number(status.clients.login_failures)} failed logins`;
  spark(byId("clients-spark"), seen("clients"), 4);
  if (!now) return;
  const reads = status.nodes.map((node) => [node, now.nodes[node.name].reads]);
  const all = reads.reduce((a, [, rate]) => a + rate, 0);
  const off = reads.reduce((a, [node]) => a + now.nodes[node.name].off, 0);
  big("offload", all > 0 ? (100 * off / all).toFixed(off === all ? 0 : 1) : "–", all > 0 ? "%" : "");
  byId("split").replaceChildren(...reads.filter(([, rate]) => rate > 0).map(([node, rate]) => {
    const part = element("span");
    part.style.flexGrow = rate;
    part.style.background = colour(node, status.nodes);
    part.title = `${node.name}: ${number(rate)} reads/s`;
    return part;
  }));
  byId("offload-note").textContent = `${number(off)} of ${number(all)} reads a second ran on replicas`;
  big("rate", number(now.all), "/s");
  byId("rate-note").textContent = `${number(all)} reads · ${number(Math.max(0, now.all - all))} other`;
  spark(byId("rate-spark"), seen("all"), 10);
  big("latency", ...time(now.p50));
  byId("latency-note").textContent = `median; p99 ${timeText(now.p99)}`;
  spark(byId("latency-spark"), seen("p99"), 0.0005);
  big("errors", number(now.errors), "/s");
  byId("errors-note").textContent = `${number(sum(status.errors))} since start · ${number(now.retries)} reads run again/s`;
  spark(byId("errors-spark"), seen("errors"), 1);
}

const stat = (name, value) => {
  const pair = element("div");
  pair.append(element("dt", "", name), element("dd", "", value));
  return pair;
};

function nodeCard(node, status) {
  const now = (history[history.length - 1] || { nodes: {} }).nodes[node.name];
  const card = element("article", "node" + (node.trouble ? " out" : ""));
  card.style.setProperty("--colour", colour(node, status.nodes));
  const title = element("div", "title");
  title.append(element("span", "name", node.name), element("span", `badge ${node.role}`, node.role), element("span", `badge ${node.health}`, node.health));
  const stats = element("dl", "stats");
  stats.style.margin = "0";
  stats.append(
    stat("reads/s", now ? number(now.reads) : "–"), stat("other/s", now ? number(Math.max(0, now.all - now.reads)) : "–"),
    stat("in flight", number(node.in_flight)), stat("read time", node.read_latency_seconds ? timeText(node.read_latency_seconds) : "–"));
  const lag = element("div", "lag"), told = element("div");
  const line = document.createElementNS(SVG, "svg");
  line.setAttribute("class", "spark");
  if (node.role === "replica") {
    told.append(element("span", "quiet", "lag"), element("strong", "", timeText(node.lag_seconds)), element("span", "quiet", bytes(node.lag_bytes)));
    spark(line, history.map((p) => { const v = p.nodes[node.name] && p.nodes[node.name].lag; return v === null || v === undefined ? NaN : v; }), 0.05);
  } else {
    told.append(element("span", "quiet", "timeline"), element("strong", "", node.timeline || "–"), element("span", "quiet", `weight ${node.weight}`));
    spark(line, history.map((p) => (p.nodes[node.name] ? p.nodes[node.name].all : NaN)), 10);
  }
  lag.append(told, line);
  card.append(title, stats, lag);
  if (node.trouble) card.append(element("p", "trouble", node.trouble));
  return card;
}

// Rows of [label, count, fill, note], the longest bar first.
function bars(id, rows, none) {
  const most = Math.max(1, ...rows.map(([, count]) => count));
  const made = rows.sort((a, b) => b[1] - a[1]).slice(0, 10).map(([label, count, fill, note]) => {
    const bar = element("div", "bar"), what = element("div", "what"), amount = element("div", "amount", number(count));
    bar.style.setProperty("--colour", fill);
    what.append(dot(fill), element("span", "", label));
    what.title = label;
    if (note) amount.append(element("small", "", note));
    const track = element("div", "track"), filled = element("i");
    filled.style.width = `${Math.max(1, 100 * count / most)}%`;
    track.append(filled);
    bar.append(what, amount, track);
    return bar;
  });
  byId(id).replaceChildren(...(made.length ? made : [element("p", "empty", none)]));
}

const words = (label) => label.replaceAll("_", " ");

function lists(status) {
  const minute = difference(answers[0].statements, status.statements, routedKey);
  const grouped = new Map();
  for (const row of minute.filter((r) => r.count > 0)) {
    const key = `${row.route}\u0000${row.reason}`;
    grouped.set(key, { ...row, count: row.count + (grouped.has(key) ? grouped.get(key).count : 0) });
  }
  const total = sum([...grouped.values()]) || 1;
  const fills = { primary: "var(--primary)", replica: "var(--s0)", pgweir: "var(--own)" };
  bars("reasons", [...grouped.values()].map((row) =>
    [`${row.route} · ${words(row.reason)}`, row.count, fills[row.route], `${(100 * row.count / total).toFixed(1)} %`]), "No statements in the last minute.");
  bars("pins", status.pins.map((pin) => [words(pin.name), pin.count, "var(--s2)"]), "No session keeps a server connection to itself.");
  bars("retries", status.retries.map((retry) => [words(retry.name), retry.count, "var(--warn)"]), "No replica failed a read.");
  bars("error-list", status.errors.map((error) => [`${error.fault} · class ${error.class}`, error.count, "var(--bad)"]), "No errors.");
}

const cell = (text, className) => element("td", className || "", text);

function pools(status) {
  const rows = [...status.pools].sort((a, b) => b.waiting - a.waiting || b.in_use - a.in_use).slice(0, 40).map((pool) => {
    const row = element("tr"), shares = element("td", "wide"), fill = element("div", "fill"), gauge = element("div", "gauge");
    gauge.style.setProperty("--colour", colour(status.nodes.find((node) => node.name === pool.node), status.nodes));
    for (const [name, count] of [["used", pool.in_use], ["idle", pool.idle]]) {
      const part = element("span", name);
      part.style.width = `${100 * count / Math.max(1, pool.size)}%`;
      gauge.append(part);
    }
    fill.append(gauge, element("small", "", `${pool.in_use} + ${pool.idle} of ${pool.size}`));
    fill.title = `${pool.in_use} in use, ${pool.idle} idle, at most ${pool.size}`;
    shares.append(fill);
    const waiting = pool.waiting ? `${number(pool.waiting)} (${timeText(pool.longest_wait_seconds)})` : "0";
    row.append(cell(pool.node), cell(pool.database), cell(pool.user), shares, cell(waiting, "number" + (pool.waiting ? " hot" : "")));
    return row;
  });
  byId("pools").tBodies[0].replaceChildren(...rows);
  const waiting = status.pools.reduce((a, pool) => a + pool.waiting, 0);
  byId("pools-note").textContent = `in use + idle of the limit · ${number(waiting)} waiting`;
}

function accounts(status) {
  const last = answers[answers.length - 2];
  const seconds = last ? status.uptime_seconds - last.uptime_seconds : NaN;
  const key = (row) => `${row.database}\u0000${row.user}`;
  const before = new Map((last ? last.accounts : []).map((row) => [key(row), row]));
  const rows = [...status.accounts].sort((a, b) => b.statements - a.statements).slice(0, 20).map((account) => {
    const old = before.get(key(account)) || account, row = element("tr");
    const rate = (name) => (account[name] - old[name]) / seconds;
    row.append(cell(account.database), cell(account.user), cell(number(account.clients), "number"), cell(number(rate("transactions")), "number"),
      cell(number(rate("statements")), "number"), cell(`${number(rate("query_seconds"))} cores`, "number"), cell(number(account.errors), "number"));
    return row;
  });
  byId("accounts").tBodies[0].replaceChildren(...rows);
  const { hits, misses, parses } = status.verdicts;
  byId("verdicts").textContent = hits + misses
    ? `${(100 * hits / (hits + misses)).toFixed(2)} % of statements known by fingerprint · ${number(parses)} parsed` : "";
}

function draw(status) {
  shown = status;
  byId("version").textContent = status.version;
  byId("uptime").textContent = `up ${duration(status.uptime_seconds)}`;
  const { primary, timeline } = status.cluster;
  byId("cluster").textContent = `${status.nodes.length} nodes · primary ${primary || "unknown"} · timeline ${timeline}`;
  readiness(status.not_ready);
  tiles(status);
  flow(status);
  byId("nodes").replaceChildren(...status.nodes.map((node) => nodeCard(node, status)));
  lists(status);
  pools(status);
  accounts(status);
}

function readiness(why, lost) {
  const pill = byId("ready");
  pill.className = `pill ${why.length ? "bad" : "good"}`;
  pill.querySelector("b").textContent = lost ? "no answer" : why.length ? "not ready" : "ready";
  byId("banner").hidden = !why.length;
  byId("banner").textContent = why.join("\n");
}

// --- the loop -------------------------------------------------------------------------------------------------------

async function poll() {
  try {
    const answer = await fetch("api/status", { signal: AbortSignal.timeout(3000), cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const status = await answer.json();
    take(status);
    draw(status);
  } catch (error) {
    readiness([`pgweir does not answer (${error.message}); the figures below are the last ones known.`], true);
  }
  setTimeout(poll, 1000);
}

function theme(wanted) {
  document.documentElement.dataset.theme = wanted;
}

const stored = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
const dark = matchMedia("(prefers-color-scheme: dark)");
theme(stored || (dark.matches ? "dark" : "light"));
dark.addEventListener("change", (event) => theme(event.matches ? "dark" : "light"));
byId("theme").addEventListener("click", () => {
  const wanted = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  theme(wanted);
  try { localStorage.setItem("theme", wanted); } catch { /* a browser without storage forgets the choice */ }
});
byId("flow").addEventListener("mousemove", hover);
byId("flow").addEventListener("mouseleave", () => { byId("flow-tip").hidden = true; });
poll();
