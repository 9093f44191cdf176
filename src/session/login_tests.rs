//! Tests of the clients' login: exchanges in memory with postgres-protocol's client, hostile messages, and psql.

use std::sync::Arc;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;

use super::super::startup::{ProtocolVersion, Startup, negotiate};
use super::*;
use crate::auth::credentials;
use crate::config::{AuthConfig, AuthMethod, Secret, UserConfig};
use crate::stream::Stream;

fn request(user: &str) -> StartupRequest {
    StartupRequest {
        version: ProtocolVersion::V3_0,
        user: user.to_owned(),
        database: "app".to_owned(),
        parameters: Vec::new(),
        replication: None,
        channel_binding: None,
    }
}

fn auth(method: AuthMethod, users: &[(&str, Option<&str>)]) -> Auth {
    let users = users
        .iter()
        .map(|(name, password)| UserConfig { name: (*name).to_owned(), password: password.map(Secret::from) });
    let config = AuthConfig { method, users: users.collect(), auth_query: None };
    Auth::new(&config, Vec::new(), None).unwrap()
}

async fn read(client: &mut DuplexStream) -> (u8, Vec<u8>) {
    let kind = client.read_u8().await.unwrap();
    let length = client.read_u32().await.unwrap();
    let mut body = vec![0; length as usize - 4];
    client.read_exact(&mut body).await.unwrap();
    (kind, body)
}

async fn write(client: &mut DuplexStream, body: &[u8]) {
    let mut message = vec![b'p'];
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(body);
    client.write_all(&message).await.unwrap();
}

fn initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    let mut body = format!("{mechanism}\0").into_bytes();
    body.extend_from_slice(&(data.len() as i32).to_be_bytes());
    body.extend_from_slice(data);
    body
}

/// What an error message says: SQLSTATE and text.
fn error(message: (u8, Vec<u8>)) -> String {
    assert_eq!(message.0, b'E', "{:?}", String::from_utf8_lossy(&message.1));
    let field = |code: u8| {
        let field = message.1.split(|byte| *byte == 0).find(|field| field.first() == Some(&code));
        String::from_utf8(field.unwrap()[1..].to_vec()).unwrap()
    };
    format!("{} {} {}", field(b'S'), field(b'C'), field(b'M'))
}

/// The client's side of a SCRAM login; the last message it got.
async fn scram(client: &mut DuplexStream, password: &str, binding: Option<&[u8]>) -> Result<(), String> {
    let (kind, offer) = read(client).await;
    assert_eq!(kind, b'R');
    let (mechanism, bound, expect) = match binding {
        Some(data) => (
            "SCRAM-SHA-256-PLUS",
            ChannelBinding::tls_server_end_point(data.to_vec()),
            &b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"[..],
        ),
        None => ("SCRAM-SHA-256", ChannelBinding::unsupported(), &b"\0\0\0\x0aSCRAM-SHA-256\0\0"[..]),
    };
    assert_eq!(offer, expect);
    let mut exchange = ScramSha256::new(password.as_bytes(), bound);
    write(client, &initial(mechanism, exchange.message())).await;
    let (_, reply) = read(client).await;
    exchange.update(&reply[4..]).unwrap();
    write(client, exchange.message()).await;
    let last = read(client).await;
    if last.0 == b'E' {
        return Err(error(last));
    }
    exchange.finish(&last.1[4..]).unwrap();
    assert_eq!(read(client).await, (b'R', vec![0; 4]));
    Ok(())
}

async fn log_in(auth: &Auth, user: &str, password: &str) -> Result<Credentials, String> {
    let (mut client, mut server) = tokio::io::duplex(4096);
    let request = request(user);
    let (told, result) = tokio::join!(scram(&mut client, password, None), authenticate(&mut server, &request, auth));
    match (told, result) {
        (Ok(()), Ok(credentials)) => Ok(credentials),
        (Err(told), Err(_)) => Err(told),
        (told, result) => panic!("{told:?} {result:?}"),
    }
}

#[tokio::test]
async fn scram_with_passwords_and_verifiers() {
    let verifier = postgres_protocol::password::scram_sha_256(b"geheim");
    for stored in ["geheim", &verifier] {
        let auth = auth(AuthMethod::ScramSha256, &[("app", Some(stored))]);
        let credentials = log_in(&auth, "app", "geheim").await.unwrap();
        match &credentials.proof {
            credentials::Proof::Password(password) => assert_eq!(password.text(), "geheim"),
            credentials::Proof::Keys(through) => {
                assert_eq!(through.keys, scram::derive(b"geheim", &through.salt, through.iterations));
            }
            other => panic!("{other:?}"),
        }
        let wrong = log_in(&auth, "app", "falsch").await.unwrap_err();
        assert_eq!(wrong, "FATAL 28P01 password authentication failed for user \"app\"");
        let unknown = log_in(&auth, "nobody", "geheim").await.unwrap_err();
        assert_eq!(unknown, "FATAL 28P01 password authentication failed for user \"nobody\"");
    }
}

