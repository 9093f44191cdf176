//! Side loop: reads one database's catalog from the primary, notices changes by a fingerprint and at once after DDL of
//! ours, and publishes snapshots. `handle::Catalogs` starts it on the control runtime; it never calls into sessions.
//! While the primary cannot be reached the old snapshot stays: nobody can change the catalog of a primary that is down,
//! and a new primary means a new fingerprint.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Client, Row};

use super::handle::DatabaseCatalog;
use super::{Catalog, query};
use crate::cluster::{Lsn, Position, Timeline};
use crate::config::RoutingConfig;

/// A fetch or a connection that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

pub type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Client, LoadError>> + Send + 'a>>;

/// Who opens connections to whatever the primary is now. `proxy` feeds it from the cluster's view.
pub trait Primary: Send + Sync {
    /// A control connection to this database of the current primary.
    fn connect<'a>(&'a self, database: &'a str) -> Connecting<'a>;
    /// Grows when the primary or its timeline changes; a connection of an older epoch is not used again.
    fn epoch(&self) -> u64;
}

/// Why a snapshot could not be read. Logged; readers keep the old one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("there is no primary")]
    NoPrimary,
    #[error("cannot connect to the primary: {0}")]
    Connect(String),
    #[error("cannot read the catalog: {}", detail(.0))]
    Query(#[from] tokio_postgres::Error),
    #[error("the primary's position \"{0}\" is no log position")]
    Position(String),
    #[error("reading the catalog took longer than {}s", PATIENCE.as_secs())]
    Slow,
}

/// The server's own words, where there are some.
fn detail(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned())
}

/// Makes a snapshot of rows and of the functions that the operator vouches for: `sql::proof::catalog`.
pub type Prove = fn(&query::Rows, &[String]) -> Catalog;

/// Reads and publishes for as long as the process runs.
pub async fn run(database: Arc<DatabaseCatalog>, primary: Arc<dyn Primary>, config: Arc<RoutingConfig>, prove: Prove) {
    let mut retry = FIRST_RETRY;
    while !database.is_forgotten() {
        let epoch = primary.epoch();
        match follow(&database, primary.as_ref(), epoch, (&config, prove), &mut retry).await {
            Ok(()) => tracing::debug!(database = %database.name, "the primary changed: the catalog is read again"),
            Err(error) => {
                database.failed();
                tracing::warn!(database = %database.name, %error, "the catalog is not followed for now");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LONGEST_RETRY);
            }
        }
    }
}

/// One connection's life; ends well when the primary changed.
async fn follow(
    database: &Arc<DatabaseCatalog>,
    primary: &dyn Primary,
    epoch: u64,
    (config, prove): (&RoutingConfig, Prove),
    retry: &mut Duration,
) -> Result<(), LoadError> {
    let client = patient(primary.connect(&database.name)).await??;
    prepare(&client).await?;
    let mut seen = None;
    while primary.epoch() == epoch && !database.is_forgotten() {
        let fingerprint = patient(fingerprint(&client)).await??;
        if database.is_dirty() || seen.as_ref() != Some(&fingerprint) {
            let covered = database.ended_so_far();
            let catalog = patient(read(&client, config, prove)).await??;
            database.publish(catalog, covered);
            tracing::debug!(database = %database.name, version = database.snapshot().version, "catalog read");
            // The fingerprint of before the reading: a change in between is seen at the next look.
            seen = Some(fingerprint);
        }
        // A database that sessions use is not given up, and needs no look.
        database.set_wanted(database.is_unused() && patient(is_wanted(&client)).await??);
        *retry = FIRST_RETRY;
        let poll = tokio::time::sleep(config.catalog_poll);
        tokio::select! {
            () = poll => {}
            () = database.until_dirty() => {}
        }
    }
    Ok(())
}

async fn patient<T>(work: impl Future<Output = T>) -> Result<T, LoadError> {
    tokio::time::timeout(PATIENCE, work).await.map_err(|_| LoadError::Slow)
}

/// Settings that the catalog's texts depend on.
pub async fn prepare(client: &Client) -> Result<(), LoadError> {
    let settings = "SET search_path = pg_catalog; SET statement_timeout = 0; SET standard_conforming_strings = on; \
                    SET default_transaction_read_only = on; SET application_name = 'pgweir catalog'";
    Ok(client.batch_execute(settings).await?)
}

async fn fingerprint(client: &Client) -> Result<String, LoadError> {
    Ok(client.query_one(query::FINGERPRINT, &[]).await?.get(0))
}

async fn is_wanted(client: &Client) -> Result<bool, LoadError> {
    Ok(client.query_one(query::WANTED, &[]).await?.get(0))
}

/// One snapshot, with the position that the primary had reached afterwards.
pub async fn read(client: &Client, config: &RoutingConfig, prove: Prove) -> Result<Catalog, LoadError> {
    let rows = Box::pin(query::fetch(client)).await?;
    let position = position(client).await?;
    let defaults: String = client.query_one(query::DEFAULTS, &[]).await?.get(0);
    let beginnings = client.query(query::BEGINNINGS, &[]).await?;
    let functions = config.read_functions.clone();
    let mut catalog = tokio::task::spawn_blocking(move || prove(&rows, &functions))
        .await
        .map_err(|error| LoadError::Connect(error.to_string()))?;
    catalog.position = position;
    catalog.defaults = defaults.into();
    let beginning = |row: &Row| (row.get::<_, &str>(0).into(), row.get::<_, &str>(1).into());
    catalog.beginnings = beginnings.iter().map(beginning).collect();
    Ok(catalog)
}

async fn position(client: &Client) -> Result<Position, LoadError> {
    let row = client.query_one(query::POSITION, &[]).await?;
    let (system, timeline, lsn, segment): (String, String, String, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let wrong = || LoadError::Position(format!("{system}/{timeline}/{lsn}"));
    let parsed: Lsn = lsn.parse().map_err(|_| wrong())?;
    Ok(Position {
        system: system.parse().map_err(|_| wrong())?,
        timeline: Timeline(u32::from_str_radix(&timeline, 16).map_err(|_| wrong())?),
        lsn: parsed.normalized(segment.parse().map_err(|_| wrong())?),
    })
}
