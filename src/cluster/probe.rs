//! The SQL asked of a node, and how to read its rows. The monitor keeps one `Probe` for each node, the sampler one more
//! to the primary, `check` one for its report. It works with any login (better with pg_monitor) and must never fail
//! because something may not be seen: what is hidden is `None`.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row, Statement};

use super::Role;
use super::dial::{Dial, DialError};
use super::likeness::{FIXED, SETTABLE, Traits};
use super::lsn::{Lsn, Timeline};
use crate::config::NodeConfig;

/// Role and position in one row. A standby's timeline is not to be had for certain: the control file knows it since the
/// last restartpoint, the WAL receiver (visible with pg_monitor) since it connected; the highest is the truth.
const STATUS: &str = "
    SELECT pg_is_in_recovery(),
           CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END,
           pg_last_wal_replay_lsn(),
           CASE WHEN pg_is_in_recovery()
                THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                              (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                              (SELECT received_tli FROM pg_stat_wal_receiver))
                ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END";

/// The same where the pg_control functions were revoked.
const STATUS_HIDDEN: &str = "
    SELECT pg_is_in_recovery(),
           CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END,
           pg_last_wal_replay_lsn(),
           CASE WHEN NOT pg_is_in_recovery()
                THEN ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END";

const REPLAY: &str = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()";

const INSERT: &str = "SELECT pg_current_wal_insert_lsn()";

const IDENTITY: &str = "
    SELECT current_setting('server_version'), current_setting('server_version_num')::int,
           pg_size_bytes(current_setting('wal_segment_size'))";

const SYSTEM: &str = "SELECT system_identifier FROM pg_control_system()";

/// The names that roles and databases set for themselves.
const OVERRIDDEN: &str = "SELECT DISTINCT lower(split_part(s, '=', 1)) FROM pg_db_role_setting, unnest(setconfig) s";

/// One ICU collation and one libc collation stand for their library's version.
const COLLATIONS: &str = "
    SELECT string_agg(provider || ' ' || version, ', ' ORDER BY provider, version)
    FROM (SELECT DISTINCT CASE collprovider WHEN 'i' THEN 'icu' ELSE 'libc' END, pg_collation_actual_version(oid)
          FROM pg_collation
          WHERE collname = 'und-x-icu'
             OR oid = (SELECT min(oid) FROM pg_collation WHERE collprovider = 'c' AND collname ~ '^[a-z]+_[A-Z]+')
         ) AS c (provider, version)";

/// From PostgreSQL 15 the databases' own default collations, too.
const DATABASE_COLLATIONS: &str = "
    SELECT string_agg(DISTINCT datlocprovider::text || ' ' || pg_database_collation_actual_version(oid), ', ')
    FROM pg_database";

/// Local times, twice a year, in zones whose rules changed in the last twenty years. Numbers and hours, because a date's
/// text and the length of a day depend on the node's own DateStyle and TimeZone, which may differ.
const ZONES: &str = "
    SELECT md5(string_agg(extract(epoch FROM t AT TIME ZONE z)::bigint::text, ',' ORDER BY z, t))
    FROM generate_series('2005-01-15 12:00Z'::timestamptz, '2037-12-31 12:00Z', '4344 hours') AS t,
         unnest(ARRAY['Africa/Cairo', 'Africa/Casablanca', 'Africa/Juba', 'Africa/Khartoum', 'America/Caracas',
                      'America/Chihuahua', 'America/Godthab', 'America/Mexico_City', 'America/Santiago',
                      'America/Sao_Paulo', 'Asia/Almaty', 'Asia/Amman', 'Asia/Beirut', 'Asia/Damascus', 'Asia/Gaza',
                      'Asia/Pyongyang', 'Asia/Tehran', 'Europe/Istanbul', 'Europe/Moscow', 'Europe/Volgograd',
                      'Pacific/Apia', 'Pacific/Fiji', 'Pacific/Norfolk']) AS z";

/// What a probe read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    pub role: Role,
    /// `None`: hidden from us.
    pub timeline: Option<Timeline>,
    /// A primary's insert position, normalized, or a standby's replay position; `None` before anything was replayed.
    pub position: Option<Lsn>,
}

/// A logged-in control connection with its statements prepared.
pub(super) struct Probe {
    client: Client,
    status: Statement,
    replay: Statement,
    /// Of the cluster; `None`: hidden from us.
    pub system: Option<u64>,
    pub segment_size: u64,
    version: String,
    version_num: u32,
    limit: Duration,
}

impl Probe {
    /// Connects and asks what never changes while the connection lives. Takes at most `limit` for each round trip.
    pub async fn open(dial: &dyn Dial, node: &NodeConfig, limit: Duration) -> Result<Probe, DialError> {
        let client = within(limit, dial.dial(node)).await??;
        // The server itself must not work longer for a question that nobody waits for.
        let setup = format!("SET statement_timeout = {}; SET lock_timeout = {0}", limit.as_millis().max(1));
        within(limit, client.batch_execute(&setup)).await??;
        let identity = within(limit, client.query_one(IDENTITY, &[])).await??;
        let system = hidden_is_none(within(limit, client.query_one(SYSTEM, &[])).await?)?;
        let status = within(limit, client.prepare(STATUS)).await??;
        let status = match hidden_is_none(within(limit, client.query_one(&status, &[])).await?)? {
            Some(_) => status,
            None => within(limit, client.prepare(STATUS_HIDDEN)).await??,
        };
        let replay = within(limit, client.prepare(REPLAY)).await??;
        Ok(Probe {
            status,
            replay,
            system: match &system {
                Some(row) => Some(row.try_get::<_, i64>(0)?.cast_unsigned()),
                None => None,
            },
            version: identity.try_get(0)?,
            version_num: identity.try_get::<_, i32>(1)?.unsigned_abs(),
            segment_size: identity.try_get::<_, i64>(2)?.unsigned_abs(),
            client,
            limit,
        })
    }