#[tokio::test]
async fn an_unknown_user_has_a_salt_that_stays() {
    let auth = auth(AuthMethod::ScramSha256, &[("app", Some("geheim"))]);
    let salt = async |user: &str| match auth.challenge(user).await.unwrap() {
        Challenge::Scram(challenge) => (challenge.verifier.salt, challenge.verifier.iterations),
        other => panic!("{other:?}"),
    };
    assert_eq!(salt("nobody").await, salt("nobody").await);
    assert_ne!(salt("nobody").await, salt("somebody").await);
    assert_eq!(salt("app").await, salt("app").await);
    assert_eq!(
        (salt("app").await.0.len(), salt("app").await.1),
        (salt("nobody").await.0.len(), salt("nobody").await.1)
    );
}

#[tokio::test]
async fn channel_binding_is_offered_and_checked_where_there_is_tls() {
    let auth = auth(AuthMethod::ScramSha256, &[("app", Some("geheim"))]);
    let mut request = request("app");
    request.channel_binding = Some(Arc::from(&b"hash"[..]));
    for (data, good) in [(&b"hash"[..], true), (b"other", false)] {
        let (mut client, mut server) = tokio::io::duplex(4096);
        let client = scram(&mut client, "geheim", Some(data));
        let (told, result) = tokio::join!(client, authenticate(&mut server, &request, &auth));
        assert_eq!(result.is_ok(), good);
        let expect = if good { Ok(()) } else { Err("FATAL 28000 SCRAM channel binding check failed".to_owned()) };
        assert_eq!(told, expect);
    }
}

#[tokio::test]
async fn md5() {
    let hash = crate::auth::md5::hash("app", b"geheim");
    for (stored, typed, user, good) in [
        ("geheim", "geheim", "app", true),
        (&*hash, "geheim", "app", true),
        ("geheim", "falsch", "app", false),
        ("geheim", "geheim", "nobody", false),
    ] {
        let auth = auth(AuthMethod::Md5, &[("app", Some(stored))]);
        let (mut client, mut server) = tokio::io::duplex(4096);
        let request = request(user);
        let client = async {
            let (kind, body) = read(&mut client).await;
            assert_eq!((kind, &body[..4], body.len()), (b'R', &[0, 0, 0, 5][..], 8));
            let salt = body[4..].try_into().unwrap();
            let answer = postgres_protocol::authentication::md5_hash(user.as_bytes(), typed.as_bytes(), salt);
            write(&mut client, format!("{answer}\0").as_bytes()).await;
            read(&mut client).await
        };
        let (told, result) = tokio::join!(client, authenticate(&mut server, &request, &auth));
        assert_eq!(result.is_ok(), good);
        if good {
            assert_eq!(told, (b'R', vec![0; 4]));
        } else {
            let expect = format!("FATAL 28P01 password authentication failed for user \"{user}\"");
            assert_eq!(error(told), expect);
        }
    }
}

#[tokio::test]
async fn trust_is_for_listed_users() {
    for (method, stored, user, expect) in [
        (AuthMethod::Trust, Some("geheim"), "app", None),
        (AuthMethod::Trust, Some("geheim"), "nobody", Some("FATAL 28000 role \"nobody\" does not exist")),
        // A URL without a password: the node trusts us, and we trust the client.
        (AuthMethod::ScramSha256, None, "app", None),
    ] {
        let auth = auth(method, &[("app", stored)]);
        let (mut client, mut server) = tokio::io::duplex(4096);
        let result = authenticate(&mut server, &request(user), &auth).await;
        let told = read(&mut client).await;
        match expect {
            Some(expect) => assert_eq!(error(told), expect),
            None => assert_eq!((told, result.is_ok()), ((b'R', vec![0; 4]), true)),
        }
    }
}

#[tokio::test]
async fn a_database_that_is_not_served() {
    let users = vec![UserConfig { name: "app".to_owned(), password: None }];
    let config = AuthConfig { method: AuthMethod::ScramSha256, users, auth_query: None };
    let auth = Auth::new(&config, vec!["other".to_owned()], None).unwrap();
    let (mut client, mut server) = tokio::io::duplex(4096);
    assert!(authenticate(&mut server, &request("app"), &auth).await.is_err());
    assert_eq!(error(read(&mut client).await), "FATAL 3D000 database \"app\" does not exist");
}

