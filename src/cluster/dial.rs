//! How control connections (probes, sampler, catalog, `check`) are opened. One place decides about TLS and login: proxy.rs
//! passes in a `Dial` that knows certificates; `Plain` here knows none. The data's way has its own connections and never
//! comes here.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Connection, NoTls};

use crate::config::{NodeConfig, NodeTls};

/// A control connection did not come about, or broke.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{}", chain(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// Certificates or keys could not be used, or TLS is asked for where there is none.
    #[error("TLS: {0}")]
    Tls(String),
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(std::time::Duration),
}

impl DialError {
    /// Nobody is there to answer (connection refused, starting up, shutting down), as opposed to silence or trouble that
    /// the next attempt may not have.
    pub fn is_refusal(&self) -> bool {
        let DialError::Postgres(error) = self else { return false };
        if let Some(code) = error.code() {
            return *code == SqlState::CANNOT_CONNECT_NOW || *code == SqlState::ADMIN_SHUTDOWN;
        }
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(io) = inner.downcast_ref::<io::Error>() {
                return matches!(io.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
            }
            source = inner.source();
        }
        false
    }
}

/// tokio-postgres says only "db error" or "error connecting to server"; people need what lies beneath.
fn chain(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{}: {} (SQLSTATE {})", db.severity(), db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

/// What `Dial::dial` returns.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = Result<Client, DialError>> + Send + 'a>>;

/// Opens a control connection to a node; whoever implements it also spawns what drives the connection.
pub trait Dial: Send + Sync + 'static {
    fn dial<'a>(&'a self, node: &'a NodeConfig) -> Dialing<'a>;
}

/// Without TLS: for `disable` and `prefer`; a node that must be asked with TLS is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Dial for Plain {
    fn dial<'a>(&'a self, node: &'a NodeConfig) -> Dialing<'a> {
        Box::pin(async move {
            if !matches!(node.tls, NodeTls::Disable | NodeTls::Prefer) {
                return Err(DialError::Tls("the node's tls setting asks for it, and this build has none".into()));
            }
            let (client, connection) = login(node).connect(NoTls).await?;
            drive(connection);
            Ok(client)
        })
    }
}

/// The node's login as tokio-postgres wants it.
pub fn login(node: &NodeConfig) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(&node.host).port(node.port).user(&node.user).dbname(&node.database).application_name("pgweir");
    if let Some(password) = &node.password {
        config.password(password);
    }
    config
}

/// Runs the connection's own side until the client is dropped or the node hangs up. Its error is no news: whoever asks
/// next through the client gets it.
pub fn drive<S, T>(connection: Connection<S, T>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %chain(&error), "a control connection ended");
        }
    });
}
