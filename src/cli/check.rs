//! `pgweir check`: asks every node once and says what a running pgweir would make of it. It uses the very monitor of
//! `run`, so that its verdict is the one that counts. Prints to standard output; changes nothing anywhere.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::dial::{Dial, Plain};
use crate::cluster::{Cluster, ClusterView, Health, NodeView, Role, monitor};
use crate::config::Config;

/// A replica whose lag is not known by then is further behind than the check ran.
const PATIENCE: Duration = Duration::from_secs(3);

/// Checks with connections that know no TLS; see `run_with`.
pub async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    run_with(config, Arc::new(Plain)).await
}

/// Connects, reports, and fails if there is no primary or a node would not be used.
pub async fn run_with(config: &Config, dial: Arc<dyn Dial>) -> anyhow::Result<ExitCode> {
    let mut watch = config.cluster.clone();
    watch.probe_interval = watch.probe_interval.min(Duration::from_millis(100));
    let cluster = Cluster::new(config.nodes.clone(), watch, dial);
    let view = survey(&cluster, config.cluster.probe_timeout.saturating_add(PATIENCE)).await;
    let problems = problems(&view);
    print!("{}", report(&view, &problems));
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Watches until every node has shown what it is, or until the limit.
async fn survey(cluster: &Arc<Cluster>, limit: Duration) -> Arc<ClusterView> {
    let settled = async {
        loop {
            let view = cluster.view();
            if view.primary.is_some() && view.nodes.iter().all(is_settled) {
                return view;
            }
            cluster.changed().await;
        }
    };
    tokio::select! {
        view = settled => view,
        () = monitor::run(Arc::clone(cluster)) => cluster.view(),
        () = tokio::time::sleep(limit) => cluster.view(),
    }
}

fn is_settled(node: &NodeView) -> bool {
    match node.health {
        Health::Healthy | Health::Lagging | Health::Refused(_) => true,
        Health::Down(_) => node.observation == 0 && node.facts.last_error.is_some(),
    }
}

/// What keeps the cluster from being used as configured.
fn problems(view: &ClusterView) -> Vec<String> {
    let mut problems = Vec::new();
    if view.primary.is_none() {
        problems.push("no node is a primary: writes would wait".to_owned());
    }
    for node in &view.nodes {
        match &node.health {
            Health::Healthy | Health::Lagging => {}
            Health::Down(_) if node.observation > 0 => {}
            Health::Down(why) => problems.push(format!("{} cannot be reached: {why}", node.name)),
            Health::Refused(why) => problems.push(format!("{} would get no reads: {why}", node.name)),
        }
    }
    problems
}

/// The table, the notes and the verdict.
fn report(view: &ClusterView, problems: &[String]) -> String {
    let mut rows = vec![["NODE", "ROLE", "STATE", "LAG", "BEHIND", "TIMELINE", "VERSION", "PROBE"].map(str::to_owned)];
    rows.extend(view.nodes.iter().map(row));
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    for node in &view.nodes {
        for note in &node.facts.notes {
            let _ = writeln!(text, "note: {}: {note}", node.name);
        }
    }
    for problem in problems {
        let _ = writeln!(text, "problem: {problem}");
    }
    let replicas =
        view.nodes.iter().filter(|node| node.role == Role::Replica && node.health == Health::Healthy).count();
    let _ = match (problems.is_empty(), replicas) {
        (false, _) => writeln!(text, "not ready: {} problem(s)", problems.len()),
        (true, 0) => writeln!(text, "ready, but no replica takes reads: all of them would go to the primary"),
        (true, count) => writeln!(text, "ready: writes go to the primary, reads to {count} replica(s)"),
    };
    text
}

fn row(node: &NodeView) -> [String; 8] {
    let seen = node.observation > 0;
    let or_dash = |text: Option<String>| text.filter(|_| seen).unwrap_or_else(|| "-".to_owned());
    let role = match node.role {
        Role::Primary => "primary",
        Role::Replica => "replica",
        Role::Unknown => "-",
    };
    let state = match (&node.health, seen) {
        (Health::Healthy, _) => "ok",
        (Health::Lagging, _) | (Health::Down(_), true) => "lagging",
        (Health::Down(_), false) => "unreachable",
        (Health::Refused(_), _) => "refused",
    };
    let replica = node.role == Role::Replica;
    let lag = node.lag_observed.map_or_else(|| "unknown".to_owned(), |lag| format!("{} ms", lag.as_millis()));
    [
        node.name.clone(),
        role.to_owned(),
        state.to_owned(),
        or_dash(replica.then_some(lag)),
        or_dash(node.lag_bytes.map(|bytes| format!("{bytes} B"))),
        or_dash(Some(node.timeline.0.to_string())),
        or_dash(Some(node.facts.version.clone())),
        or_dash(node.facts.probe_time.map(|took| format!("{:.1} ms", took.as_secs_f64() * 1000.0))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::samples::{replica, view};
    use crate::cluster::{Lsn, NodeFacts};

    fn unreachable_node(id: u16) -> NodeView {
        NodeView {
            health: Health::Down("connection refused".into()),
            role: Role::Unknown,
            observation: 0,
            ..replica(id, 0)
        }
    }

    #[test]
    fn a_cluster_in_order_is_ready() {
        let view = view(vec![replica(1, 10), replica(2, 10)]);
        let found = problems(&view);
        assert!(found.is_empty());
        assert!(report(&view, &found).ends_with("ready: writes go to the primary, reads to 2 replica(s)\n"));
    }

    #[test]
    fn each_problem_is_named() {
        let refused = NodeView { health: Health::Refused("another cluster".into()), ..replica(1, 10) };
        let mut view = view(vec![refused, unreachable_node(2)]);
        view.primary = None;
        let text = report(&view, &problems(&view));
        for expected in
            ["no node is a primary", "node1:5432 would get no reads: another cluster", "node2:5432 cannot be"]
        {
            assert!(text.contains(expected), "{expected} not in:\n{text}");
        }
        assert!(text.ends_with("not ready: 3 problem(s)\n"));
    }

    #[test]
    fn columns_are_aligned_and_the_unknown_is_a_dash() {
        let facts =
            Arc::new(NodeFacts { version: "15.20".into(), notes: vec!["a note".into()], ..NodeFacts::default() });
        let view = view(vec![NodeView { facts, replay: Lsn(5), ..replica(1, 10) }, unreachable_node(2)]);
        let text = report(&view, &[]);
        let lines: Vec<&str> = text.lines().collect();
        let column = lines[0].find("STATE").expect("a header");
        assert!(lines[2][column..].starts_with("ok"));
        assert!(lines[3][column..].starts_with("unreachable"));
        assert!(lines[3].ends_with('-'));
        assert!(text.contains("note: node1:5432: a note"));
    }
}
