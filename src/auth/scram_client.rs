//! Pure: the client's side of SCRAM-SHA-256, from keys instead of a password: what logs us in to a node in the name of
//! somebody whose password we never saw. Called by pool/login. The node's messages are a stranger's: all is checked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::scram::{Keys, attribute, hmac, sha256, xor};

/// More rounds would let a node keep our threads busy.
const MOST_ITERATIONS: u32 = 1_000_000;

/// Why a node's SCRAM message is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerMessageError {
    #[error("the node sent a malformed SCRAM message")]
    Malformed,
    #[error("the node changed the SCRAM nonce")]
    Nonce,
    #[error("the node asks for {0} SCRAM iterations")]
    Iterations(u32),
    #[error("the node refused the SCRAM exchange: {0}")]
    Refused(String),
    #[error("the node could not prove that it knows the password's verifier")]
    Signature,
}

/// The channel binding of a login to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Not encrypted, or no hash can be told for the node's certificate.
    None,
    /// Encrypted, and the node did not offer channel binding: tell it that we could, so that a downgrade is noticed.
    NotOffered,
    EndPoint(Vec<u8>),
}

impl Binding {
    fn header(&self) -> &'static str {
        match self {
            Binding::None => "n,,",
            Binding::NotOffered => "y,,",
            Binding::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }
}

/// Our first message was made; the node's first is awaited.
pub struct Begun {
    binding: Binding,
    nonce: String,
}

/// What the node wants the password salted with.
pub struct Salting {
    begun: Begun,
    /// The node's first message.
    message: String,
    nonce: String,
    pub salt: Vec<u8>,
    pub iterations: u32,
}

/// Our proof was made; the node's is awaited.
pub struct Proven {
    signature: [u8; 32],
}

impl Begun {
    pub fn new(binding: Binding, nonce: String) -> Begun {
        Begun { binding, nonce }
    }

    /// The data of SASLInitialResponse.
    pub fn message(&self) -> String {
        format!("{}n=,r={}", self.binding.header(), self.nonce)
    }

    /// Reads the data of SASLContinue.
    pub fn on_server_first(self, message: &[u8]) -> Result<Salting, ServerMessageError> {
        let wrong = |_| ServerMessageError::Malformed;
        let message = std::str::from_utf8(message).map_err(|_| ServerMessageError::Malformed)?;
        let (nonce, rest) = attribute(message, 'r').map_err(wrong)?;
        let (salt, rest) = attribute(rest, 's').map_err(wrong)?;
        let (iterations, _) = attribute(rest, 'i').map_err(wrong)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ServerMessageError::Nonce);
        }
        let salt = BASE64.decode(salt).map_err(|_| ServerMessageError::Malformed)?;
        let iterations = iterations.parse().map_err(|_| ServerMessageError::Malformed)?;
        if iterations == 0 || iterations > MOST_ITERATIONS {
            return Err(ServerMessageError::Iterations(iterations));
        }
        Ok(Salting { nonce: nonce.to_owned(), message: message.to_owned(), begun: self, salt, iterations })
    }
}

impl Salting {
    /// The data of SASLResponse.
    pub fn prove(self, keys: &Keys) -> (Proven, String) {
        let header = self.begun.binding.header();
        let mut binding = header.as_bytes().to_vec();
        if let Binding::EndPoint(data) = &self.begun.binding {
            binding.extend_from_slice(data);
        }
        let unproven = format!("c={},r={}", BASE64.encode(binding), self.nonce);
        let transcript = format!("n=,r={},{},{unproven}", self.begun.nonce, self.message);
        let stored_key = sha256(&keys.client_key);
        let proof = xor(keys.client_key, hmac(&stored_key, transcript.as_bytes()));
        let signature = hmac(&keys.server_key, transcript.as_bytes());
        (Proven { signature }, format!("{unproven},p={}", BASE64.encode(proof)))
    }
}

impl Proven {
    /// Reads the data of SASLFinal.
    pub fn on_server_final(self, message: &[u8]) -> Result<(), ServerMessageError> {
        let message = std::str::from_utf8(message).map_err(|_| ServerMessageError::Malformed)?;
        if let Some(error) = message.strip_prefix("e=") {
            return Err(ServerMessageError::Refused(error.chars().take(64).collect()));
        }
        let (signature, _) = attribute(message, 'v').map_err(|_| ServerMessageError::Malformed)?;
        let signature = BASE64.decode(signature).map_err(|_| ServerMessageError::Malformed)?;
        if sha256(&signature) == sha256(&self.signature) { Ok(()) } else { Err(ServerMessageError::Signature) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scram::derive;
    use super::*;

    const FIRST: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn begun() -> Begun {
        Begun::new(Binding::None, "rOprNGfwEbeRWgbNEkqO".to_owned())
    }

    #[test]
    fn keys_of_rfc_7677() {
        // RFC 7677 section 3, whose user name differs from ours (PostgreSQL's is empty), so the keys alone are compared,
        // by way of the RFC's proof and signature.
        let salting = begun().on_server_first(FIRST).unwrap();
        assert_eq!(salting.iterations, 4096);
        let keys = derive(b"pencil", &salting.salt, salting.iterations);
        let transcript = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                          s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,\
                          r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = xor(keys.client_key, hmac(&sha256(&keys.client_key), transcript.as_bytes()));
        assert_eq!(BASE64.encode(proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let signature = hmac(&keys.server_key, transcript.as_bytes());
        assert_eq!(BASE64.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn hostile_nodes() {
        for (message, expect) in [
            (&b"r=other,s=QQ==,i=4096"[..], ServerMessageError::Nonce),
            (b"r=rOprNGfwEbeRWgbNEkqO,s=QQ==,i=4096", ServerMessageError::Nonce),
            (b"r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096", ServerMessageError::Malformed),
            (b"r=rOprNGfwEbeRWgbNEkqOx,s=QQ==,i=0", ServerMessageError::Iterations(0)),
            (b"r=rOprNGfwEbeRWgbNEkqOx,s=QQ==,i=4000000000", ServerMessageError::Iterations(4_000_000_000)),
            (b"r=rOprNGfwEbeRWgbNEkqOx,s=QQ==,i=99999999999", ServerMessageError::Malformed),
            (b"", ServerMessageError::Malformed),
            (b"r=rOprNGfwEbeRWgbNEkqOx", ServerMessageError::Malformed),
            (b"\xff\xfe", ServerMessageError::Malformed),
            (b"m=x,r=rOprNGfwEbeRWgbNEkqOx,s=QQ==,i=1", ServerMessageError::Malformed),
        ] {
            assert_eq!(begun().on_server_first(message).err(), Some(expect));
        }
    }

    #[test]
    fn a_node_must_prove_itself() {
        let prove = || begun().on_server_first(FIRST).unwrap().prove(&derive(b"pencil", b"salt", 1)).0;
        assert_eq!(prove().on_server_final(b"v=AAAA"), Err(ServerMessageError::Signature));
        assert_eq!(prove().on_server_final(b"v=!"), Err(ServerMessageError::Malformed));
        assert_eq!(
            prove().on_server_final(b"e=invalid-proof"),
            Err(ServerMessageError::Refused("invalid-proof".to_owned()))
        );
    }
}
