//! The numbers in Prometheus' text format. `admin` makes one `Exporter` and calls `text` for each scrape; the sums are
//! made then and there, so a pgweir that nobody scrapes pays nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use super::cells::{BOUNDS, Count, NODES};
use super::families::{self as f, Family, Kind};
use super::samples::{ClusterSample, PoolSample};
use super::totals::{HistogramTotals, RoutedTotal, Totals};
use super::{Metrics, SideCells};

/// What other parts know at the moment of a scrape.
type Source<T> = Box<dyn Fn() -> T + Send + Sync>;

/// Prints everything; registered once.
pub struct Exporter {
    registry: Registry,
}

impl Exporter {
    /// `cluster` and `pools` are asked at each scrape.
    pub fn new(
        metrics: Arc<Metrics>,
        cluster: Source<ClusterSample>,
        pools: Source<Vec<PoolSample>>,
    ) -> Result<Exporter, prometheus::Error> {
        let registry = Registry::new();
        let descriptions = f::ALL.iter().map(describe).collect::<Result<_, _>>()?;
        registry.register(Box::new(Scrape { metrics, cluster, pools, descriptions }))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Exporter { registry })
    }

    /// The text format, version 0.0.4.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn describe(family: &Family) -> Result<Desc, prometheus::Error> {
    let labels = family.labels.iter().map(|label| (*label).to_owned()).collect();
    Desc::new(family.name.to_owned(), family.help.to_owned(), labels, HashMap::new())
}

struct Scrape {
    metrics: Arc<Metrics>,
    cluster: Source<ClusterSample>,
    pools: Source<Vec<PoolSample>>,
    descriptions: Vec<Desc>,
}

impl Collector for Scrape {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let totals = self.metrics.totals();
        let cluster = (self.cluster)();
        let mut page = Page::default();
        page.set(&f::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        page.set(&f::UPTIME, &[], self.metrics.uptime().as_secs_f64());
        clients(&mut page, &totals);
        work(&mut page, &totals);
        sessions(&mut page, &totals);
        accounts(&mut page, &totals);
        nodes(&mut page, &cluster);
        side(&mut page, self.metrics.side(), &cluster);
        for pool in (self.pools)() {
            pool_lines(&mut page, &pool);
        }
        page.families
    }
}

/// The families filled so far.
#[derive(Default)]
struct Page {
    families: Vec<MetricFamily>,
}

impl Page {
    /// A counter's or a gauge's value; the labels' values in the order of their names.
    fn set(&mut self, family: &Family, labels: &[&str], value: f64) {
        let mut metric = Metric::from_label(pairs(family, labels));
        match family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.push(family, metric);
    }

