//! Pure: PostgreSQL's md5 passwords. `md5` + MD5(password + user) is what is stored; the answer to a challenge is
//! `md5` + MD5(stored hex + salt). Used in both directions; new set-ups should use SCRAM.

use md5::{Digest, Md5};

use crate::config::Secret;

/// Whether a stored password is such a hash (manual: pg_authid).
pub fn is_hash(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("md5").is_some_and(|rest| rest.len() == 32 && rest.bytes().all(hex))
}

fn digest(parts: [&[u8]; 2]) -> Secret {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    let mut text = String::with_capacity(35);
    text.push_str("md5");
    for byte in md5.finalize() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    Secret::from(text)
}

/// The stored form of a password.
pub fn hash(user: &str, password: &[u8]) -> Secret {
    digest([password, user.as_bytes()])
}

/// The answer to AuthenticationMD5Password, from the stored form.
pub fn response(hash: &str, salt: [u8; 4]) -> Secret {
    digest([hash.strip_prefix("md5").unwrap_or(hash).as_bytes(), &salt])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_postgres_protocol() {
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        let expect = postgres_protocol::authentication::md5_hash(b"md5_user", b"password", salt);
        assert_eq!(&*response(&hash("md5_user", b"password"), salt), expect);
        assert_eq!(expect, "md562af4dd09bbb41884907a838a3233294");
    }

    #[test]
    fn knows_hashes() {
        assert!(is_hash(&hash("a", b"b")));
        for text in ["md5", "md5abc", "MD562af4dd09bbb41884907a838a3233294", "md562AF4dd09bbb41884907a838a3233294"] {
            assert!(!is_hash(text), "{text}");
        }
    }
}
