//! The admin port: /metrics, /healthz, /readyz, /api/status, /reload and the dashboard. `proxy` binds it before the
//! first client is let in (so that a taken port stops the start) and serves it on the control runtime until shutdown.
//! It must never block the control runtime, and never show what a client sent.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

use super::status::{not_ready, status};
use super::{AdminSources, sample};
use crate::metrics::Exporter;

const PAGE: &[u8] = include_bytes!("dashboard/index.html");
const STYLE: &[u8] = include_bytes!("dashboard/dashboard.css");
const SCRIPT: &[u8] = include_bytes!("dashboard/dashboard.js");
const ICON: &[u8] = include_bytes!("dashboard/icon.svg");

/// What the page may load: its own files from this very port, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The admin port could not be opened, or broke.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(
        "cannot listen on {address} for the admin port (/metrics, dashboard): {error}; choose another with admin.address or --admin, or switch it off with \"off\""
    )]
    Bind { address: SocketAddr, error: io::Error },
    #[error("the metrics could not be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the admin port broke: {0}")]
    Serve(io::Error),
}

/// The admin port, open but not served yet.
pub struct Admin {
    listener: TcpListener,
}

struct Served {
    sources: Arc<AdminSources>,
    exporter: Exporter,
}

type Shared = State<Arc<Served>>;

impl Admin {
    pub async fn bind(address: SocketAddr) -> Result<Admin, AdminError> {
        let listener = TcpListener::bind(address).await.map_err(|error| AdminError::Bind { address, error })?;
        Ok(Admin { listener })
    }

    /// The address with its port, also where the configuration says port 0.
    pub fn address(&self) -> Result<SocketAddr, AdminError> {
        self.listener.local_addr().map_err(AdminError::Serve)
    }

    /// Answers until `shutdown` is ready.
    pub async fn serve(
        self,
        sources: AdminSources,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), AdminError> {
        let router = router(sources)?;
        axum::serve(self.listener, router).with_graceful_shutdown(shutdown).await.map_err(AdminError::Serve)
    }
}

fn router(sources: AdminSources) -> Result<Router, AdminError> {
    let sources = Arc::new(sources);
    let (for_cluster, for_pools) = (Arc::clone(&sources), Arc::clone(&sources));
    let exporter = Exporter::new(
        Arc::clone(&sources.metrics),
        Box::new(move || sample::cluster(&(for_cluster.view)())),
        Box::new(move || (for_pools.pools)()),
    )?;
    let page = || async { file(PAGE, "text/html; charset=utf-8") };
    Ok(Router::new()
        .route("/", get(page))
        .route("/dashboard", get(page))
        .route("/dashboard.css", get(|| async { file(STYLE, "text/css; charset=utf-8") }))
        .route("/dashboard.js", get(|| async { file(SCRIPT, "text/javascript; charset=utf-8") }))
        .route("/icon.svg", get(|| async { file(ICON, "image/svg+xml") }))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/status", get(api_status))
        .route("/reload", post(reload))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, "try / (dashboard), /metrics, /healthz, /readyz, /api/status, POST /reload\n")
        })
        .with_state(Arc::new(Served { sources, exporter })))
}

fn file(bytes: &'static [u8], kind: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // A new pgweir brings a new page; nothing of the old one may stay behind.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, bytes).into_response()
}

async fn metrics(State(served): Shared) -> Response {
    match served.exporter.text() {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(served): Shared) -> Response {
    let why = not_ready(&(served.sources.view)(), (served.sources.accepting)());
    if why.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", why.join("\n"))).into_response()
}

async fn api_status(State(served): Shared) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(status(&served.sources))).into_response()
}

async fn reload(State(served): Shared, headers: HeaderMap) -> Response {
    if is_from_elsewhere(&headers) {
        return (StatusCode::FORBIDDEN, "a page of another site may not reload the configuration\n").into_response();
    }
    // Reading files and building TLS acceptors blocks; the probes run on this runtime.
    let outcome = tokio::task::spawn_blocking(move || (served.sources.reload)()).await;
    match outcome {
        Ok(Ok(told)) => format!("{told}\n").into_response(),
        Ok(Err(why)) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the reload failed: {error}\n")).into_response(),
    }
}

/// A browser says with `Origin` which page sends a POST. The admin port has no login, so any web page that an operator
/// visits could otherwise send one here.
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let host = headers.get(HOST).map_or("", |host| host.to_str().unwrap_or(""));
    origin.to_str().map_or("", |origin| origin.split_once("://").map_or("", |(_, from)| from)) != host
}

#[cfg(test)]
mod tests;
