//! Logs in to a node (manual: "Start-up"): StartupMessage 3.0, whatever proof the node asks for, up to its first
//! ReadyForQuery. pool/connection calls it on a fresh connection, after TLS, and limits the time. A node's bytes are a
//! stranger's: lengths are capped, every read is bounds-checked, and nothing is kept that was not asked for.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::auth::credentials::Proof;
use crate::auth::scram::{self, Keys};
use crate::auth::scram_client::{Begun, Binding, Proven, Salting, ServerMessageError};
use crate::auth::{Credentials, md5};
use crate::tls::EndPoint;

/// Longer messages before the first ReadyForQuery are no PostgreSQL's.
const LONGEST: usize = 64 << 10;
/// So are more of them: a node that talks on would hold the connection's slot.
const MOST_MESSAGES: usize = 1000;

/// What the connection is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStartup {
    pub user: String,
    pub database: String,
    /// Further parameters: settings, `replication`.
    pub parameters: Vec<(String, String)>,
}

/// What the node said of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Greeting {
    pub parameters: Vec<(String, String)>,
    /// For cancel requests.
    pub pid: u32,
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for Greeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Greeting").field("parameters", &self.parameters).field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Why there is no server connection.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The node said no. `body` is its ErrorResponse without type and length, for a client that should see it.
    #[error("{severity} {sqlstate}: {message}")]
    Refused { body: Vec<u8>, sqlstate: String, severity: String, message: String },
    #[error("the node asks for {0}, and nothing is known of the user that would answer it")]
    NoAnswer(&'static str),
    /// The verifier that the client was checked with is not the node's: the keys would fail there.
    #[error("the node's SCRAM verifier for the user is another than the one that the client was checked with")]
    OtherVerifier,
    #[error("{0}")]
    Scram(#[from] ServerMessageError),
    #[error("the node sent {0}")]
    Protocol(String),
    #[error("the node closed the connection during login")]
    Closed,
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> LoginError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => LoginError::Closed,
            _ => LoginError::Io(error),
        }
    }
}

fn protocol(what: impl Into<String>) -> LoginError {
    LoginError::Protocol(what.into())
}

/// How far the node's question is answered.
enum Asked {
    /// It has not asked, or was answered: AuthenticationOk may come.
    Nothing,
    ScramFirst(Begun),
    ScramFinal(Proven),
    Done,
}

/// Logs in, and reads up to ReadyForQuery and not a byte further.
pub async fn log_in<S>(
    stream: &mut S,
    startup: &ServerStartup,
    credentials: &Credentials,
) -> Result<Greeting, LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin + EndPoint,
{
    let mut out = BytesMut::new();
    let names = [("user", startup.user.as_str()), ("database", startup.database.as_str())];
    let others = startup.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    frontend::startup_message(names.into_iter().chain(others), &mut out)?;
    send(stream, &mut out).await?;

    let mut asked = Asked::Nothing;
    let mut greeting = Greeting { parameters: Vec::new(), pid: 0, secret: Vec::new() };
    for _ in 0..MOST_MESSAGES {
        let (kind, body) = read_message(stream).await?;
        match (kind, &asked) {
            (b'E', _) => return Err(refused(body)),
            (b'N', _) => {}
            // We ask for 3.0 without options, so there is nothing that the node could not know.
            (b'v', Asked::Nothing) => {}
            (b'R', Asked::Done) => return Err(protocol("an authentication request after AuthenticationOk")),
            (b'R', _) => asked = on_authentication(stream, asked, &body, startup, credentials).await?,
            (b'S', _) => on_parameter(&body, &mut greeting)?,
            (b'K', Asked::Done) => on_key(&body, &mut greeting)?,
            (b'Z', Asked::Done) if body == b"I" => return Ok(greeting),
            (kind, _) => return Err(protocol(format!("an unexpected message of type {:?}", char::from(kind)))),
        }
    }
    Err(protocol("too many messages before ReadyForQuery"))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, out: &mut BytesMut) -> Result<(), LoginError> {
    stream.write_all(out).await?;
    stream.flush().await?;
    // It may have held a password.
    out.fill(0);
    out.clear();
    Ok(())
}

