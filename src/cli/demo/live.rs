//! Pure: what the demo prints each second, made from two readings of /metrics and of the load's own counts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What is read once a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Transactions so far, by node name.
    pub transactions: BTreeMap<String, f64>,
    /// Seconds behind the primary, by node name.
    pub lag: BTreeMap<String, f64>,
    pub reads: u64,
    pub writes: u64,
    pub stale: u64,
    pub errors: u64,
}

impl Reading {
    /// Takes what the line needs from the text of /metrics.
    pub fn take_metrics(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (Some((name, _)), Ok(value)) = (series.split_once('{'), value.parse::<f64>()) else { continue };
            let Some(node) = label(series, "node").filter(|node| !node.is_empty()) else { continue };
            match name {
                "pgweir_transactions_total" => *self.transactions.entry(node).or_default() += value,
                "pgweir_replica_lag_seconds" => drop(self.lag.insert(node, value)),
                _ => {}
            }
        }
    }
}

/// The value of a label of a series.
fn label(series: &str, name: &str) -> Option<String> {
    let (_, after) = series.split_once(&format!("{name}=\""))?;
    after.split_once('"').map(|(value, _)| value.to_string())
}

/// One line. `nodes`: pgweir's name and ours, the primary first.
pub fn line(second: u64, before: &Reading, now: &Reading, nodes: &[(String, String)]) -> String {
    let since = |node: &str| {
        let of = |reading: &Reading| reading.transactions.get(node).copied().unwrap_or(0.0);
        (of(now) - of(before)).max(0.0)
    };
    let on_replicas: f64 = nodes.iter().skip(1).map(|(node, _)| since(node)).sum();
    let reads = now.reads.saturating_sub(before.reads);
    let mut line = format!("{second:4} s  {reads:5} reads/s");
    for (node, shown) in nodes.iter().skip(1) {
        let share = if on_replicas > 0.0 { 100.0 * since(node) / on_replicas } else { 0.0 };
        let lag =
            now.lag.get(node).map_or("lag unknown".to_string(), |seconds| format!("lag {:.0} ms", seconds * 1000.0));
        write_to(&mut line, format_args!("  {shown} {share:3.0}% ({lag})"));
    }
    let moved = if reads > 0 { (100.0 * on_replicas / reads as f64).min(100.0) } else { 0.0 };
    let writes = now.writes.saturating_sub(before.writes);
    write_to(&mut line, format_args!("  {moved:3.0}% of reads off the primary  {writes:4} writes/s"));
    write_to(&mut line, format_args!("  stale {}  errors {}", now.stale, now.errors));
    line
}

fn write_to(line: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _ = line.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP pgweir_transactions_total x\n\
        pgweir_transactions_total{route=\"primary\",node=\"a:1\",reason=\"write\"} 10\n\
        pgweir_transactions_total{route=\"replica\",node=\"b:2\",reason=\"read\"} 60\n\
        pgweir_transactions_total{route=\"replica\",node=\"c:3\",reason=\"read\"} 30\n\
        pgweir_transactions_total{route=\"replica\",node=\"c:3\",reason=\"hint\"} 10\n\
        pgweir_transactions_total{route=\"pgweir\",node=\"\",reason=\"session_state\"} 5\n\
        pgweir_replica_lag_seconds{node=\"b:2\"} 0.0031\n\
        process_open_fds 12\n";

    fn nodes() -> Vec<(String, String)> {
        vec![("a:1".into(), "primary".into()), ("b:2".into(), "replica1".into()), ("c:3".into(), "replica2".into())]
    }

    #[test]
    fn metrics_are_summed_by_node() {
        let mut reading = Reading::default();
        reading.take_metrics(METRICS);
        assert_eq!(reading.transactions.get("c:3"), Some(&40.0));
        assert_eq!(reading.transactions.len(), 3);
        assert_eq!(reading.lag.get("b:2"), Some(&0.0031));
    }

    #[test]
    fn the_line_tells_shares_and_lag() {
        let before = Reading::default();
        let mut now = Reading { reads: 100, writes: 10, ..Reading::default() };
        now.take_metrics(METRICS);
        let line = line(7, &before, &now, &nodes());
        for part in [
            "7 s",
            "100 reads/s",
            "replica1  60% (lag 3 ms)",
            "replica2  40% (lag unknown)",
            "100% of reads",
            "10 writes/s",
            "stale 0",
        ] {
            assert!(line.contains(part), "{part:?} is missing in {line:?}");
        }
    }

    #[test]
    fn a_second_without_anything_divides_by_nothing() {
        let line = line(1, &Reading::default(), &Reading::default(), &nodes());
        assert!(line.contains("0% of reads off the primary"), "{line}");
    }
}
