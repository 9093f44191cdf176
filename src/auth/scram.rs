//! Pure: SCRAM-SHA-256 (RFC 5802, 7677; manual: "SASL Authentication"): keys, verifiers, and the server's side of the
//! exchange. Nonces and salts are arguments. `derive` costs a millisecond and must not run on a data thread.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};

/// Without and with channel binding.
pub const MECHANISM: &str = "SCRAM-SHA-256";
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// PostgreSQL's default.
pub const ITERATIONS: u32 = 4096;
const BINDING: &str = "tls-server-end-point";

/// What of a password logs in (`client_key`) and what proves a server (`server_key`). As good as the password itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub client_key: [u8; 32],
    pub server_key: [u8; 32],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(***)")
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.client_key.fill(0);
        self.server_key.fill(0);
        std::hint::black_box(&*self);
    }
}

pub(super) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

pub(super) fn sha256(message: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    bytes
}

pub(super) fn xor(mut a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
    for (a, b) in a.iter_mut().zip(b) {
        *a ^= b;
    }
    a
}

/// SASLprep as PostgreSQL does it: what cannot be prepared is taken as it is.
fn prepared(password: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok()) {
        // An empty result would make all such passwords one; PostgreSQL takes the bytes then.
        Some(text) if !text.is_empty() => text.into_owned().into_bytes(),
        _ => password.to_vec(),
    }
}

/// A password's keys for one salt: PBKDF2, slow by design.
pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Keys {
    let mut salted = [0; 32];
    let rounds = std::num::NonZeroU32::new(iterations).unwrap_or(std::num::NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, &prepared(password), &mut salted);
    Keys { client_key: hmac(&salted, b"Client Key"), server_key: hmac(&salted, b"Server Key") }
}

/// What a server stores: it can check a login, and cannot log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub iterations: u32,
    pub salt: Vec<u8>,
    pub stored_key: [u8; 32],
    pub server_key: [u8; 32],
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(***)")
    }
}