    /// Role, timeline and position.
    pub async fn status(&self) -> Result<Reading, DialError> {
        let row = self.one(&self.status).await?;
        let timeline = row.try_get::<_, Option<i32>>(3)?.map(|id| Timeline(id.cast_unsigned()));
        let insert = lsn(&row, 1)?;
        if row.try_get::<_, bool>(0)? {
            return Ok(Reading { role: Role::Replica, timeline, position: lsn(&row, 2)? });
        }
        let position = insert.map(|insert| insert.normalized(self.segment_size));
        Ok(Reading { role: Role::Primary, timeline, position })
    }

    /// A replica's replay position alone, as cheaply as can be; `None` if it is a replica no more.
    pub async fn replay(&self) -> Result<Option<Lsn>, DialError> {
        let row = self.one(&self.replay).await?;
        let position = lsn(&row, 1)?;
        Ok(position.filter(|_| row.get::<_, bool>(0)))
    }

    /// Everything that could make answers differ.
    pub async fn traits(&self) -> Result<Traits, DialError> {
        let names: Vec<String> = SETTABLE.iter().chain(&FIXED).map(|name| (*name).to_owned()).collect();
        // What our own role or database sets for itself hides what the configuration says.
        let settings = "SELECT name, setting FROM pg_settings
                        WHERE name = ANY ($1) AND source NOT IN ('user', 'database', 'database user')";
        let settings = within(self.limit, self.client.query(settings, &[&names])).await??;
        let overridden = within(self.limit, self.client.query(OVERRIDDEN, &[])).await?.unwrap_or_default();
        let mut collations = self.text(COLLATIONS).await?;
        if self.version_num >= 150_000 {
            let databases = self.text(DATABASE_COLLATIONS).await?;
            collations = collations.map(|found| match databases {
                Some(databases) => format!("{found}, databases {databases}"),
                None => found,
            });
        }
        Ok(Traits {
            version: self.version.clone(),
            version_num: self.version_num,
            settings: settings.iter().map(|row| (row.get(0), row.get(1))).collect(),
            overridden: overridden.iter().map(|row| row.get(0)).collect(),
            collations,
            zones: self.text(ZONES).await?,
        })
    }

    /// Where `timeline` left the one before it, from the primary's history file; `None` if we may not read files there.
    pub async fn switch(&self, timeline: Timeline) -> Option<(Timeline, Lsn)> {
        let file = format!("pg_wal/{:08X}.history", timeline.0);
        let read = "SELECT pg_read_file($1, 0, 1048576, true)";
        let row = tokio::time::timeout(self.limit, self.client.query_one(read, &[&file])).await.ok()?.ok()?;
        switch_point(row.try_get::<_, Option<&str>>(0).ok()??)
    }

    /// Prepared once by the sampler, which asks it thousands of times.
    pub async fn insert_statement(&self) -> Result<Statement, DialError> {
        Ok(within(self.limit, self.client.prepare(INSERT)).await??)
    }

    /// The primary's insert position, normalized.
    pub async fn insert(&self, statement: &Statement) -> Result<Lsn, DialError> {
        let row = self.one(statement).await?;
        Ok(lsn(&row, 0)?.unwrap_or_default().normalized(self.segment_size))
    }

    /// Whether the connection ended, so that only a new one can tell how the node is.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    async fn one(&self, statement: &Statement) -> Result<Row, DialError> {
        Ok(within(self.limit, self.client.query_one(statement, &[])).await??)
    }

    /// One text, or nothing if the node does not let us see it or does not know it.
    async fn text(&self, sql: &str) -> Result<Option<String>, DialError> {
        match within(self.limit, self.client.query_one(sql, &[])).await? {
            Ok(row) => Ok(row.try_get(0)?),
            Err(error) if error.code().is_some() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, DialError> {
    tokio::time::timeout(limit, future).await.map_err(|_| DialError::Timeout(limit))
}

fn hidden_is_none(answer: Result<Row, tokio_postgres::Error>) -> Result<Option<Row>, tokio_postgres::Error> {
    match answer {
        Ok(row) => Ok(Some(row)),
        Err(error) => match error.code() {
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE || *code == SqlState::UNDEFINED_FUNCTION => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

fn lsn(row: &Row, column: usize) -> Result<Option<Lsn>, tokio_postgres::Error> {
    Ok(row.try_get::<_, Option<PgLsn>>(column)?.map(|lsn| Lsn(u64::from(lsn))))
}

/// The last line of a timeline's history file names its parent and the position where they part.
fn switch_point(history: &str) -> Option<(Timeline, Lsn)> {
    let mut lines = history.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut fields = lines.next_back()?.split_whitespace();
    let parent = fields.next()?.parse().ok()?;
    Some((Timeline(parent), fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_point_is_the_last_line_of_the_history() {
        let history = "1\t0/A0196F8\tno recovery target specified\n\n2\t0/B000000\tno recovery target specified\n";
        assert_eq!(switch_point(history), Some((Timeline(2), Lsn(0xB00_0000))));
        assert_eq!(switch_point("# a comment\n"), None);
        assert_eq!(switch_point("1 nonsense"), None);
    }
}
