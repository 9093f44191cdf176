//! Who may log in, and how: users of the configuration and of `auth_query`, verifiers, and what a login leaves for the
//! nodes. session/login asks for a `Challenge` and talks to the client; nothing here reads or writes a client's socket.
//!
//! Who is not listed (nor found by `auth_query`) is refused under every method, and cannot be told from a wrong password.

pub mod credentials;
pub mod md5;
pub mod query;
pub mod scram;
pub mod scram_client;

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{AuthConfig, AuthMethod, Secret};
pub use credentials::{Credentials, Proof};
use credentials::{PassThrough, Password};
pub use query::{AuthQuery, FindPrimary, Primary};
use scram::{Keys, Verifier};

/// What is stored of a user's password.
#[derive(Clone, Debug)]
pub enum Stored {
    /// None: the user is let in without one.
    Nothing,
    Clear(Arc<Password>),
    Scram(Verifier),
    Md5(Secret),
}

impl Stored {
    /// Reads a password as the configuration or `auth_query` gives it.
    fn read(text: &Secret) -> Stored {
        if let Some(verifier) = Verifier::parse(text) {
            Stored::Scram(verifier)
        } else if md5::is_hash(text) {
            Stored::Md5(text.clone())
        } else {
            Stored::Clear(Arc::new(Password::new(text.clone())))
        }
    }
}

/// What a client is asked before it is let in.
#[derive(Debug)]
pub enum Challenge {
    /// Nothing.
    Trusted(Credentials),
    /// Nothing can be asked: the method is trust and nobody knows the user.
    Unknown,
    Scram(ScramChallenge),
    Md5(Md5Challenge),
}

/// The verifier to check against. For an unknown user it is made up, and no proof will do.
#[derive(Debug)]
pub struct ScramChallenge {
    pub verifier: Verifier,
    granted: Granted,
}

#[derive(Debug)]
enum Granted {
    Nobody,
    Known(Credentials),
    /// Log in to nodes with the keys that the client's proof reveals.
    PassThrough(Arc<str>),
}

impl ScramChallenge {
    /// What the right proof is worth; `None` for a user that does not exist.
    pub fn grant(self, keys: Keys) -> Option<Credentials> {
        match self.granted {
            Granted::Nobody => None,
            Granted::Known(credentials) => Some(credentials),
            Granted::PassThrough(user) => {
                let through = PassThrough { keys, salt: self.verifier.salt, iterations: self.verifier.iterations };
                Some(Credentials { user, proof: Proof::Keys(Arc::new(through)) })
            }
        }
    }
}

/// The hash to check against; made up for an unknown user.
#[derive(Debug)]
pub struct Md5Challenge {
    hash: Secret,
    granted: Option<Credentials>,
}

impl Md5Challenge {
    /// What the client's response to `salt` is worth.
    pub fn grant(self, salt: [u8; 4], response: &[u8]) -> Option<Credentials> {
        let expect = md5::response(&self.hash, salt);
        // Hashes are compared, so that the time tells nothing.
        let right = scram::sha256(expect.as_bytes()) == scram::sha256(response);
        self.granted.filter(|_| right)
    }
}

/// Why nobody can be asked for a password now.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("no randomness: {0}")]
    Randomness(getrandom::Error),
    #[error("auth_query failed: {0}")]
    Query(String),
}

/// The users, shared by all sessions.
pub struct Auth {
    method: AuthMethod,
    users: HashMap<String, Stored>,
    /// Empty: every one is served.
    databases: Vec<String>,
    query: Option<AuthQuery>,
    /// Salts are made of it, for known and unknown users alike: the same user sees the same salt while we run.
    seed: [u8; 32],
}

