//! TLS on both sides: `Acceptor` for clients (our certificate, reloadable), `Connector` for nodes (libpq's sslmodes).
//! session/startup accepts with it, pool/connection and the control connections connect with it. Nothing here knows
//! sessions; it never falls back to plain text unless sslmode says so.

mod control;
mod end_point;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::{ClientTlsConfig, ClientTlsMode, NodeTls};
use crate::stream::Stream;

/// The protocol's name in ALPN; mandatory when TLS begins without an SSLRequest (manual: "SSL Session Encryption").
const ALPN: &[u8] = b"postgresql";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {why}", file.display())]
    File { file: PathBuf, why: String },
    #[error("certificate and key do not go together: {0}")]
    Pair(rustls::Error),
    #[error("TLS is not set up: {0}")]
    Setup(String),
    #[error("the node does not speak TLS, and its sslmode does not allow plain text")]
    Refused,
    #[error("the node answered the SSLRequest with byte {0}")]
    Answer(u8),
    #[error("TLS handshake: {0}")]
    Handshake(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::File { file: file.to_owned(), why };
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?.collect();
    match read {
        Ok(list) if list.is_empty() => Err(wrong("holds no PEM certificate".to_owned())),
        Ok(list) => Ok(list),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// What a reload exchanges as one.
struct Identity {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

/// Encrypts clients' connections.
pub struct Acceptor {
    identity: ArcSwap<Identity>,
    required: std::sync::atomic::AtomicBool,
}

impl Acceptor {
    /// `None` if the configuration says that clients get no TLS.
    pub fn new(config: &ClientTlsConfig) -> Result<Option<Acceptor>, TlsError> {
        if config.mode == ClientTlsMode::Disable {
            return Ok(None);
        }
        let identity = ArcSwap::from_pointee(Identity::read(config)?);
        let required = (config.mode == ClientTlsMode::Require).into();
        Ok(Some(Acceptor { identity, required }))
    }

    /// Reads the files again. On an error the old certificate stays.
    pub fn reload(&self, config: &ClientTlsConfig) -> Result<(), TlsError> {
        self.identity.store(Arc::new(Identity::read(config)?));
        self.required.store(config.mode == ClientTlsMode::Require, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Whether a client over TCP must encrypt.
    pub fn required(&self) -> bool {
        self.required.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Does the handshake. With the stream comes what a client's channel binding must say of our certificate.
    pub async fn accept(&self, tcp: TcpStream, entry: Entry) -> io::Result<(Stream, Option<Arc<[u8]>>)> {
        let identity = self.identity.load_full();
        let stream = TlsAcceptor::from(identity.config.clone()).accept(tcp).await?;
        if entry == Entry::Direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(io::Error::other(
                "received direct SSL connection request without ALPN protocol negotiation extension",
            ));
        }
        Ok((Stream::ClientTls(Box::new(stream)), identity.end_point.clone()))
    }
}

/// How a client came to TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    SslRequest,
    /// With the first byte, as since PostgreSQL 17: only ALPN tells that it means PostgreSQL.
    Direct,
}

impl Identity {
    fn read(config: &ClientTlsConfig) -> Result<Identity, TlsError> {
        let missing = |key: &str| TlsError::Setup(format!("client_tls.{key} is missing"));
        let certificate = config.certificate.as_deref().ok_or_else(|| missing("certificate"))?;
        let key_file = config.key.as_deref().ok_or_else(|| missing("key"))?;
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_file(key_file)
            .map_err(|error| TlsError::File { file: key_file.to_owned(), why: error.to_string() })?;
        let end_point = chain.first().and_then(|first| end_point::hash(first)).map(Arc::from);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Identity { config: Arc::new(config), end_point })
    }
}

/// Encrypts connections to one node, as its sslmode says.
#[derive(Clone)]
pub struct Connector {
    mode: Mode,
    config: Option<Arc<ClientConfig>>,
    name: Option<ServerName<'static>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
}

impl Connector {
    /// `host` is what the certificate must name under verify-full.
    pub fn new(tls: &NodeTls, host: &str) -> Result<Connector, TlsError> {
        // There is nobody on the way along a Unix socket, and PostgreSQL offers no TLS there.
        if *tls == NodeTls::Disable || host.starts_with('/') {
            return Ok(Connector { mode: Mode::Disable, config: None, name: None });
        }
        let (mode, trust) = match tls {
            NodeTls::Disable | NodeTls::Prefer => (Mode::Prefer, verify::Trust::Anyone),
            NodeTls::Require => (Mode::Require, verify::Trust::Anyone),
            NodeTls::VerifyCa { root } => (Mode::Require, verify::Trust::Chain(roots(root)?)),
            NodeTls::VerifyFull { root } => (Mode::Require, verify::Trust::ChainAndName(roots(root)?)),
        };
        let provider = provider();
        let verifier = verify::Verifier::new(trust, &provider).map_err(TlsError::Setup)?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Setup(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TlsError::Setup(format!("{host:?} is no name that a certificate could have")))?;
        Ok(Connector { mode, config: Some(Arc::new(config)), name: Some(name) })
    }

    /// Asks a node that was just connected to for TLS, and does the handshake. Nothing was sent on `tcp` before.
    pub async fn secure(&self, mut tcp: TcpStream) -> Result<Stream, TlsError> {
        let (Some(config), Some(name)) = (&self.config, &self.name) else { return Ok(Stream::Tcp(tcp)) };
        tcp.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).await?;
        // Exactly one byte is read: whatever follows it before TLS must not reach the session (CVE-2021-23222).
        match tcp.read_u8().await? {
            b'S' => {}
            b'N' if self.mode == Mode::Prefer => return Ok(Stream::Tcp(tcp)),
            b'N' => return Err(TlsError::Refused),
            other => return Err(TlsError::Answer(other)),
        }
        let connector = TlsConnector::from(config.clone());
        let stream = connector.connect(name.clone(), tcp).await.map_err(TlsError::Handshake)?;
        Ok(Stream::NodeTls(Box::new(stream)))
    }

    /// The same sslmode for tokio-postgres, which negotiates by itself and then calls us as its `MakeTlsConnect`.
    pub fn ssl_mode(&self) -> tokio_postgres::config::SslMode {
        match self.mode {
            Mode::Disable => tokio_postgres::config::SslMode::Disable,
            Mode::Prefer => tokio_postgres::config::SslMode::Prefer,
            Mode::Require => tokio_postgres::config::SslMode::Require,
        }
    }
}

/// For tests that make their own client.
#[cfg(test)]
pub(crate) fn anyone() -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    Arc::new(verify::Verifier::new(verify::Trust::Anyone, &provider()).expect("needs no roots"))
}

fn roots(file: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let list = certificates(file)?;
    let mut store = RootCertStore::empty();
    for certificate in &list {
        store
            .add(certificate.clone())
            .map_err(|error| TlsError::File { file: file.to_owned(), why: error.to_string() })?;
    }
    Ok((store, list))
}

/// A stream that can tell what SCRAM's channel binding says of the peer's certificate.
pub trait EndPoint {
    /// `None`: not encrypted, or the certificate's signature has no hash of its own (Ed25519).
    fn tls_server_end_point(&self) -> Option<Vec<u8>> {
        None
    }
}

impl EndPoint for Stream {
    fn tls_server_end_point(&self) -> Option<Vec<u8>> {
        match self {
            Stream::NodeTls(stream) => end_point::of_peer(stream.get_ref().1),
            _ => None,
        }
    }
}

impl EndPoint for TcpStream {}
impl EndPoint for tokio::net::UnixStream {}
impl EndPoint for tokio::io::DuplexStream {}

impl<S: AsyncRead + AsyncWrite + Unpin> EndPoint for tokio_rustls::client::TlsStream<S> {
    fn tls_server_end_point(&self) -> Option<Vec<u8>> {
        end_point::of_peer(self.get_ref().1)
    }
}
