//! Reads the text of /metrics into a map, so that tests can ask for sums over labels.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub fn read(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        Metrics(
            lines
                .map(|line| {
                    let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no metric: {line}"));
                    (name.to_string(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
                })
                .collect(),
        )
    }

    /// The sum of a metric over all series that carry these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        self.0
            .iter()
            .filter(|(series, _)| {
                let (own, rest) = series.split_once('{').unwrap_or((series, ""));
                own == name && wanted.iter().all(|label| rest.trim_end_matches('}').split(',').any(|has| has == label))
            })
            .map(|(_, value)| value)
            .sum()
    }

    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

#[test]
fn series_are_summed_by_their_labels() {
    let text = "# HELP x y\nx_total{route=\"replica\",node=\"a\"} 3\nx_total{route=\"replica\",node=\"b\"} 4\nx_total{route=\"primary\"} 1\nxy_total 9\n";
    let metrics = Metrics::read(text);
    assert_eq!(metrics.sum("x_total", &[("route", "replica")]), 7.0);
    assert_eq!(metrics.sum("x_total", &[]), 8.0);
    assert_eq!(metrics.sum("x_total", &[("route", "replica"), ("node", "b")]), 4.0);
    assert_eq!(metrics.sum("absent", &[]), 0.0);
}