async fn read_message<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(u8, Vec<u8>), LoginError> {
    let kind = stream.read_u8().await?;
    let length = stream.read_u32().await? as usize;
    let length = length.checked_sub(4).filter(|length| *length <= LONGEST);
    let length =
        length.ok_or_else(|| protocol(format!("a message of type {:?} with a wrong length", char::from(kind))))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// Answers one Authentication message.
async fn on_authentication<S>(
    stream: &mut S,
    asked: Asked,
    body: &[u8],
    startup: &ServerStartup,
    credentials: &Credentials,
) -> Result<Asked, LoginError>
where
    S: AsyncWrite + Unpin + EndPoint,
{
    let (code, data) = body.split_first_chunk::<4>().ok_or_else(|| protocol("a short authentication request"))?;
    let mut out = BytesMut::new();
    let next = match (u32::from_be_bytes(*code), asked) {
        (0, Asked::Nothing) => Asked::Done,
        (0, _) => return Err(protocol("AuthenticationOk without its SCRAM proof")),
        (3, Asked::Nothing) => {
            let Proof::Password(password) = &credentials.proof else {
                return Err(LoginError::NoAnswer("a password in the clear"));
            };
            frontend::password_message(password.text().as_bytes(), &mut out)?;
            Asked::Nothing
        }
        (5, Asked::Nothing) => {
            let salt = data.try_into().map_err(|_| protocol("an md5 request without its salt"))?;
            frontend::password_message(md5_response(startup, credentials, salt)?.as_bytes(), &mut out)?;
            Asked::Nothing
        }
        (10, Asked::Nothing) => Asked::ScramFirst(begin_scram(data, stream, credentials, &mut out)?),
        (11, Asked::ScramFirst(begun)) => {
            let salting = begun.on_server_first(data)?;
            let keys = keys(&salting, credentials).await?;
            let (proven, message) = salting.prove(&keys);
            frontend::sasl_response(message.as_bytes(), &mut out)?;
            Asked::ScramFinal(proven)
        }
        (12, Asked::ScramFinal(proven)) => {
            proven.on_server_final(data)?;
            Asked::Nothing
        }
        (2, _) => return Err(LoginError::NoAnswer("Kerberos")),
        (7 | 8, _) => return Err(LoginError::NoAnswer("GSSAPI")),
        (9, _) => return Err(LoginError::NoAnswer("SSPI")),
        (code, _) => return Err(protocol(format!("an authentication request {code} out of turn"))),
    };
    if !out.is_empty() {
        send(stream, &mut out).await?;
    }
    Ok(next)
}

fn md5_response(
    startup: &ServerStartup,
    credentials: &Credentials,
    salt: [u8; 4],
) -> Result<crate::config::Secret, LoginError> {
    match &credentials.proof {
        Proof::Password(password) => Ok(md5::response(&md5::hash(&startup.user, password.text().as_bytes()), salt)),
        Proof::Md5(hash) => Ok(md5::response(hash, salt)),
        Proof::Nothing | Proof::Keys(_) => Err(LoginError::NoAnswer("an md5 password")),
    }
}

fn begin_scram<S: EndPoint>(
    offer: &[u8],
    stream: &S,
    credentials: &Credentials,
    out: &mut BytesMut,
) -> Result<Begun, LoginError> {
    if !matches!(credentials.proof, Proof::Password(_) | Proof::Keys(_)) {
        return Err(LoginError::NoAnswer("a SCRAM proof"));
    }
    let offers = |name: &str| offer.split(|byte| *byte == 0).any(|offered| offered == name.as_bytes());
    let (mechanism, binding) = match stream.tls_server_end_point() {
        Some(hash) if offers(scram::MECHANISM_PLUS) => (scram::MECHANISM_PLUS, Binding::EndPoint(hash)),
        Some(_) => (scram::MECHANISM, Binding::NotOffered),
        None => (scram::MECHANISM, Binding::None),
    };
    if !offers(mechanism) {
        return Err(LoginError::NoAnswer("a SASL mechanism that pgweir does not have"));
    }
    let mut nonce = [0; 18];
    getrandom::fill(&mut nonce).map_err(|error| LoginError::Io(io::Error::other(error.to_string())))?;
    let begun = Begun::new(binding, BASE64.encode(nonce));
    frontend::sasl_initial_response(mechanism, begun.message().as_bytes(), out)?;
    Ok(begun)
}

async fn keys(salting: &Salting, credentials: &Credentials) -> Result<Keys, LoginError> {
    match &credentials.proof {
        Proof::Password(password) => Ok(password.keys(&salting.salt, salting.iterations).await),
        Proof::Keys(through) if through.salt == salting.salt && through.iterations == salting.iterations => {
            Ok(through.keys.clone())
        }
        Proof::Keys(_) => Err(LoginError::OtherVerifier),
        Proof::Nothing | Proof::Md5(_) => Err(LoginError::NoAnswer("a SCRAM proof")),
    }
}

fn cstring(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), &bytes[end + 1..]))
}

fn on_parameter(body: &[u8], greeting: &mut Greeting) -> Result<(), LoginError> {
    let wrong = || protocol("a malformed ParameterStatus");
    let (name, rest) = cstring(body).ok_or_else(wrong)?;
    let (value, rest) = cstring(rest).ok_or_else(wrong)?;
    if !rest.is_empty() {
        return Err(wrong());
    }
    match greeting.parameters.iter_mut().find(|(known, _)| *known == name) {
        Some(known) => known.1 = value,
        None => greeting.parameters.push((name, value)),
    }
    Ok(())
}

fn on_key(body: &[u8], greeting: &mut Greeting) -> Result<(), LoginError> {
    let (pid, secret) = body.split_first_chunk::<4>().ok_or_else(|| protocol("a malformed BackendKeyData"))?;
    if !(4..=256).contains(&secret.len()) {
        return Err(protocol("a malformed BackendKeyData"));
    }
    greeting.pid = u32::from_be_bytes(*pid);
    greeting.secret = secret.to_vec();
    Ok(())
}

/// Takes the fields that we look at out of an ErrorResponse; a malformed one still ends the login.
fn refused(body: Vec<u8>) -> LoginError {
    let field = |wanted: u8| {
        let mut rest = body.as_slice();
        while let Some((&code, after)) = rest.split_first().filter(|(code, _)| **code != 0) {
            let (text, after) = cstring(after)?;
            if code == wanted {
                return Some(text);
            }
            rest = after;
        }
        None
    };
    let severity = field(b'V').or_else(|| field(b'S')).unwrap_or_default();
    let (sqlstate, message) = (field(b'C').unwrap_or_default(), field(b'M').unwrap_or_default());
    LoginError::Refused { sqlstate, severity, message, body }
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