impl Verifier {
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` as in pg_authid.
    pub fn parse(text: &str) -> Option<Verifier> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (head, keys) = rest.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|iterations| *iterations > 0)?;
        let salt = BASE64.decode(salt).ok()?;
        let key = |text: &str| BASE64.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        Some(Verifier { iterations, salt, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }

    pub fn from_keys(keys: &Keys, salt: &[u8], iterations: u32) -> Verifier {
        let stored_key = sha256(&keys.client_key);
        Verifier { iterations, salt: salt.to_vec(), stored_key, server_key: keys.server_key }
    }
}

/// What a client did wrong, in PostgreSQL's words. Its fault, always; a wrong password is none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("malformed SCRAM message")]
    Malformed(String),
    #[error("SCRAM channel binding negotiation error")]
    Negotiation,
    #[error("unsupported SCRAM channel-binding type \"{0}\"")]
    UnsupportedBinding(String),
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    #[error("non-printable characters in SCRAM nonce")]
    UnprintableNonce,
    #[error("SCRAM channel binding check failed")]
    BindingCheck,
    #[error("unexpected SCRAM channel-binding attribute in client-final-message")]
    UnexpectedBinding,
    #[error("invalid SCRAM response")]
    NonceMismatch,
}

impl ScramError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            ScramError::Negotiation | ScramError::BindingCheck => "28000",
            ScramError::AuthorizationIdentity | ScramError::Extension => "0A000",
            _ => "08P01",
        }
    }

    pub fn detail(&self) -> Option<&str> {
        match self {
            ScramError::Malformed(detail) => Some(detail),
            ScramError::Negotiation => Some(
                "The client supports SCRAM channel binding but thinks the server does not.  However, this server does \
                 support channel binding.",
            ),
            ScramError::NonceMismatch => Some("Nonce does not match."),
            _ => None,
        }
    }
}

fn malformed(detail: impl Into<String>) -> ScramError {
    ScramError::Malformed(detail.into())
}

/// The server's side after the client's first message.
pub struct ServerExchange {
    verifier: Verifier,
    /// Client's and server's together.
    nonce: String,
    /// What the client's channel-binding attribute must be.
    binding: String,
    /// client-first-message-bare and server-first-message, as the proof covers them.
    transcript: String,
}

/// The client's first message, taken apart.
struct ClientFirst<'a> {
    flag: GsFlag,
    bare: &'a str,
    nonce: &'a str,
}

#[derive(PartialEq, Eq)]
enum GsFlag {
    No,
    Unsupported,
    EndPoint,
}

/// How a login ended that was well-formed.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    Wrong,
    /// The message for SASLFinal, and the keys with which the client's password logs in elsewhere.
    Right {
        reply: String,
        keys: Keys,
    },
}

impl ServerExchange {
    /// Answers the client's first message. `plus`: the client chose the mechanism with channel binding; `binding`: what
    /// our certificate binds to, if the connection is encrypted. Returns the message for SASLContinue.
    pub fn start(
        verifier: Verifier,
        message: &[u8],
        mechanism: Mechanism,
        binding: Option<&[u8]>,
        server_nonce: &str,
    ) -> Result<(ServerExchange, String), ScramError> {
        let first = client_first(message, mechanism, binding.is_some())?;
        let nonce = format!("{}{server_nonce}", first.nonce);
        let reply = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let binding = match first.flag {
            GsFlag::No => BASE64.encode("n,,"),
            GsFlag::Unsupported => BASE64.encode("y,,"),
            GsFlag::EndPoint => {
                let mut data = format!("p={BINDING},,").into_bytes();
                data.extend_from_slice(binding.unwrap_or_default());
                BASE64.encode(data)
            }
        };
        let transcript = format!("{},{reply}", first.bare);
        Ok((ServerExchange { verifier, nonce, binding, transcript }, reply))
    }

    /// Checks the client's last message.
    pub fn finish(self, message: &[u8], mechanism: Mechanism) -> Result<Proof, ScramError> {
        let message = text(message)?;
        let (binding, rest) = attribute(message, 'c')?;
        if binding != self.binding {
            return Err(match mechanism {
                Mechanism::Plus => ScramError::BindingCheck,
                Mechanism::Plain => ScramError::UnexpectedBinding,
            });
        }
        let (nonce, mut rest) = attribute(rest, 'r')?;
        // Extensions between the nonce and the proof are ignored, as the RFC says.
        let (without_proof, proof) = loop {
            let start = message.len() - rest.len();
            let (name, value, after) = any_attribute(rest)?;
            if name == 'p' {
                if !after.is_empty() || message.ends_with(',') {
                    return Err(malformed("Garbage found at the end of client-final-message."));
                }
                break (&message[..start - 1], value);
            }
            rest = after;
        };
        let proof = BASE64.decode(proof).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let proof = proof.ok_or_else(|| malformed("Malformed proof in client-final-message."))?;
        if nonce != self.nonce {
            return Err(ScramError::NonceMismatch);
        }
        let transcript = format!("{},{without_proof}", self.transcript);
        let client_key = xor(proof, hmac(&self.verifier.stored_key, transcript.as_bytes()));
        // Both sides of the comparison are hashes: its timing tells nothing about the stored key.
        if sha256(&sha256(&client_key)) != sha256(&self.verifier.stored_key) {
            return Ok(Proof::Wrong);
        }
        let signature = hmac(&self.verifier.server_key, transcript.as_bytes());
        let keys = Keys { client_key, server_key: self.verifier.server_key };
        Ok(Proof::Right { reply: format!("v={}", BASE64.encode(signature)), keys })
    }
}

/// Which of the two mechanisms the client chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Plus,
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.is_empty() {
        return Err(malformed("The message is empty."));
    }
    if message.contains(&0) {
        return Err(malformed("Message length does not match input length."));
    }
    std::str::from_utf8(message).map_err(|_| malformed("The message is not UTF-8."))
}

fn client_first(message: &[u8], mechanism: Mechanism, encrypted: bool) -> Result<ClientFirst<'_>, ScramError> {
    let message = text(message)?;
    let first = message.chars().next().unwrap_or('\0');
    let (flag, rest) = match (first, mechanism) {
        ('n' | 'y', Mechanism::Plus) => {
            let why =
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.";
            return Err(malformed(why));
        }
        ('n', _) => (GsFlag::No, &message[1..]),
        // The client could have bound the channel and did not see our offer: somebody sits between us.
        ('y', _) if encrypted => return Err(ScramError::Negotiation),
        ('y', _) => (GsFlag::Unsupported, &message[1..]),
        ('p', Mechanism::Plain) => {
            let why = "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel \
                       binding data.";
            return Err(malformed(why));
        }
        ('p', _) => {
            let (kind, rest) = attribute(message, 'p')?;
            if kind != BINDING {
                return Err(ScramError::UnsupportedBinding(kind.to_owned()));
            }
            // `attribute` took the comma, which is looked for below.
            (GsFlag::EndPoint, &message[message.len() - rest.len() - 1..])
        }
        (other, _) => return Err(malformed(format!("Unexpected channel-binding flag \"{other}\"."))),
    };
    let rest = rest.strip_prefix(',').ok_or_else(|| malformed(expected_comma(rest)))?;
    if rest.starts_with('a') {
        return Err(ScramError::AuthorizationIdentity);
    }
    let bare = rest.strip_prefix(',').ok_or_else(|| {
        malformed(format!("Unexpected attribute \"{}\" in client-first-message.", rest.chars().next().unwrap_or(' ')))
    })?;
    if bare.starts_with('m') {
        return Err(ScramError::Extension);
    }
    // The user's name is the startup packet's; this one is ignored, as PostgreSQL does.
    let (_, rest) = attribute(bare, 'n')?;
    let (nonce, mut rest) = attribute(rest, 'r')?;
    if nonce.is_empty() || !nonce.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b',') {
        return Err(ScramError::UnprintableNonce);
    }
    while !rest.is_empty() {
        rest = any_attribute(rest)?.2;
    }
    Ok(ClientFirst { flag, bare, nonce })
}

fn expected_comma(rest: &str) -> String {
    match rest.chars().next() {
        Some(found) => format!("Comma expected, but found character \"{found}\"."),
        None => "Comma expected, but found end of string.".to_owned(),
    }
}

/// `x=value,rest` for a known `x`.
pub(super) fn attribute(text: &str, name: char) -> Result<(&str, &str), ScramError> {
    if !text.starts_with(name) {
        let found = text.chars().next().map_or_else(|| "end of string".to_owned(), String::from);
        return Err(malformed(format!("Expected attribute \"{name}\" but found \"{found}\".")));
    }
    let (_, value, rest) = any_attribute(text)?;
    Ok((value, rest))
}

fn any_attribute(text: &str) -> Result<(char, &str, &str), ScramError> {
    let name = text.chars().next().ok_or_else(|| malformed("Attribute expected, but found end of string."))?;
    if !name.is_ascii_alphabetic() {
        return Err(malformed(format!("Attribute expected, but found invalid character \"{name}\".")));
    }
    let rest = text[1..].strip_prefix('=');
    let rest = rest.ok_or_else(|| malformed(format!("Expected character \"=\" for attribute \"{name}\".")))?;
    let (value, rest) = rest.split_once(',').unwrap_or((rest, ""));
    Ok((name, value, rest))
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;