impl Auth {
    /// `primary` is needed for `auth_query` only.
    pub fn new(config: &AuthConfig, databases: Vec<String>, primary: Option<Primary>) -> Result<Auth, AuthError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(AuthError::Randomness)?;
        let users = config.users.iter().map(|user| {
            let stored = user.password.as_ref().map_or(Stored::Nothing, Stored::read);
            (user.name.clone(), stored)
        });
        let query = config.auth_query.clone().zip(primary).map(|(sql, primary)| AuthQuery::new(sql, primary));
        Ok(Auth { method: config.method, users: users.collect(), databases, query, seed })
    }

    /// Whether clients may name the database.
    pub fn serves(&self, database: &str) -> bool {
        self.databases.is_empty() || self.databases.iter().any(|served| served == database)
    }

    /// What to ask of a client that says it is `user`.
    pub async fn challenge(&self, user: &str) -> Result<Challenge, AuthError> {
        let stored = match (self.users.get(user), &self.query) {
            (Some(stored), _) => Some(stored.clone()),
            (None, Some(query)) => query.stored(user).await?,
            (None, None) => None,
        };
        let Some(stored) = stored else { return Ok(self.mock(user)) };
        if self.method == AuthMethod::Trust || matches!(stored, Stored::Nothing) {
            return Ok(Challenge::Trusted(trusted(user, stored)));
        }
        Ok(match (stored, self.method) {
            (Stored::Clear(password), AuthMethod::Md5) => Challenge::Md5(Md5Challenge {
                hash: md5::hash(user, password.text().as_bytes()),
                granted: Some(Credentials { user: user.into(), proof: Proof::Password(password) }),
            }),
            (Stored::Clear(password), _) => {
                let salt = self.salt(user);
                let keys = password.keys(&salt, scram::ITERATIONS).await;
                let verifier = Verifier::from_keys(&keys, &salt, scram::ITERATIONS);
                let credentials = Credentials { user: user.into(), proof: Proof::Password(password) };
                Challenge::Scram(ScramChallenge { verifier, granted: Granted::Known(credentials) })
            }
            // As in PostgreSQL, the method md5 also takes users whose verifier is SCRAM's.
            (Stored::Scram(verifier), _) => {
                Challenge::Scram(ScramChallenge { verifier, granted: Granted::PassThrough(user.into()) })
            }
            (Stored::Md5(hash), AuthMethod::Md5) => Challenge::Md5(Md5Challenge {
                hash: hash.clone(),
                granted: Some(Credentials { user: user.into(), proof: Proof::Md5(Arc::new(hash)) }),
            }),
            // An md5 hash cannot check a SCRAM proof. The configuration refuses this; `auth_query` may still bring it.
            (Stored::Md5(_) | Stored::Nothing, _) => self.mock(user),
        })
    }

    /// Called after a failed login: a verifier that `auth_query` brought may have changed since.
    pub fn failed(&self, user: &str) {
        if let Some(query) = &self.query {
            query.forget(user);
        }
    }

    /// Roles were altered: what `auth_query` brought may be old.
    pub fn outdate(&self) {
        if let Some(query) = &self.query {
            query.forget_all();
        }
    }

    /// Runs until every password in the clear has its keys, so that the first login of a known user takes no longer than
    /// that of an unknown one. Optional: logins derive what is missing.
    pub async fn warm_up(&self) {
        if self.method != AuthMethod::ScramSha256 {
            return;
        }
        for (user, stored) in &self.users {
            if let Stored::Clear(password) = stored {
                password.keys(&self.salt(user), scram::ITERATIONS).await;
            }
        }
    }

    fn salt(&self, user: &str) -> [u8; 16] {
        let mut salt = [0; 16];
        salt.copy_from_slice(&scram::hmac(&self.seed, user.as_bytes())[..16]);
        salt
    }

    /// A challenge that looks like any other and that nothing answers.
    fn mock(&self, user: &str) -> Challenge {
        match self.method {
            AuthMethod::Trust => Challenge::Unknown,
            AuthMethod::ScramSha256 => {
                let keys = [scram::hmac(&self.seed, b"stored"), scram::hmac(&self.seed, b"server")];
                let verifier = Verifier {
                    iterations: scram::ITERATIONS,
                    salt: self.salt(user).to_vec(),
                    stored_key: keys[0],
                    server_key: keys[1],
                };
                Challenge::Scram(ScramChallenge { verifier, granted: Granted::Nobody })
            }
            AuthMethod::Md5 => Challenge::Md5(Md5Challenge { hash: md5::hash(user, &self.seed), granted: None }),
        }
    }
}

/// What a client that was not asked leaves for the nodes.
fn trusted(user: &str, stored: Stored) -> Credentials {
    let proof = match stored {
        Stored::Clear(password) => Proof::Password(password),
        Stored::Md5(hash) => Proof::Md5(Arc::new(hash)),
        Stored::Scram(_) | Stored::Nothing => Proof::Nothing,
    };
    Credentials { user: user.into(), proof }
}
