//! The startup phase of a client (manual: "Start-up"): SSLRequest, GSSENCRequest, direct TLS, then a StartupMessage or a
//! CancelRequest. The session calls `negotiate` first. It reads exactly the bytes of these packets and not one more:
//! what a client sends ahead of TLS must never be taken for what it sends inside (CVE-2021-23222).

pub mod options;
pub mod packet;

use std::io;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::startup::NegotiateProtocolVersion;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::refusal::Refusal;
use crate::stream::Stream;
use crate::tls::{Acceptor, Entry};
use packet::{Asked, Packet, StartupPacket};
pub use packet::{CancelKey, ProtocolVersion};

/// The first byte of a TLS handshake; no startup packet is long enough to begin with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// How the startup phase ended.
pub enum Startup {
    Session {
        stream: Stream,
        request: StartupRequest,
    },
    Cancel {
        stream: Stream,
        key: CancelKey,
    },
    /// The client went away (or was only looking: load balancers do).
    Closed,
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupRequest {
    /// As negotiated.
    pub version: ProtocolVersion,
    pub user: String,
    pub database: String,
    /// All other parameters: settings, those of `options` among them, each name once.
    pub parameters: Vec<(String, String)>,
    /// A replication connection: `database`, `true`, ….
    pub replication: Option<String>,
    /// What the client's SCRAM channel binding must be, if the connection is encrypted and our certificate has one.
    pub channel_binding: Option<Arc<[u8]>>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// The client was told.
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("TLS handshake: {0}")]
    Tls(io::Error),
    #[error("{0}")]
    Io(io::Error),
}

/// Talks to a new client until it is known what it wants. A refusal has been sent when the error is returned.
pub async fn negotiate(mut stream: Stream, tls: Option<&Acceptor>) -> Result<Startup, StartupError> {
    let mut asked = Asked::default();
    let mut binding = None;
    if let (Some(acceptor), Stream::Tcp(tcp)) = (tls, &stream)
        && first_byte(tcp).await.map_err(StartupError::Io)? == Some(TLS_HANDSHAKE)
    {
        (stream, binding) = encrypt(stream, acceptor, Entry::Direct).await?;
        asked = Asked { ssl: true, gss: true };
    }
    loop {
        let body = match read_packet(&mut stream).await {
            Ok(Some(body)) => body,
            Ok(None) => return Ok(Startup::Closed),
            Err(error) => return Err(refuse(&mut stream, error).await),
        };
        match packet::read(&body, asked) {
            Err(refusal) => return Err(refuse(&mut stream, StartupError::Refused(refusal)).await),
            Ok(Packet::Cancel(key)) => return Ok(Startup::Cancel { stream, key }),
            Ok(Packet::GssEncRequest) => {
                asked.gss = true;
                answer(&mut stream, b"N").await?;
            }
            Ok(Packet::SslRequest) => {
                asked.ssl = true;
                let Some(acceptor) = tls.filter(|_| matches!(stream, Stream::Tcp(_))) else {
                    answer(&mut stream, b"N").await?;
                    continue;
                };
                if let Some(refusal) = stuffed(&stream) {
                    return Err(refuse(&mut stream, StartupError::Refused(refusal)).await);
                }
                answer(&mut stream, b"S").await?;
                (stream, binding) = encrypt(stream, acceptor, Entry::SslRequest).await?;
                asked.gss = true;
            }
            Ok(Packet::Startup(packet)) => return begin(stream, packet, binding, tls).await,
        }
    }
}

