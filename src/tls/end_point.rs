//! Pure: the `tls-server-end-point` channel binding (RFC 5929): a hash of the server's certificate, with the hash of the
//! certificate's own signature, or SHA-256 where that is MD5 or SHA-1. Reads just enough DER to find the algorithm.

use ring::digest;
use rustls::ClientConnection;

/// One DER element: its tag, its content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let bytes = usize::from(first & 0x7f);
        if bytes == 0 || bytes > 4 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(bytes)?;
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { algorithm OID, … }, … }
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (tag, inside, _) = element(certificate)?;
    let (_, _, rest) = element(inside).filter(|_| tag == SEQUENCE)?;
    let (tag, algorithm, _) = element(rest)?;
    let (oid_tag, oid, _) = element(algorithm).filter(|_| tag == SEQUENCE)?;
    (oid_tag == OBJECT_IDENTIFIER).then_some(oid)
}

/// The binding of a certificate; `None` where its signature names no hash that we have.
pub fn hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    let ecdsa = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let oid = signature_algorithm(certificate)?;
    let algorithm = match (oid.strip_prefix(&rsa), oid.strip_prefix(&ecdsa)) {
        // md5, sha1 and sha256 WithRSAEncryption; ecdsa-with-SHA1 and -SHA256
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => &digest::SHA256,
        (Some([12]), _) | (_, Some([3, 3])) => &digest::SHA384,
        (Some([13]), _) | (_, Some([3, 4])) => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// The binding of the node at the other end.
pub fn of_peer(connection: &ClientConnection) -> Option<Vec<u8>> {
    connection.peer_certificates()?.first().and_then(|certificate| hash(certificate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_der() {
        for der in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80", b"\x30\x89\x01", b"\x30\x02\x30\x00"] {
            assert_eq!(hash(der), None);
        }
    }

    #[test]
    fn the_signatures_hash_is_used() {
        // SEQUENCE { SEQUENCE {}, SEQUENCE { OID } }
        let certificate = |oid: &[u8]| {
            let mut der = vec![0x30, oid.len() as u8 + 6, 0x30, 0, 0x30, oid.len() as u8 + 2, 0x06, oid.len() as u8];
            der.extend_from_slice(oid);
            der
        };
        for (oid, length) in [
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 5][..], Some(32)),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 12], Some(48)),
            (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, 4], Some(64)),
            // Ed25519
            (&[0x2b, 0x65, 0x70], None),
        ] {
            assert_eq!(hash(&certificate(oid)).map(|hash| hash.len()), length);
        }
    }
}
