"""Samples → what is printed: Markdown for people, and the chart of the README. It computes medians and ratios, and nothing
else; a ratio is the median of the rounds' ratios, because both sides of a round met the same neighbours."""

import html
from statistics import median

PROXIES = {"pgweir": "#2563eb", "PgBouncer": "#94a3b8", "HAProxy": "#cbd5e1", "Pgpool-II": "#64748b", "bare relay": "#e2e8f0"}


def values(samples, case, front, key):
    """Of all rounds of one case at one front, in order of the rounds."""
    return [s[key] for s in samples if s["case"] == case and s["front"] == front and s["error"] is None and s[key] is not None]


def middle(samples, case, front, key):
    found = values(samples, case, front, key)
    return median(found) if found else None


def ratio(samples, case, front, other, key):
    """front : other, round by round."""
    by_round = {(s["front"], s["round"]): s[key] for s in samples if s["case"] == case and s["error"] is None}
    rounds = {number for _, number in by_round}
    found = [by_round[front, n] / by_round[other, n] for n in rounds if by_round.get((front, n)) and by_round.get((other, n))]
    return median(found) if found else None


def number(value, digits=1):
    return "–" if value is None else f"{value:,.{digits}f}"


def percent(value):
    return "–" if value is None else f"{value * 100:.0f} %"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def peers_table(result):
    """Proxy CPU and throughput, the table that the README carries."""
    samples, cases = result["samples"], [case for case in result["cases"] if case["name"] != "large"]
    rows = []
    for front in result["fronts"]:
        row = [front["label"]]
        for case in cases:
            cpu = number(middle(samples, case["name"], front["label"], "proxy_cpu")) if front["label"] != "direct" else "–"
            share = number(ratio(samples, case["name"], front["label"], "direct", "tps"), 2)
            row.append("–" if share == "–" else f"{cpu} ({share})")
        held = result["idle"].get(front["label"])
        rows.append(row + [number(held["kib"]) if held else "–"])
    head = [""] + [case["title"] for case in cases] + ["KiB per idle client"]
    return table(head, rows)


def detail_table(result):
    rows = []
    for case in result["cases"]:
        for front in result["fronts"]:
            cell = [result["samples"], case["name"], front["label"]]
            failed = next((s["error"] for s in cell[0] if s["case"] == cell[1] and s["front"] == cell[2] and s["error"]), None)
            if failed and middle(*cell, "tps") is None:
                rows.append([case["title"], front["label"], f"not measured: {failed}"] + [""] * 6)
                continue
            rows.append([
                case["title"], front["label"], number(middle(*cell, "tps"), 0), number(middle(*cell, "p50"), 3),
                number(middle(*cell, "p99"), 3), number(middle(*cell, "proxy_cpu")), number(middle(*cell, "server_cpu")),
                number(middle(*cell, "megabytes_a_second"), 0), percent(middle(*cell, "offloaded")),
            ])
    head = ["load", "through", "tps", "p50 ms", "p99 ms", "proxy CPU µs", "servers' CPU µs", "MB/s", "on replicas"]
    return table(head, rows)


def aims_table(result):
    """pgweir's ratios to the peers that it wants to beat; under 1.00 is less CPU or time, over 1.00 more throughput."""
    samples, rows = result["samples"], []

    def add(what, aim, case, other, key):
        rows.append([what, aim, number(ratio(samples, case, "pgweir", other, key), 2)])

    for case, title in (("simple", "`-S` simple"), ("prepared", "`-S` prepared"), ("one_64", "`SELECT 1` at 64"), ("mix", "9 : 1"), ("tpc_b", "TPC-B"), ("churn", "login and query")):
        add(f"CPU per transaction, {title} : PgBouncer's", "≤ 1.00", case, "PgBouncer", "proxy_cpu")
    add("throughput, `-S` extended : direct's", "≥ 1.20", "extended", "direct", "tps")
    add("throughput, TPC-B : PgBouncer's", "≥ 1.00", "tpc_b", "PgBouncer", "tps")
    added = [middle(samples, "one_1", front, "p50") for front in ("direct", "pgweir", "PgBouncer")]
    gained = (added[1] - added[0]) / (added[2] - added[0]) if None not in added and added[2] > added[0] else None
    rows.append(["p50 that `SELECT 1` at one client gains over direct : PgBouncer's", "≤ 1.00", number(gained, 2)])
    add("10-MB results, MB/s : HAProxy's", "≥ 0.95", "large", "HAProxy", "megabytes_a_second")
    held = result["idle"].get("pgweir")
    rows.append(["KiB per idle client", "≤ 1.5", number(held["kib"], 2) if held else "–"])
    for case, asked in result["allocations"].items():
        rows.append([f"allocations for each query, `-S` {case}", "0", number(asked, 3)])
    for front, found in result["logins"].items():
        share = found["during"] / found["alone"] if found["alone"] and found["during"] else None
        rows.append([f"{front}: p99 of running clients during 200 logins a second : without", "≤ 2", number(share, 2)])
    return table(["pgweir", "aim", "measured"], rows)