/// Ends the phase: version negotiation, and the last check.
async fn begin(
    mut stream: Stream,
    packet: StartupPacket,
    channel_binding: Option<Arc<[u8]>>,
    tls: Option<&Acceptor>,
) -> Result<Startup, StartupError> {
    if tls.is_some_and(Acceptor::required) && matches!(stream, Stream::Tcp(_)) {
        let refusal = Refusal::new("28000", "this server accepts only encrypted connections")
            .hint("Connect with sslmode=require.");
        return Err(refuse(&mut stream, StartupError::Refused(refusal)).await);
    }
    if let Some(unknown) = packet.negotiate {
        let mut message = BytesMut::new();
        NegotiateProtocolVersion::new(packet.version.number(), unknown)
            .encode(&mut message)
            .map_err(|error| StartupError::Io(io::Error::other(error.to_string())))?;
        answer(&mut stream, &message).await?;
    }
    let request = StartupRequest {
        version: packet.version,
        user: packet.user,
        database: packet.database,
        parameters: packet.parameters,
        replication: packet.replication,
        channel_binding,
    };
    Ok(Startup::Session { stream, request })
}

async fn answer(stream: &mut Stream, bytes: &[u8]) -> Result<(), StartupError> {
    stream.write_all(bytes).await.map_err(StartupError::Io)?;
    stream.flush().await.map_err(StartupError::Io)
}

fn is_before_version_3(message: &str) -> bool {
    let version = message.strip_prefix("unsupported frontend protocol ");
    version.is_some_and(|version| ["0.", "1.", "2."].iter().any(|old| version.starts_with(old)))
}

async fn refuse(stream: &mut Stream, error: StartupError) -> StartupError {
    if let StartupError::Refused(refusal) = &error {
        // PostgreSQL writes these to its log only, and so the client just sees the end.
        let silent = ["invalid length of startup packet", "invalid length of query cancel packet"];
        if is_before_version_3(&refusal.message) {
            // Such a client knows no fields.
            let words = format!("EFATAL:  {}\n\0", refusal.message);
            // It may be gone already.
            drop(stream.write_all(words.as_bytes()).await);
        } else if !silent.contains(&refusal.message.as_str()) {
            refusal.send(stream).await;
        }
    }
    error
}

async fn encrypt(
    stream: Stream,
    acceptor: &Acceptor,
    entry: Entry,
) -> Result<(Stream, Option<Arc<[u8]>>), StartupError> {
    match stream {
        Stream::Tcp(tcp) => acceptor.accept(tcp, entry).await.map_err(StartupError::Tls),
        // Only TCP comes here: nothing else is answered 'S'.
        other => Ok((other, None)),
    }
}

/// Looks at the first byte and leaves it where it is; `None` at the end of the stream.
async fn first_byte(tcp: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    Ok(if tcp.peek(&mut byte).await? == 0 { None } else { Some(byte[0]) })
}

/// Whether the client sent more than the SSLRequest before we agreed to TLS.
fn stuffed(stream: &Stream) -> Option<Refusal> {
    let Stream::Tcp(tcp) = stream else { return None };
    let mut byte = [0];
    // A reading of what has arrived, without waiting and without consuming it.
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match tcp.poll_peek(&mut cx, &mut ReadBuf::new(&mut byte)) {
        Poll::Ready(Ok(length)) if length > 0 => {
            Some(Refusal::new("08P01", "received unencrypted data after SSL request").detail(
                "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
            ))
        }
        _ => None,
    }
}

/// Reads one packet, exactly; `None` if the client closed instead.
async fn read_packet<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<Vec<u8>>, StartupError> {
    let mut head = [0; 4];
    if !read_all(stream, &mut head).await? {
        return Ok(None);
    }
    let mut body = vec![0; packet::body_length(head)?];
    Ok(read_all(stream, &mut body).await?.then_some(body))
}

/// Fills `into`; false if the stream ended before.
async fn read_all<S: AsyncRead + Unpin>(stream: &mut S, into: &mut [u8]) -> Result<bool, StartupError> {
    match stream.read_exact(into).await {
        Ok(_) => Ok(true),
        Err(error) if is_end(&error) => Ok(false),
        Err(error) => Err(StartupError::Io(error)),
    }
}

/// A client that is gone is no error, however it went.
pub(super) fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

#[cfg(test)]
#[path = "startup/tests.rs"]
pub(crate) mod tests;
