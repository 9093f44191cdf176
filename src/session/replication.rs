//! A replication connection: after the login the bytes of both sides pass untouched between the client and a connection of
//! its own to the primary. Nothing is split, pooled or looked at.

use std::rc::Rc;
use std::sync::Arc;

use tracing::{debug, info};

use super::startup::StartupRequest;
use super::{Refusal, Shared, cancel};
use crate::auth::Credentials;
use crate::pool::ConnectError;
use crate::protocol::sqlstate::ClientError;
use crate::protocol::{TransactionStatus, backend};
use crate::stream::Stream;
use crate::worker::Worker;

/// Runs until either side closes.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    shared: &Arc<Shared>,
    mut client: Stream,
    request: &StartupRequest,
    credentials: &Credentials,
) {
    let Some(node) = shared.cluster.view().primary else {
        return Refusal::new(client, &ClientError::no_primary()).tell().await;
    };
    let mut parameters: Vec<(String, String)> = request.parameters.clone();
    parameters.extend(request.replication.iter().map(|value| ("replication".to_owned(), value.clone())));
    let mut server = match shared.pools.connect(worker, node, &request.database, credentials, &parameters).await {
        Ok(server) => server,
        Err(ConnectError::Refused { body, .. }) => return Refusal::quoting(client, &body).tell().await,
        Err(error) => {
            info!(%error, "a replication connection could not be opened");
            return Refusal::new(client, &ClientError::unreachable("primary", &error.to_string())).tell().await;
        }
    };
    let registration = cancel::register(worker, shared, server.pid, request.long_keys());
    registration.set_current(Some(&server));
    let mut words = Vec::new();
    for (name, value) in &server.parameters {
        backend::put_parameter_status(&mut words, name.as_bytes(), value.as_bytes());
    }
    let key = registration.key();
    backend::put_backend_key_data(&mut words, key.pid, &key.secret);
    backend::put_ready_for_query(&mut words, TransactionStatus::Idle);
    if super::greeting::write_all(&mut client, &words).await.is_ok() {
        let relayed = tokio::io::copy_bidirectional(&mut client, &mut server.stream).await;
        debug!(?relayed, "replication connection ended");
    }
}
