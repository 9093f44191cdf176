//! Authenticates a client (manual: "Start-up", "SASL Authentication"), up to and with AuthenticationOk. The session calls
//! it after `startup::negotiate`; the greeting that follows is the session's. A client that does not prove itself is told
//! the same whether its user exists or not. The caller limits the time.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::startup::Authentication;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::refusal::Refusal;
use super::startup::{StartupRequest, is_end};
use crate::auth::scram::{self, Mechanism, Proof, ScramError, ServerExchange};
use crate::auth::{Auth, AuthError, Challenge, Credentials, Md5Challenge, ScramChallenge};

/// PG_MAX_SASL_MESSAGE_LENGTH.
const LONGEST_SASL: usize = 1024;
/// PG_MAX_AUTH_TOKEN_LENGTH, for everything that is no SASL message; ours need 36 bytes.
const LONGEST_PASSWORD: usize = 1024;

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The client was told.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The client went away, as psql does when it must first ask for a password.
    #[error("the client closed the connection")]
    Closed,
    #[error("{0}")]
    Io(io::Error),
    /// Not the client's fault; it was told that it cannot log in now.
    #[error("{0}")]
    Unavailable(AuthError),
}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> LoginError {
        if is_end(&error) { LoginError::Closed } else { LoginError::Io(error) }
    }
}

/// Asks the client to prove itself, and lets it in. A refusal has been sent when the error is returned.
pub async fn authenticate<S>(stream: &mut S, request: &StartupRequest, auth: &Auth) -> Result<Credentials, LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let result = challenge(stream, request, auth).await;
    match &result {
        Err(LoginError::Refused(refusal)) => refusal.send(stream).await,
        Err(LoginError::Unavailable(_)) => {
            // What exactly failed is for the log: a client that is not logged in is a stranger.
            let text = format!("user \"{}\" cannot be authenticated now", request.user);
            Refusal::new("57P03", text).send(stream).await;
        }
        _ => {}
    }
    result
}

async fn challenge<S>(stream: &mut S, request: &StartupRequest, auth: &Auth) -> Result<Credentials, LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut last = BytesMut::new();
    let granted = match auth.challenge(&request.user).await.map_err(LoginError::Unavailable)? {
        Challenge::Trusted(credentials) => Some(credentials),
        Challenge::Unknown => {
            return Err(Refusal::new("28000", format!("role \"{}\" does not exist", request.user)).into());
        }
        Challenge::Md5(challenge) => ask_md5(stream, challenge).await?,
        Challenge::Scram(challenge) => {
            ask_scram(stream, challenge, request.channel_binding.as_deref(), &mut last).await?
        }
    };
    let Some(credentials) = granted else {
        auth.failed(&request.user);
        let text = format!("password authentication failed for user \"{}\"", request.user);
        return Err(Refusal::new("28P01", text).into());
    };
    // Only who is let in learns which databases there are.
    let physical = request.replication.as_deref().is_some_and(|kind| kind != "database");
    if !physical && !auth.serves(&request.database) {
        let text = format!("database \"{}\" does not exist", request.database);
        return Err(Refusal::new("3D000", text).detail("pgweir was not configured to serve it.").into());
    }
    // The proof of our side and the Ok leave together.
    put(&mut last, Authentication::Ok)?;
    send(stream, &last).await?;
    Ok(credentials)
}

fn put(buffer: &mut BytesMut, message: Authentication) -> Result<(), LoginError> {
    message.encode(buffer).map_err(|error| LoginError::Io(io::Error::other(error.to_string())))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), LoginError> {
    stream.write_all(bytes).await?;
    Ok(stream.flush().await?)
}

async fn ask<S: AsyncWrite + Unpin>(stream: &mut S, message: Authentication) -> Result<(), LoginError> {
    let mut buffer = BytesMut::new();
    put(&mut buffer, message)?;
    send(stream, &buffer).await
}

