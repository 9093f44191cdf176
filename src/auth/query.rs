//! `auth_query`: verifiers of users that the configuration does not list, read from the current primary and kept for a
//! short while. Called by `Auth::challenge` at login, never per query. One connection serves all logins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{AuthError, Stored};
use crate::config::Secret;
use crate::tls::Connector;

/// A burst of logins asks once. What was altered meanwhile by somebody past us is noticed after so long: a proof that was
/// made for an old verifier's salt says nothing about the new one.
const FRESH: Duration = Duration::from_secs(2);
/// While the primary cannot be asked, a verifier is trusted so long.
const KEPT: Duration = Duration::from_secs(30);
/// Names are the clients' to invent, so the cache is bounded.
const MOST_KEPT: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the primary is now; `None` while there is none.
pub type FindPrimary = Arc<dyn Fn() -> Option<(tokio_postgres::Config, Connector)> + Send + Sync>;

/// How to reach the primary.
#[derive(Clone)]
pub struct Primary {
    pub find: FindPrimary,
    /// The runtime on which the connection lives: it must outlast any worker's session.
    pub control: tokio::runtime::Handle,
}

/// A user's verifier, and when it was read.
struct Kept {
    stored: Option<Stored>,
    at: Instant,
}

pub struct AuthQuery {
    sql: String,
    primary: Primary,
    /// Held while a query runs, so that a burst of logins uses one connection.
    client: tokio::sync::Mutex<Option<tokio_postgres::Client>>,
    cache: Mutex<HashMap<String, Kept>>,
}

impl AuthQuery {
    pub fn new(sql: String, primary: Primary) -> AuthQuery {
        let client = tokio::sync::Mutex::new(None);
        AuthQuery { sql, primary, client, cache: Mutex::new(HashMap::new()) }
    }

    /// What is stored of the user; `None` if there is no such user, or it has no password.
    pub async fn stored(&self, user: &str) -> Result<Option<Stored>, AuthError> {
        if let Some(fresh) = self.kept(user, FRESH) {
            return Ok(fresh);
        }
        let mut client = self.client.lock().await;
        // Another login of this user may have asked while we waited for the connection.
        if let Some(fresh) = self.kept(user, FRESH) {
            return Ok(fresh);
        }
        let late = |_| Err(AuthError::Query("the primary did not answer in time".to_owned()));
        match tokio::time::timeout(PATIENCE, self.ask(&mut client, user)).await.unwrap_or_else(late) {
            Ok(found) => {
                let stored = found.map(|text| Stored::read(&text));
                self.keep(user, stored.clone());
                Ok(stored)
            }
            Err(error) => {
                *client = None;
                self.kept(user, KEPT).filter(Option::is_some).ok_or(error)
            }
        }
    }

    /// Forgets a user, so that its next login asks again.
    pub fn forget(&self, user: &str) {
        self.lock().remove(user);
    }

    /// Roles were altered.
    pub fn forget_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Kept>> {
        // Nothing panics while the lock is held; a poisoned cache is still a cache.
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn kept(&self, user: &str, longest: Duration) -> Option<Option<Stored>> {
        let cache = self.lock();
        let kept = cache.get(user)?;
        (kept.at.elapsed() < longest).then(|| kept.stored.clone())
    }

    fn keep(&self, user: &str, stored: Option<Stored>) {
        let mut cache = self.lock();
        if cache.len() >= MOST_KEPT {
            cache.retain(|_, kept| kept.stored.is_some() && kept.at.elapsed() < KEPT);
        }
        if cache.len() >= MOST_KEPT {
            cache.clear();
        }
        cache.insert(user.to_owned(), Kept { stored, at: Instant::now() });
    }

    async fn ask(&self, client: &mut Option<tokio_postgres::Client>, user: &str) -> Result<Option<Secret>, AuthError> {
        let failed = |error: tokio_postgres::Error| {
            AuthError::Query(error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned()))
        };
        // A connection that was closed while idle is no reason to refuse a login.
        if client.as_ref().is_none_or(tokio_postgres::Client::is_closed) {
            *client = Some(self.connect().await?);
        }
        let Some(client) = client else { return Ok(None) };
        let rows = client.query(&self.sql, &[&user]).await.map_err(failed)?;
        match rows.as_slice() {
            [] => Ok(None),
            [row] if row.len() >= 2 => {
                let text: Option<String> = row.try_get(1).map_err(failed)?;
                Ok(text.filter(|text| !text.is_empty()).map(Secret::from))
            }
            [_] => Err(AuthError::Query("it must return two columns, user and verifier".to_owned())),
            _ => Err(AuthError::Query(format!("it returned {} rows for one user", rows.len()))),
        }
    }

    async fn connect(&self) -> Result<tokio_postgres::Client, AuthError> {
        let found = (self.primary.find)();
        let (config, connector) = found.ok_or_else(|| AuthError::Query("there is no primary now".to_owned()))?;
        // The socket is registered where the connection's task runs, not on the worker that happened to ask.
        let control = self.primary.control.clone();
        let task = self.primary.control.spawn(async move {
            let (client, connection) = config.connect(connector).await?;
            control.spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        });
        match task.await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(AuthError::Query(error.to_string())),
            Err(_) => Err(AuthError::Query("shutting down".to_owned())),
        }
    }
}
