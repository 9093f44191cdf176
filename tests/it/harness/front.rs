//! What a test connects to: pgweir in front of a cluster, or (PGWEIR_IT_DIRECT=1) the primary itself. A test that holds
//! against the primary and fails through pgweir has found a bug of pgweir; a test that fails against both is wrong.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use super::cluster::Cluster;
use super::proxy::Proxy;

/// A way in, and the cluster behind it.
pub struct Front {
    /// First, because it goes first: its log lies in the cluster's directory, and a failed test shows it.
    proxy: Option<Proxy>,
    pub cluster: Arc<Cluster>,
}

/// Whether the tests are to be proven against PostgreSQL itself.
pub fn direct() -> bool {
    std::env::var_os("PGWEIR_IT_DIRECT").is_some_and(|value| value != "0")
}

static CLUSTER: OnceCell<Arc<Cluster>> = OnceCell::const_new();
static FRONT: OnceCell<Front> = OnceCell::const_new();

/// The cluster of all tests that disturb nothing. Only such tests may use it.
pub async fn shared_cluster() -> Arc<Cluster> {
    CLUSTER.get_or_init(|| async { Arc::new(Cluster::start("shared").await) }).await.clone()
}

/// pgweir with the default settings in front of the shared cluster.
pub async fn shared() -> &'static Front {
    FRONT.get_or_init(|| async { Front::before(shared_cluster().await, &[]).await }).await
}

/// pgweir with settings of its own in front of the shared cluster.
pub async fn with(settings: &[(&str, &str)]) -> Front {
    Front::before(shared_cluster().await, settings).await
}

/// pgweir with settings of its own in front of a cluster of its own, which the test may disturb as it likes.
pub async fn alone(name: &str, settings: &[(&str, &str)]) -> Front {
    Front::before(Arc::new(Cluster::start(name).await), settings).await
}

impl Front {
    pub async fn before(cluster: Arc<Cluster>, settings: &[(&str, &str)]) -> Front {
        let proxy = if direct() { None } else { Some(Proxy::start(&cluster, settings).await) };
        Front { cluster, proxy }
    }

    /// pgweir started from the command line alone.
    pub async fn from_arguments(cluster: Arc<Cluster>, arguments: &[&str]) -> Front {
        let proxy = if direct() { None } else { Some(Proxy::start_with_arguments(&cluster, arguments).await) };
        Front { cluster, proxy }
    }

    /// pgweir, unless the tests run against the primary itself.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    pub fn port(&self) -> u16 {
        self.proxy.as_ref().map_or(self.cluster.primary.port, |proxy| proxy.port)
    }

    /// The URL of a user of the template in the database `app`.
    pub fn url(&self, user: &str) -> String {
        format!("postgres://{user}:secret@127.0.0.1:{}/app", self.port())
    }

    /// A tokio-postgres session of this user.
    pub async fn connect(&self, user: &str) -> Session {
        Session::open(&self.url(user)).await.unwrap_or_else(|error| panic!("{user} logs in: {error:?}"))
    }

    /// How often each node ran a statement that holds this marker (sent by user `traced`): primary, replica 1, replica 2.
    pub fn runs_of(&self, marker: &str) -> [usize; 3] {
        self.cluster.nodes().map(|node| node.log_count(marker))
    }
}

/// A tokio-postgres client whose connection runs as long as it does.
pub struct Session {
    client: Client,
    connection: tokio::task::JoinHandle<()>,
}

impl Session {
    pub async fn open(url: &str) -> Result<Session, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let connection = tokio::spawn(async move {
            // Its error reaches the client's own call too.
            let _ = connection.await;
        });
        Ok(Session { client, connection })
    }

    /// Says goodbye and waits until the other side has heard it.
    pub async fn close(self) {
        drop(self.client);
        let _ = self.connection.await;
    }

    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The first column of the first row of a simple query, as text; "" when there is none.
    pub async fn value(&self, sql: &str) -> String {
        self.try_value(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    pub async fn try_value(&self, sql: &str) -> Result<String, tokio_postgres::Error> {
        let messages = self.client.simple_query(sql).await?;
        Ok(messages
            .into_iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_string()),
                _ => None,
            })
            .unwrap_or_default())
    }

    /// The SQLSTATE that a simple query fails with.
    pub async fn sqlstate(&self, sql: &str) -> String {
        match self.client.simple_query(sql).await {
            Ok(_) => panic!("no error: {sql}"),
            Err(error) => error.code().map_or_else(|| panic!("{sql}: {error:?}"), |code| code.code().to_string()),
        }
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