#[tokio::test]
async fn hostile_messages() {
    let auth = auth(AuthMethod::ScramSha256, &[("app", Some("geheim"))]);
    let p = |length: u32, body: &[u8]| [&b"p"[..], &length.to_be_bytes(), body].concat();
    let whole = |body: &[u8]| p(body.len() as u32 + 4, body);
    for (bytes, expect) in [
        (b"Q\0\0\0\x04".to_vec(), "FATAL 08P01 expected SASL response, got message type 81"),
        // A length below its own size made another server's process die.
        (p(2, b""), "FATAL 08P01 invalid message length"),
        (p(1029, b""), "FATAL 08P01 invalid message length"),
        (p(u32::MAX, b""), "FATAL 08P01 invalid message length"),
        (whole(b"SCRAM-SHA-256"), "FATAL 08P01 invalid message format"),
        (whole(b"SCRAM-SHA-256\0\0\0"), "FATAL 08P01 invalid message format"),
        (whole(b"SCRAM-SHA-256\0\0\0\0\x05abc"), "FATAL 08P01 invalid message format"),
        (whole(b"SCRAM-SHA-256\0\xff\xff\xff\xfe"), "FATAL 08P01 invalid message format"),
        (whole(b"PLAIN\0\0\0\0\0"), "FATAL 08P01 client selected an invalid SASL authentication mechanism"),
        (
            whole(&initial("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=x")),
            "FATAL 08P01 client selected an invalid SASL authentication mechanism",
        ),
        (whole(&initial("SCRAM-SHA-256", b"nonsense")), "FATAL 08P01 malformed SCRAM message"),
    ] {
        let (mut client, mut server) = tokio::io::duplex(4096);
        client.write_all(&bytes).await.unwrap();
        let result = authenticate(&mut server, &request("app"), &auth).await;
        assert!(matches!(result, Err(LoginError::Refused(_))), "{result:?}");
        read(&mut client).await;
        assert_eq!(error(read(&mut client).await), expect, "{:?}", String::from_utf8_lossy(&bytes));
    }
    for bytes in [&b""[..], b"p\0\0", b"X\0\0\0\x04"] {
        let (mut client, mut server) = tokio::io::duplex(4096);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let result = authenticate(&mut server, &request("app"), &auth).await;
        assert!(matches!(result, Err(LoginError::Closed)), "{result:?}");
    }
}

#[tokio::test]
async fn a_first_message_may_come_late() {
    let auth = auth(AuthMethod::ScramSha256, &[("app", Some("geheim"))]);
    let (mut client, mut server) = tokio::io::duplex(4096);
    let request = request("app");
    let client = async {
        read(&mut client).await;
        write(&mut client, b"SCRAM-SHA-256\0\xff\xff\xff\xff").await;
        assert_eq!(read(&mut client).await, (b'R', vec![0, 0, 0, 11]));
        let mut exchange = ScramSha256::new(b"geheim", ChannelBinding::unsupported());
        write(&mut client, exchange.message()).await;
        exchange.update(&read(&mut client).await.1[4..]).unwrap();
        write(&mut client, exchange.message()).await;
        exchange.finish(&read(&mut client).await.1[4..]).unwrap();
    };
    let ((), result) = tokio::join!(client, authenticate(&mut server, &request, &auth));
    assert!(result.is_ok());
}

/// psql's exit and words after it tried to log in to a listener that greets and then knows no SQL.
async fn psql(
    auth: Auth,
    tls: Option<crate::tls::Acceptor>,
    user: &str,
    password: &str,
    sslmode: &str,
) -> (bool, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let Ok(Startup::Session { mut stream, request }) = negotiate(Stream::Tcp(tcp), tls.as_ref()).await else {
            return;
        };
        if authenticate(&mut stream, &request, &auth).await.is_ok() {
            stream.write_all(b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I").await.unwrap();
            stream.flush().await.unwrap();
            // psql sends its Query: an empty reply will do.
            let mut query = [0; 64];
            let _ = stream.read(&mut query).await;
            let _ = stream.write_all(b"I\0\0\0\x04Z\0\0\0\x05I").await;
            let _ = stream.flush().await;
            let _ = stream.read(&mut query).await;
        }
    });
    let url = format!("postgres://{user}@127.0.0.1:{port}/app?sslmode={sslmode}");
    let output = tokio::process::Command::new("psql")
        .args(["-X", "-w", "-c", ";", &url])
        .env("PGPASSWORD", password)
        .output()
        .await
        .unwrap();
    server.await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn psql_logs_in() {
    let certificate = crate::session::startup::tests::Certificate::new();
    for method in [AuthMethod::ScramSha256, AuthMethod::Md5] {
        for sslmode in ["disable", "require"] {
            for (user, password, good) in [("app", "geheim", true), ("app", "falsch", false), ("nobody", "x", false)] {
                let tls = certificate.config(crate::config::ClientTlsMode::Allow);
                let tls = crate::tls::Acceptor::new(&tls).unwrap();
                let auth = auth(method, &[("app", Some("geheim"))]);
                let (success, stderr) = psql(auth, tls, user, password, sslmode).await;
                assert_eq!(success, good, "{method:?} {sslmode} {user}: {stderr}");
                if !good {
                    let expect = format!("FATAL:  password authentication failed for user \"{user}\"");
                    assert!(stderr.contains(&expect), "{stderr}");
                }
            }
        }
    }
}
