//! Tests of `scram`: the RFC's vectors, hostile messages with PostgreSQL's texts, and whole exchanges with
//! postgres-protocol's client.

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::*;

fn verifier(password: &str) -> Verifier {
    Verifier::from_keys(&derive(password.as_bytes(), b"0123456789abcdef", 64), b"0123456789abcdef", 64)
}

/// A challenge, however it was made: deriving keys thousands of times would take minutes.
fn start(message: &[u8], mechanism: Mechanism, binding: Option<&[u8]>) -> Result<(ServerExchange, String), ScramError> {
    ServerExchange::start(verifier("geheim"), message, mechanism, binding, "SERVER")
}

#[test]
fn the_example_of_rfc_7677() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let verifier = Verifier::from_keys(&derive(b"pencil", &salt, 4096), &salt, 4096);
    let (exchange, reply) = ServerExchange::start(
        verifier,
        b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        Mechanism::Plain,
        None,
        "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    )
    .ok()
    .unwrap();
    assert_eq!(reply, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
    let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    match exchange.finish(last, Mechanism::Plain) {
        Ok(Proof::Right { reply, .. }) => assert_eq!(reply, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
        other => panic!("{other:?}"),
    }
}

/// Runs a whole exchange with postgres-protocol's client; true if both sides are satisfied.
fn exchange(stored: &str, typed: &str, mechanism: Mechanism, binding: Option<&[u8]>) -> bool {
    let theirs = match (mechanism, binding) {
        (Mechanism::Plus, Some(data)) => ChannelBinding::tls_server_end_point(data.to_vec()),
        _ => ChannelBinding::unsupported(),
    };
    let mut client = ScramSha256::new(typed.as_bytes(), theirs);
    let server = ServerExchange::start(verifier(stored), client.message(), mechanism, binding, "SERVER");
    let (server, reply) = server.ok().unwrap();
    client.update(reply.as_bytes()).unwrap();
    match server.finish(client.message(), mechanism).unwrap() {
        Proof::Wrong => false,
        Proof::Right { reply, keys } => {
            assert_eq!(sha256(&keys.client_key), verifier(stored).stored_key);
            client.finish(reply.as_bytes()).is_ok()
        }
    }
}

#[test]
fn whole_exchanges() {
    assert!(exchange("geheim", "geheim", Mechanism::Plain, None));
    assert!(!exchange("geheim", "falsch", Mechanism::Plain, None));
    assert!(exchange("geheim", "geheim", Mechanism::Plus, Some(b"hash")));
    assert!(exchange("geheim", "geheim", Mechanism::Plain, Some(b"hash")));
    // SASLprep: a soft hyphen counts for nothing, a non-ASCII space is a space (RFC 4013), both sides alike.
    assert!(exchange("I\u{ad}X", "IX", Mechanism::Plain, None));
    assert!(exchange("a\u{a0}b", "a b", Mechanism::Plain, None));
    // Prohibited characters: taken as they are.
    assert!(exchange("a\u{7}b", "a\u{7}b", Mechanism::Plain, None));
    assert!(!exchange("a\u{7}b", "ab", Mechanism::Plain, None));
}

#[test]
fn a_binding_to_another_certificate_fails() {
    let mut client = ScramSha256::new(b"geheim", ChannelBinding::tls_server_end_point(b"theirs".to_vec()));
    let (server, reply) = start(client.message(), Mechanism::Plus, Some(b"ours")).ok().unwrap();
    client.update(reply.as_bytes()).unwrap();
    let error = server.finish(client.message(), Mechanism::Plus).unwrap_err();
    assert_eq!((error.sqlstate(), error.to_string().as_str()), ("28000", "SCRAM channel binding check failed"));
}

#[test]
fn first_messages_that_are_refused() {
    let text = |error: &ScramError| format!("{} {error}: {}", error.sqlstate(), error.detail().unwrap_or("-"));
    for (message, mechanism, encrypted, expect) in [
        (&b""[..], Mechanism::Plain, false, "08P01 malformed SCRAM message: The message is empty."),
        (
            b"n,,n=,r=a\0b",
            Mechanism::Plain,
            false,
            "08P01 malformed SCRAM message: Message length does not match input length.",
        ),
        (
            b"x,,n=,r=a",
            Mechanism::Plain,
            false,
            "08P01 malformed SCRAM message: Unexpected channel-binding flag \"x\".",
        ),
        (b"n", Mechanism::Plain, false, "08P01 malformed SCRAM message: Comma expected, but found end of string."),
        (
            b"n;,n=,r=a",
            Mechanism::Plain,
            false,
            "08P01 malformed SCRAM message: Comma expected, but found character \";\".",
        ),
        (
            b"n,a=x,n=,r=a",
            Mechanism::Plain,
            false,
            "0A000 client uses authorization identity, but it is not supported: -",
        ),
        (
            b"n,b=x,n=,r=a",
            Mechanism::Plain,
            false,
            "08P01 malformed SCRAM message: Unexpected attribute \"b\" in client-first-message.",
        ),
        (b"n,,m=x,n=,r=a", Mechanism::Plain, false, "0A000 client requires an unsupported SCRAM extension: -"),
        (
            b"n,,r=a",
            Mechanism::Plain,
            false,
            "08P01 malformed SCRAM message: Expected attribute \"n\" but found \"r\".",
        ),
        (
            b"n,,n,r=a",
            Mechanism::Plain,
            false,
            "08P01 malformed SCRAM message: Expected character \"=\" for attribute \"n\".",
        ),
        (b"n,,n=,r=a b", Mechanism::Plain, false, "08P01 non-printable characters in SCRAM nonce: -"),
        (b"n,,n=,r=", Mechanism::Plain, false, "08P01 non-printable characters in SCRAM nonce: -"),
        (
            b"n,,n=,r=a,1=x",
            Mechanism::Plain,
            false,
            "08P01 malformed SCRAM message: Attribute expected, but found invalid character \"1\".",
        ),
        (
            b"p=tls-unique,,n=,r=a",
            Mechanism::Plus,
            true,
            "08P01 unsupported SCRAM channel-binding type \"tls-unique\": -",
        ),
        (
            b"p=tls-server-end-point",
            Mechanism::Plus,
            true,
            "08P01 malformed SCRAM message: Comma expected, but found character \"t\".",
        ),
        (b"n,,n=,r=\xc3\xa9", Mechanism::Plain, false, "08P01 non-printable characters in SCRAM nonce: -"),
        (b"\xff", Mechanism::Plain, false, "08P01 malformed SCRAM message: The message is not UTF-8."),
        (
            b"n,,n=,r=a",
            Mechanism::Plus,
            true,
            "08P01 malformed SCRAM message: The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not \
             include channel binding data.",
        ),
        (
            b"p=tls-server-end-point,,n=,r=a",
            Mechanism::Plain,
            true,
            "08P01 malformed SCRAM message: The client selected SCRAM-SHA-256 without channel binding, but the SCRAM \
             message includes channel binding data.",
        ),
        (
            b"y,,n=,r=a",
            Mechanism::Plain,
            true,
            "28000 SCRAM channel binding negotiation error: The client supports SCRAM channel binding but thinks the \
             server does not.  However, this server does support channel binding.",
        ),
    ] {
        let binding = encrypted.then_some(&b"hash"[..]);
        let shown = String::from_utf8_lossy(message).into_owned();
        let error = start(message, mechanism, binding).err().unwrap_or_else(|| panic!("{shown} was accepted"));
        assert_eq!(text(&error), expect, "{shown}");
    }
    assert!(start(b"y,,n=,r=a", Mechanism::Plain, None).is_ok());
    assert!(start(b"n,,n=whoever,r=a,x=ignored", Mechanism::Plain, None).is_ok());
}

#[test]
fn last_messages_that_are_refused() {
    let good = BASE64.encode([7; 32]);
    for (message, expect) in [
        ("", "malformed SCRAM message The message is empty."),
        ("c=biws", "malformed SCRAM message Expected attribute \"r\" but found \"end of string\"."),
        ("c=eSws,r=aSERVER,p=AA==", "unexpected SCRAM channel-binding attribute in client-final-message "),
        ("c=biws,r=aSERVER", "malformed SCRAM message Attribute expected, but found end of string."),
        ("c=biws,r=aSERVER,p=AA==", "malformed SCRAM message Malformed proof in client-final-message."),
        ("c=biws,r=aSERVER,p=!", "malformed SCRAM message Malformed proof in client-final-message."),
        (
            &format!("c=biws,r=aSERVER,p={good},x=y"),
            "malformed SCRAM message Garbage found at the end of client-final-message.",
        ),
        (
            &format!("c=biws,r=aSERVER,p={good},"),
            "malformed SCRAM message Garbage found at the end of client-final-message.",
        ),
        (&format!("c=biws,r=aOTHER,p={good}"), "invalid SCRAM response Nonce does not match."),
    ] {
        let (server, _) = start(b"n,,n=,r=a", Mechanism::Plain, None).ok().unwrap();
        let error = server.finish(message.as_bytes(), Mechanism::Plain).unwrap_err();
        assert_eq!(format!("{error} {}", error.detail().unwrap_or_default()), expect, "{message}");
    }
    let (server, _) = start(b"n,,n=,r=a", Mechanism::Plain, None).ok().unwrap();
    let message = format!("c=biws,r=aSERVER,ext=x,p={good}");
    assert!(matches!(server.finish(message.as_bytes(), Mechanism::Plain), Err(ScramError::Malformed(_))));
    let (server, _) = start(b"n,,n=,r=a", Mechanism::Plain, None).ok().unwrap();
    let message = format!("c=biws,r=aSERVER,e=x,p={good}");
    assert_eq!(server.finish(message.as_bytes(), Mechanism::Plain), Ok(Proof::Wrong));
}

#[test]
fn verifiers() {
    // What PostgreSQL's own client library makes of a password.
    let text = postgres_protocol::password::scram_sha_256(b"geheim");
    let parsed = Verifier::parse(&text).unwrap();
    assert_eq!(parsed, Verifier::from_keys(&derive(b"geheim", &parsed.salt, 4096), &parsed.salt, 4096));
    for text in ["", "geheim", "SCRAM-SHA-256$", "SCRAM-SHA-256$4096:QQ==$QQ==:QQ==", "SCRAM-SHA-256$0:QQ==$a:b"] {
        assert!(Verifier::parse(text).is_none(), "{text}");
    }
    assert_eq!(format!("{parsed:?}"), "Verifier(***)");
}

proptest::proptest! {
    #[test]
    fn no_message_panics(message in proptest::collection::vec(proptest::num::u8::ANY, 0..80), text in "[nypc=,ra-z-]{0,60}") {
        for message in [&message[..], text.as_bytes()] {
            for (mechanism, binding) in [(Mechanism::Plain, None), (Mechanism::Plus, Some(&b"hash"[..]))] {
                let _ = start(message, mechanism, binding);
                let (server, _) = start(b"n,,n=,r=a", Mechanism::Plain, None).ok().unwrap();
                let _ = server.finish(message, Mechanism::Plain);
            }
        }
    }
}