    fn histogram(&mut self, family: &Family, labels: &[&str], times: &HistogramTotals) {
        let mut below = 0;
        let buckets = BOUNDS.iter().zip(&times.buckets).map(|(bound, count)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(f64::from(*bound) / 1e6);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(times.count());
        histogram.set_sample_sum(times.sum_micros as f64 / 1e6);
        let mut metric = Metric::from_label(pairs(family, labels));
        metric.set_histogram(histogram);
        self.push(family, metric);
    }

    fn push(&mut self, family: &Family, metric: Metric) {
        if let Some(last) = self.families.iter_mut().find(|known| known.name() == family.name) {
            last.mut_metric().push(metric);
            return;
        }
        let mut new = MetricFamily::default();
        new.set_name(family.name.to_owned());
        new.set_help(family.help.to_owned());
        new.set_field_type(match family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        new.mut_metric().push(metric);
        self.families.push(new);
    }
}

fn pairs(family: &Family, values: &[&str]) -> Vec<LabelPair> {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    family.labels.iter().zip(values).map(pair).collect()
}

fn clients(page: &mut Page, totals: &Totals) {
    page.set(&f::CLIENTS, &[], totals.clients() as f64);
    let counts = [
        (&f::CLIENTS_TOTAL, Count::ClientsOpened),
        (&f::CLIENTS_REFUSED, Count::ClientsRefused),
        (&f::LOGIN_FAILURES, Count::LoginFailures),
        (&f::CLIENT_RECEIVED, Count::BytesFromClients),
        (&f::CLIENT_SENT, Count::BytesToClients),
        (&f::SERVER_RECEIVED, Count::BytesFromServers),
        (&f::SERVER_SENT, Count::BytesToServers),
    ];
    for (family, count) in counts {
        page.set(family, &[], totals.count(count) as f64);
    }
}

fn work(page: &mut Page, totals: &Totals) {
    for (family, routed) in [(&f::TRANSACTIONS, totals.transactions()), (&f::STATEMENTS, totals.statements())] {
        for RoutedTotal { route, node, reason, count } in routed {
            page.set(family, &[route, &node, reason], count as f64);
        }
    }
    for (route, node, times) in totals.query_times() {
        page.histogram(&f::QUERY_TIME, &[route, node], &times);
    }
    for (route, node, times) in totals.checkout_times() {
        page.histogram(&f::CHECKOUT_TIME, &[route, node], &times);
    }
    page.histogram(&f::FLOOR_WAIT, &[], &totals.floor_waits());
    for (reason, count) in totals.retries() {
        page.set(&f::RETRIES, &[reason], count as f64);
    }
    for error in totals.errors() {
        page.set(&f::ERRORS, &[error.fault, error.class], error.count as f64);
    }
}

fn sessions(page: &mut Page, totals: &Totals) {
    for (kind, now, ever) in totals.pins() {
        page.set(&f::PINS, &[kind], now as f64);
        page.set(&f::PINS_TOTAL, &[kind], ever as f64);
    }
    let now = |opened, closed| totals.count(opened).saturating_sub(totals.count(closed)) as f64;
    page.set(&f::STATEMENTS_KEPT, &[], now(Count::StatementsKept, Count::StatementsClosed));
    page.set(&f::SERVER_PREPARES, &[], totals.count(Count::ServerPrepares) as f64);
    page.set(&f::AUTO_PREPARED, &[], totals.count(Count::AutoPrepared) as f64);
    page.set(&f::VERDICT_HITS, &[], totals.count(Count::VerdictHits) as f64);
    page.set(&f::VERDICT_MISSES, &[], totals.count(Count::VerdictMisses) as f64);
    page.set(&f::PARSES, &[], totals.count(Count::Parses) as f64);
    page.set(&f::CANCELS, &["delivered"], totals.count(Count::CancelsDelivered) as f64);
    page.set(&f::CANCELS, &["ignored"], totals.count(Count::CancelsUnknown) as f64);
}

fn accounts(page: &mut Page, totals: &Totals) {
    for account in &totals.accounts {
        let labels = [account.database.as_str(), account.user.as_str()];
        page.set(&f::DATABASE_CLIENTS, &labels, account.clients as f64);
        page.set(&f::DATABASE_TRANSACTIONS, &labels, account.transactions as f64);
        page.set(&f::DATABASE_STATEMENTS, &labels, account.statements as f64);
        page.set(&f::DATABASE_QUERY_SECONDS, &labels, account.query_seconds);
        page.set(&f::DATABASE_ERRORS, &labels, account.errors as f64);
    }
}

fn nodes(page: &mut Page, cluster: &ClusterSample) {
    page.set(&f::PRIMARY_KNOWN, &[], f64::from(u8::from(cluster.primary.is_some())));
    page.set(&f::PRIMARY_CHANGES, &[], cluster.epoch as f64);
    page.set(&f::TIMELINE, &[], f64::from(cluster.timeline));
    for node in &cluster.nodes {
        let name = node.name.as_str();
        let one_if = |held: bool| f64::from(u8::from(held));
        page.set(&f::NODE_UP, &[name], one_if(node.health != "down"));
        for role in ["primary", "replica", "unknown"] {
            page.set(&f::NODE_ROLE, &[name, role], one_if(node.role == role));
        }
        for health in ["healthy", "lagging", "down", "refused"] {
            page.set(&f::NODE_HEALTH, &[name, health], one_if(node.health == health));
        }
        if let Some(lag) = node.lag_seconds {
            page.set(&f::REPLICA_LAG, &[name], lag);
        }
        if let Some(lag) = node.lag_bytes {
            page.set(&f::REPLICA_LAG_BYTES, &[name], lag as f64);
        }
        page.set(&f::NODE_IN_FLIGHT, &[name], f64::from(node.in_flight));
        page.set(&f::NODE_LATENCY, &[name], node.read_latency_seconds);
        page.set(&f::NODE_PROBES, &[name], node.probes as f64);
    }
}

fn side(page: &mut Page, side: &SideCells, cluster: &ClusterSample) {
    let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed) as f64;
    for (index, node) in cluster.nodes.iter().enumerate().take(NODES) {
        page.set(&f::EVICTIONS, &[&node.name], read(&side.evictions[index]));
        page.set(&f::READMISSIONS, &[&node.name], read(&side.readmissions[index]));
    }
    page.set(&f::PRIMARY_SAMPLES, &[], read(&side.primary_samples));
    page.set(&f::CATALOG_RELOADS, &["ok"], read(&side.catalog_reloads));
    page.set(&f::CATALOG_RELOADS, &["failed"], read(&side.catalog_failures));
    page.set(&f::CONFIG_RELOADS, &["ok"], read(&side.config_reloads));
    page.set(&f::CONFIG_RELOADS, &["failed"], read(&side.config_failures));
}

fn pool_lines(page: &mut Page, pool: &PoolSample) {
    let (node, database, user) = (pool.node.as_str(), pool.database.as_str(), pool.user.as_str());
    page.set(&f::POOL_CONNECTIONS, &[node, database, user, "in_use"], pool.in_use as f64);
    page.set(&f::POOL_CONNECTIONS, &[node, database, user, "idle"], pool.idle as f64);
    page.set(&f::POOL_WAITING, &[node, database, user], pool.waiting as f64);
    page.set(&f::POOL_LONGEST_WAIT, &[node, database, user], pool.longest_wait_seconds);
    page.set(&f::POOL_SIZE, &[node, database, user], pool.size as f64);
    page.set(&f::POOL_OPENED, &[node, database, user], pool.opened as f64);
    page.set(&f::POOL_FAILED, &[node, database, user], pool.failed as f64);
}