/// Reads one message of the type `p`; `expected` is PostgreSQL's word for it.
async fn read_response<S>(stream: &mut S, expected: &str, longest: usize) -> Result<Vec<u8>, LoginError>
where
    S: AsyncRead + Unpin,
{
    let kind = stream.read_u8().await?;
    if kind == b'X' {
        return Err(LoginError::Closed);
    }
    if kind != b'p' {
        let text = format!("expected {expected} response, got message type {kind}");
        return Err(Refusal::new("08P01", text).into());
    }
    let length = stream.read_u32().await? as usize;
    let body = length.checked_sub(4).filter(|length| *length <= longest);
    let body = body.ok_or_else(|| Refusal::new("08P01", "invalid message length"))?;
    let mut message = vec![0; body];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn ask_md5<S>(stream: &mut S, challenge: Md5Challenge) -> Result<Option<Credentials>, LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut salt = [0; 4];
    random(&mut salt)?;
    ask(stream, Authentication::MD5Password(salt.to_vec())).await?;
    let message = read_response(stream, "password", LONGEST_PASSWORD).await?;
    match message.split_last() {
        Some((0, response)) if !response.contains(&0) => {
            if response.is_empty() {
                return Err(Refusal::new("28P01", "empty password returned by client").into());
            }
            Ok(challenge.grant(salt, response))
        }
        _ => Err(Refusal::new("08P01", "invalid password packet size").into()),
    }
}

fn random(bytes: &mut [u8]) -> Result<(), LoginError> {
    getrandom::fill(bytes).map_err(|error| LoginError::Unavailable(AuthError::Randomness(error)))
}

impl From<ScramError> for LoginError {
    fn from(error: ScramError) -> LoginError {
        let refusal = Refusal::new(error.sqlstate(), error.to_string());
        LoginError::Refused(match error.detail() {
            Some(detail) => refusal.detail(detail),
            None => refusal,
        })
    }
}

/// The SCRAM exchange. Our own proof is left in `last`.
async fn ask_scram<S>(
    stream: &mut S,
    challenge: ScramChallenge,
    binding: Option<&[u8]>,
    last: &mut BytesMut,
) -> Result<Option<Credentials>, LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Without TLS the offer of PLUS would make libpq give up.
    let plus = binding.map(|_| scram::MECHANISM_PLUS.to_owned());
    let offer = plus.into_iter().chain([scram::MECHANISM.to_owned()]).collect();
    ask(stream, Authentication::SASL(offer)).await?;

    let message = read_response(stream, "SASL", LONGEST_SASL).await?;
    let (mechanism, first) = initial_response(&message, binding.is_some())?;
    let first = match first {
        Some(first) => first.to_vec(),
        None => {
            ask(stream, Authentication::SASLContinue(Default::default())).await?;
            read_response(stream, "SASL", LONGEST_SASL).await?
        }
    };
    let mut nonce = [0; 18];
    random(&mut nonce)?;
    let nonce = BASE64.encode(nonce);
    let (exchange, reply) = ServerExchange::start(challenge.verifier.clone(), &first, mechanism, binding, &nonce)?;
    ask(stream, Authentication::SASLContinue(reply.into_bytes().into())).await?;

    let message = read_response(stream, "SASL", LONGEST_SASL).await?;
    match exchange.finish(&message, mechanism)? {
        Proof::Wrong => Ok(None),
        Proof::Right { reply, keys } => {
            put(last, Authentication::SASLFinal(reply.into_bytes().into()))?;
            Ok(challenge.grant(keys))
        }
    }
}

/// SASLInitialResponse: the mechanism's name, then a length (-1 for none) and the first message.
fn initial_response(message: &[u8], plus_offered: bool) -> Result<(Mechanism, Option<&[u8]>), Refusal> {
    let wrong = || Refusal::new("08P01", "invalid message format");
    let end = memchr::memchr(0, message).ok_or_else(wrong)?;
    let mechanism = match &message[..end] {
        name if name == scram::MECHANISM.as_bytes() => Mechanism::Plain,
        name if name == scram::MECHANISM_PLUS.as_bytes() && plus_offered => Mechanism::Plus,
        _ => return Err(Refusal::new("08P01", "client selected an invalid SASL authentication mechanism")),
    };
    let (length, data) = message[end + 1..].split_first_chunk::<4>().ok_or_else(wrong)?;
    match i32::from_be_bytes(*length) {
        -1 if data.is_empty() => Ok((mechanism, None)),
        length if usize::try_from(length) == Ok(data.len()) => Ok((mechanism, Some(data))),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
