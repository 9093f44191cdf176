//! The secret half of a CancelKey: random, as long as the client's protocol version takes, told to its client only. The
//! registry in `cancel` keeps it; nothing else may see it.

use std::io;

/// How long a secret the client's protocol version takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretLength {
    /// Protocol 3.0.
    Four,
    /// Protocol 3.2.
    ThirtyTwo,
}

/// Inline where it is short: most clients speak 3.0.
pub(super) enum Secret {
    Four([u8; 4]),
    ThirtyTwo(Box<[u8; 32]>),
}

impl Secret {
    pub(super) fn random(length: SecretLength) -> io::Result<Secret> {
        let mut secret = match length {
            SecretLength::Four => Secret::Four([0; 4]),
            SecretLength::ThirtyTwo => Secret::ThirtyTwo(Box::new([0; 32])),
        };
        let bytes: &mut [u8] = match &mut secret {
            Secret::Four(bytes) => bytes,
            Secret::ThirtyTwo(bytes) => &mut **bytes,
        };
        getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(secret)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Secret::Four(bytes) => bytes,
            Secret::ThirtyTwo(bytes) => &**bytes,
        }
    }
}

/// Takes the same time wherever the first difference is.
pub(super) fn are_equal(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    a.len() == b.len() && difference == 0
}