def staleness_table(rows):
    lines = []
    for row in rows:
        head = [str(row["lagging"]), row["level"]]
        if "age" not in row:
            lines.append(head + [row["error"]] + [""] * 6)
            continue
        age, took = row["age"], row["latency"]
        lines.append(head + [
            percent(row["offloaded"]), percent(age["none"]), number(age["p50"]), number(age["p99"]), number(age["max"]),
            f"{row['own_missed']} of {row['own']}", f"{took['p50']:.2f} / {took['p99']:.2f}",
        ])
    head = ["replicas lagging", "level", "on replicas", "up to date", "age p50 ms", "p99", "most", "own writes missed", "latency p50 / p99 ms"]
    return table(head, lines)


def classification_table(rows):
    lines = []
    for statement in ("known", "new"):
        for front in ("direct", "pgweir, one node", "pgweir"):
            samples = [row | {"case": row["statement"]} for row in rows]
            cell = [samples, statement, front]
            name = "pgweir, three nodes" if front == "pgweir" else front
            lines.append([statement, name, number(middle(*cell, "p50"), 3), number(middle(*cell, "p99"), 3), number(middle(*cell, "proxy_cpu"))])
    return table(["statement", "through", "p50 ms", "p99 ms", "proxy CPU µs"], lines)


def events_table(rows):
    def cell(side):
        errors = ", ".join(f"{count} × {state}" for state, count in sorted(side["errors"].items())) or "none"
        return [errors, number(side["pause"], 0)]

    lines = []
    for row in rows:
        event = row["event"] + (f" ({row['promoted']:,.0f} ms after)" if "promoted" in row else "")
        lines.append([event, *cell(row["reads"]), *cell(row["writes"])])
    return table(["", "errors of 4 readers", "longest pause ms", "errors of 2 writers", "longest pause ms"], lines)


def described(result):
    machine, amount = result["machine"], result["amount"]
    what = f"{amount['rounds']} interleaved rounds of {amount['seconds']:g} s" if not amount["transactions"] else "the small form: figures mean nothing"
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}; load generator, proxies "
        f"and servers share them over loopback; pgbench scale {result['scale']}, fsync off; {what}; {result['date']}. Medians.",
        "",
        "; ".join(dict.fromkeys(result["versions"].values())) + ".",
        "",
    ]
    lines += [f"- {front['label']}: {front['note']}" for front in result["fronts"] if front["note"]]
    return "\n".join(lines) + "\n"


def markdown(result):
    parts = [
        "# pgweir's benchmark\n", described(result),
        "## The proxy's CPU in µs per transaction (and throughput relative to direct)\n", peers_table(result),
        "## Aims\n", aims_table(result), "## Everything\n", detail_table(result),
    ]
    if split := result.get("splitting"):
        parts += [
            "## How old reads are\n",
            "A row is counted up through pgweir all the time; a read is as old as the oldest acknowledged write that it does not show. "
            "A lagging replica stands still for a second, then replays for 0.25 s, and again.\n",
            staleness_table(split["staleness"]), "## What a verdict costs: one client\n", classification_table(split["classification"]),
            "## What clients notice\n", events_table(split["events"]),
        ]
    return "\n".join(parts)


def readme(result):
    """The part that README.md carries between its two markers."""
    parts = [described(result), peers_table(result), "![CPU per transaction](tests/bench/chart.svg)\n"]
    if split := result.get("splitting"):
        parts += ["What splitting itself gives, which is measured in the same run:\n", staleness_table(split["staleness"]), events_table(split["events"])]
    return "\n".join(parts)


def chart(result):
    """Bars of the proxy's CPU per transaction, as SVG that a README can show on light and dark pages."""
    samples, cases = result["samples"], [case for case in result["cases"] if case["name"] not in ("large", "churn", "tpc_b")]
    fronts = [front["label"] for front in result["fronts"] if front["label"] in PROXIES]
    bars = [(case["title"].replace("`", ""), [(f, middle(samples, case["name"], f, "proxy_cpu")) for f in fronts]) for case in cases]
    most = max((value for _, row in bars for _, value in row if value), default=1)
    height = 46 + sum(26 + 17 * len(row) for _, row in bars)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="760" height="{height}" rx="8" fill="#ffffff"/>',
        '<text x="16" y="26" font-size="15" font-weight="600" fill="#0f172a">CPU of the proxy, µs per transaction (less is better)</text>',
    ]
    y = 46
    for title, row in bars:
        out.append(f'<text x="16" y="{y + 12}" font-weight="600" fill="#334155">{html.escape(title)}</text>')
        y += 18
        for front, value in row:
            out.append(f'<text x="112" y="{y + 12}" text-anchor="end" fill="#475569">{html.escape(front)}</text>')
            width = 560 * (value or 0) / most
            out.append(f'<rect x="120" y="{y + 2}" width="{width:.1f}" height="13" rx="2" fill="{PROXIES[front]}" stroke="#64748b" stroke-width="0.4"/>')
            out.append(f'<text x="{126 + width:.1f}" y="{y + 12}" fill="#0f172a">{number(value)}</text>')
            y += 17
        y += 8
    return "\n".join(out + ["</svg>"]) + "\n"
