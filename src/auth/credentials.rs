//! What logs a user in to a node. Made when its client logs in (or from the configuration), kept by the user's pools,
//! read by pool/login. It is worth as much as the password; it is never printed.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::scram::{self, Keys};
use crate::config::Secret;

/// A user's name and what proves it.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub user: Arc<str>,
    pub proof: Proof,
}

#[derive(Clone, Debug)]
pub enum Proof {
    /// The node must trust us.
    Nothing,
    Password(Arc<Password>),
    /// Recovered while the client proved itself against its verifier: works on nodes with the same verifier.
    Keys(Arc<PassThrough>),
    /// `md5…`: answers md5 challenges only.
    Md5(Arc<Secret>),
}

/// The keys of a client whose password we do not know, and what they were salted with.
#[derive(Debug, PartialEq, Eq)]
pub struct PassThrough {
    pub keys: Keys,
    pub salt: Vec<u8>,
    pub iterations: u32,
}

/// Keys derived with one salt.
#[derive(Debug)]
struct Derived {
    salt: Vec<u8>,
    iterations: u32,
    keys: Keys,
}

/// A password in the clear, and the SCRAM keys that were derived of it so far.
#[derive(Debug)]
pub struct Password {
    text: Secret,
    /// The lock is held while keys are derived: a thousand logins at once then cost one derivation.
    derived: Mutex<Vec<Derived>>,
}

/// Nodes of one cluster share a salt; a few more leave room for password changes and for our own.
const SALTS: usize = 8;

impl Password {
    pub fn new(text: Secret) -> Password {
        Password { text, derived: Mutex::new(Vec::new()) }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The keys for a salt; the millisecond of PBKDF2 is spent on a blocking thread, once for each salt.
    pub async fn keys(&self, salt: &[u8], iterations: u32) -> Keys {
        let mut derived = self.derived.lock().await;
        if let Some(known) = derived.iter().find(|known| known.salt == salt && known.iterations == iterations) {
            return known.keys.clone();
        }
        let (text, salted) = (self.text.clone(), salt.to_vec());
        let work = tokio::task::spawn_blocking(move || scram::derive(text.as_bytes(), &salted, iterations));
        // The task is cancelled only while the runtime shuts down; then a stall of a millisecond harms nobody.
        let keys = work.await.unwrap_or_else(|_| scram::derive(self.text.as_bytes(), salt, iterations));
        if derived.len() == SALTS {
            derived.remove(0);
        }
        derived.push(Derived { salt: salt.to_vec(), iterations, keys: keys.clone() });
        keys
    }
}

impl Credentials {
    /// For a node that trusts us.
    pub fn nothing(user: &str) -> Credentials {
        Credentials { user: user.into(), proof: Proof::Nothing }
    }

    pub fn password(user: &str, password: Secret) -> Credentials {
        Credentials { user: user.into(), proof: Proof::Password(Arc::new(Password::new(password))) }
    }
}

/// Equal if they log in alike. A pool compares: a client with a new password needs new connections, not a new pool.
impl PartialEq for Credentials {
    fn eq(&self, other: &Credentials) -> bool {
        self.user == other.user
            && match (&self.proof, &other.proof) {
                (Proof::Nothing, Proof::Nothing) => true,
                (Proof::Password(a), Proof::Password(b)) => a.text == b.text,
                (Proof::Keys(a), Proof::Keys(b)) => a == b,
                (Proof::Md5(a), Proof::Md5(b)) => a == b,
                _ => false,
            }
    }
}

impl Eq for Credentials {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_are_derived_once_for_each_salt() {
        let password = Password::new(Secret::from("geheim"));
        let first = password.keys(b"salt", 16).await;
        assert_eq!(first, scram::derive(b"geheim", b"salt", 16));
        assert_eq!(password.keys(b"salt", 16).await, first);
        assert_eq!(password.derived.lock().await.len(), 1);
        for salt in 0..20u8 {
            password.keys(&[salt], 1).await;
        }
        assert_eq!(password.derived.lock().await.len(), SALTS);
    }

    #[test]
    fn prints_nothing() {
        let credentials = Credentials::password("app", Secret::from("geheim"));
        assert!(!format!("{credentials:?}").contains("geheim"));
        assert_eq!(credentials, Credentials::password("app", Secret::from("geheim")));
        assert_ne!(credentials, Credentials::password("app", Secret::from("anders")));
    }
}
