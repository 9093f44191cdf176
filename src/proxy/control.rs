//! Control connections with TLS: what the cluster's probes, the catalog's loader and auth_query use. Built by `proxy`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::auth::FindPrimary;
use crate::catalog::loader::{Connecting, LoadError, Primary};
use crate::cluster::Cluster;
use crate::cluster::dial::{self, Dial, DialError, Dialing};
use crate::config::NodeConfig;
use crate::pool::Secure;
use crate::stream::Stream;
use crate::tls::Connector;

/// Opens control connections as each node's `tls` setting says.
pub struct SecureDial {
    connectors: Vec<(String, Connector)>,
}

impl SecureDial {
    pub fn new(nodes: &[NodeConfig], connectors: &[Connector]) -> SecureDial {
        SecureDial { connectors: nodes.iter().map(|node| node.name.clone()).zip(connectors.iter().cloned()).collect() }
    }
}

impl Dial for SecureDial {
    fn dial<'a>(&'a self, node: &'a NodeConfig) -> Dialing<'a> {
        Box::pin(async move {
            let known = self.connectors.iter().find(|(name, _)| *name == node.name);
            let (_, connector) =
                known.ok_or_else(|| DialError::Tls(format!("node {} is not configured", node.name)))?;
            let mut login = dial::login(node);
            login.ssl_mode(connector.ssl_mode());
            let (client, connection) = login.connect(connector.clone()).await?;
            dial::drive(connection);
            Ok(client)
        })
    }
}

/// The catalog's way to the primary.
pub struct Catalogued {
    cluster: Arc<Cluster>,
}

impl Catalogued {
    pub fn new(cluster: Arc<Cluster>) -> Catalogued {
        Catalogued { cluster }
    }
}

impl Primary for Catalogued {
    fn connect<'a>(&'a self, database: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let primary = self.cluster.view().primary.ok_or(LoadError::NoPrimary)?;
            let node = self.cluster.node_config(primary).ok_or(LoadError::NoPrimary)?;
            let node = NodeConfig { database: database.to_owned(), ..node.clone() };
            self.cluster.dial().dial(&node).await.map_err(|error| LoadError::Connect(error.to_string()))
        })
    }

    fn epoch(&self) -> u64 {
        self.cluster.view().epoch
    }
}

/// Data connections' TLS.
pub struct Secured(pub Connector);

impl Secure for Secured {
    fn secure(&self, tcp: TcpStream) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + '_>> {
        Box::pin(async move { self.0.secure(tcp).await.map_err(io::Error::other) })
    }
}

/// auth_query's way to the primary.
pub fn find_primary(cluster: &Arc<Cluster>, connectors: &[Connector]) -> FindPrimary {
    let (cluster, connectors) = (Arc::clone(cluster), connectors.to_vec());
    Arc::new(move || {
        let primary = cluster.view().primary?;
        let connector = connectors.get(usize::from(primary.0))?.clone();
        let mut login = dial::login(cluster.node_config(primary)?);
        login.ssl_mode(connector.ssl_mode());
        Some((login, connector))
    })
}
