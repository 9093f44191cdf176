//! A replication connection: after the login the bytes of both sides pass untouched between the client and a connection of
//! its own to the primary. Nothing is split, pooled or looked at.

use std::rc::Rc;
use std::sync::Arc;

use tracing::{debug, info};

use super::greeting::secret_length;
use super::startup::StartupRequest;
use super::{Refusal, Shared};
use crate::auth::Credentials;
use crate::pool::connection::{CancelTarget, dial};
use crate::pool::error::ConnectError;
use crate::pool::login::{LoginError, ServerStartup, log_in};
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
    let endpoint = shared.pools.endpoint(node);
    let mut parameters: Vec<(String, String)> = request.parameters.clone();
    parameters.extend(request.replication.iter().map(|value| ("replication".to_owned(), value.clone())));
    let startup = ServerStartup { user: request.user.clone(), database: request.database.clone(), parameters };
    let opened = async {
        let mut server = dial(&endpoint).await?;
        let greeting = log_in(&mut server, &startup, credentials).await.map_err(ConnectError::Login)?;
        Ok::<_, ConnectError>((server, greeting))
    };
    let (mut server, greeting) = match opened.await {
        Ok(opened) => opened,
        Err(ConnectError::Login(LoginError::Refused { body, .. })) => {
            return Refusal::quoting(client, &body).tell().await;
        }
        Err(error) => {
            info!(%error, "a replication connection could not be opened");
            return Refusal::new(client, &ClientError::unreachable("primary", &error.to_string())).tell().await;
        }
    };
    let Ok(registration) = shared.cancels.register(worker, greeting.pid, secret_length(request)) else {
        return Refusal::new(client, &ClientError::shutdown()).tell().await;
    };
    let target = CancelTarget::new(endpoint, greeting.pid, greeting.secret);
    let mut words = Vec::new();
    for (name, value) in &greeting.parameters {
        backend::put_parameter_status(&mut words, name.as_bytes(), value.as_bytes());
    }
    backend::put_backend_key_data(&mut words, registration.pid(), &registration.secret());
    backend::put_ready_for_query(&mut words, TransactionStatus::Idle);
    if super::greeting::write_all(&mut client, &words).await.is_ok() {
        let cancels = std::future::poll_fn(|cx| {
            if registration.poll_asked(cx).is_ready() {
                registration.deliver(&target, false);
            }
            std::task::Poll::<()>::Pending
        });
        let relayed = tokio::select! {
            relayed = tokio::io::copy_bidirectional(&mut client, &mut server) => relayed,
            () = cancels => return,
        };
        debug!(?relayed, "replication connection ended");
    }
}
