//! Tests of the startup phase over real sockets: every order of requests, byte by byte, stuffed bytes, TLS.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::*;

const SSL: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
const GSS: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30];

fn startup(minor: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = ((rest.len() + 8) as u32).to_be_bytes().to_vec();
    message.extend_from_slice(&[0, 3, 0, minor]);
    message.extend_from_slice(rest);
    message
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Sends all at once, and returns what came of it with everything that the client was sent.
async fn talk(bytes: &[u8]) -> (Result<Startup, StartupError>, Vec<u8>) {
    let (mut client, server) = UnixStream::pair().unwrap();
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let result = negotiate(Stream::Unix(server), None).await;
    let (result, stream) = match result {
        Ok(Startup::Session { stream, request }) => (Ok(request), Some(stream)),
        Ok(Startup::Cancel { stream, key }) => return (Ok(Startup::Cancel { stream, key }), Vec::new()),
        Ok(Startup::Closed) => return (Ok(Startup::Closed), Vec::new()),
        Err(error) => (Err(error), None),
    };
    match (result, stream) {
        (Ok(request), Some(Stream::Unix(mut stream))) => {
            stream.shutdown().await.unwrap();
            let mut sent = Vec::new();
            client.read_to_end(&mut sent).await.unwrap();
            (Ok(Startup::Session { stream: Stream::Unix(stream), request }), sent)
        }
        (Err(error), _) => {
            let mut sent = Vec::new();
            // What was not read of the client's bytes makes the kernel say "reset" behind the answer.
            drop(client.read_to_end(&mut sent).await);
            (Err(error), sent)
        }
        _ => panic!("another stream came back"),
    }
}

fn user(result: Result<Startup, StartupError>) -> String {
    match result {
        Ok(Startup::Session { request, .. }) => request.user,
        Ok(_) => panic!("no session"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn requests_in_any_order() {
    let start = startup(0, b"user\0app\0\0");
    for (asks, answers) in
        [(vec![], &b""[..]), (vec![SSL], b"N"), (vec![GSS], b"N"), (vec![SSL, GSS], b"NN"), (vec![GSS, SSL], b"NN")]
    {
        let bytes: Vec<u8> = asks.concat().into_iter().chain(start.clone()).collect();
        let (result, sent) = talk(&bytes).await;
        assert_eq!((user(result).as_str(), &sent[..]), ("app", answers));
    }
    let (result, sent) = talk(&[SSL, SSL].concat()).await;
    let expect = "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2";
    assert_eq!(result.err().unwrap().to_string(), expect);
    assert!(String::from_utf8_lossy(&sent).contains(expect));
}

#[tokio::test]
async fn byte_by_byte_and_nothing_is_swallowed() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let task = tokio::spawn(negotiate(Stream::Unix(server), None));
    let bytes = [&SSL[..], &startup(2, b"user\0app\0options\0-c a=b\0\0")].concat();
    for byte in bytes {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    client.write_all(b"rest").await.unwrap();
    let Ok(Startup::Session { mut stream, request }) = task.await.unwrap() else { panic!("no session") };
    assert_eq!(request.parameters, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(request.version, ProtocolVersion::V3_2);
    let mut rest = [0; 4];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"rest");
}

#[tokio::test]
async fn hostile_openings_are_told_why() {
    for (bytes, sqlstate, text) in [
        (&startup(0, b"\0")[..], "28000", "no PostgreSQL user name specified in startup packet"),
        (&startup(0, b"user\0a\0options\0-x\0\0"), "42601", "invalid command-line argument for server process: -x"),
    ] {
        let (result, sent) = talk(bytes).await;
        assert_eq!(result.err().unwrap().to_string(), text);
        let sent = String::from_utf8_lossy(&sent).into_owned();
        assert!(sent.starts_with('E') && sent.contains(&format!("C{sqlstate}\0M{text}\0")), "{sent}");
    }
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 4]] {
        let (result, sent) = talk(bytes).await;
        assert_eq!(result.err().unwrap().to_string(), "invalid length of startup packet");
        assert!(sent.is_empty(), "PostgreSQL tells only its log");
    }
    let (_, sent) = talk(&[0, 0, 0, 8, 0, 2, 0, 0]).await;
    assert_eq!(sent, b"EFATAL:  unsupported frontend protocol 2.0: server supports 3.0 to 3.2\n\0");
    for cut in [&b""[..], b"\0", &[0, 0, 0, 20, 0, 3]] {
        assert!(matches!(talk(cut).await.0, Ok(Startup::Closed)));
    }
}

#[tokio::test]
async fn version_negotiation() {
    let (result, sent) = talk(&startup(99, b"user\0a\0_pq_.hello\x001\0\0")).await;
    assert_eq!(user(result), "a");
    // NegotiateProtocolVersion: 3.2, one option that we do not know.
    assert_eq!(sent, b"v\0\0\0\x17\0\x03\0\x02\0\0\0\x01_pq_.hello\0");
}

#[tokio::test]
async fn cancel_keys() {
    let message = [&[0, 0, 0, 44, 4, 0xd2, 0x16, 0x2e, 0, 0, 0, 5][..], &[7; 32]].concat();
    match talk(&message).await.0 {
        Ok(Startup::Cancel { key, .. }) => assert_eq!(key, CancelKey { pid: 5, secret: vec![7; 32] }),
        _ => panic!("no cancel"),
    }
}

/// Certificates as an operator makes them.
pub(crate) struct Certificate {
    pub directory: std::path::PathBuf,
}

impl Certificate {
    pub fn new() -> Certificate {
        let mut name = [0; 8];
        getrandom::fill(&mut name).unwrap();
        let directory = std::env::temp_dir().join(format!("pgweir-tls-{:x}", u64::from_ne_bytes(name)));
        std::fs::create_dir(&directory).unwrap();
        let made = std::process::Command::new("openssl")
            .args(["req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-newkey", "rsa:2048"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Certificate { directory }
    }

    pub fn config(&self, mode: crate::config::ClientTlsMode) -> crate::config::ClientTlsConfig {
        crate::config::ClientTlsConfig {
            mode,
            certificate: Some(self.directory.join("cert.pem")),
            key: Some(self.directory.join("key.pem")),
        }
    }

    pub fn root(&self) -> std::path::PathBuf {
        self.directory.join("cert.pem")
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[tokio::test]
async fn tls_by_request_with_every_sslmode() {
    use crate::config::{ClientTlsMode, NodeTls};
    use crate::tls::{Connector, EndPoint};
    let certificate = Certificate::new();
    let acceptor = Acceptor::new(&certificate.config(ClientTlsMode::Require)).unwrap().unwrap();
    let root = certificate.root();
    for tls in [
        NodeTls::Prefer,
        NodeTls::Require,
        NodeTls::VerifyCa { root: root.clone() },
        NodeTls::VerifyFull { root: root.clone() },
    ] {
        let (client, server) = tcp_pair().await;
        let connector = Connector::new(&tls, "localhost").unwrap();
        let client = async {
            let mut stream = connector.secure(client).await.unwrap();
            stream.write_all(&startup(0, b"user\0app\0\0")).await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let (stream, result) = tokio::join!(client, negotiate(Stream::Tcp(server), Some(&acceptor)));
        let Ok(Startup::Session { request, .. }) = result else { panic!("no session with {tls:?}") };
        assert!(request.channel_binding.is_some());
        assert_eq!(request.channel_binding.as_deref(), stream.tls_server_end_point().as_deref());
    }
    // Another name, and another authority.
    let other = Certificate::new();
    for (tls, host, good) in [
        (NodeTls::VerifyFull { root: root.clone() }, "db1.example", false),
        (NodeTls::VerifyCa { root }, "db1.example", true),
        (NodeTls::VerifyCa { root: other.root() }, "localhost", false),
    ] {
        let (client, server) = tcp_pair().await;
        let connector = Connector::new(&tls, host).unwrap();
        let server = tokio::time::timeout(std::time::Duration::from_secs(10), async {
            let _ = negotiate(Stream::Tcp(server), Some(&acceptor)).await;
        });
        let client = async { connector.secure(client).await.map(drop) };
        let (result, _) = tokio::join!(client, server);
        assert_eq!(result.is_ok(), good, "{tls:?} {host} {result:?}");
    }
}

#[tokio::test]
async fn bytes_ahead_of_tls_are_refused() {
    let certificate = Certificate::new();
    let acceptor = Acceptor::new(&certificate.config(crate::config::ClientTlsMode::Allow)).unwrap().unwrap();
    let (mut client, server) = tcp_pair().await;
    client.write_all(&[&SSL[..], &startup(0, b"user\0evil\0\0")].concat()).await.unwrap();
    server.readable().await.unwrap();
    let error = negotiate(Stream::Tcp(server), Some(&acceptor)).await.err().unwrap();
    assert_eq!(error.to_string(), "received unencrypted data after SSL request");
    let mut sent = Vec::new();
    client.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent[0], b'E');
}

#[tokio::test]
async fn plain_text_is_refused_where_tls_is_required() {
    let certificate = Certificate::new();
    let acceptor = Acceptor::new(&certificate.config(crate::config::ClientTlsMode::Require)).unwrap().unwrap();
    let (mut client, server) = tcp_pair().await;
    client.write_all(&startup(0, b"user\0app\0\0")).await.unwrap();
    let error = negotiate(Stream::Tcp(server), Some(&acceptor)).await.err().unwrap();
    assert_eq!(error.to_string(), "this server accepts only encrypted connections");
}

#[tokio::test]
async fn direct_tls_needs_alpn() {
    use tokio_rustls::TlsConnector;
    let certificate = Certificate::new();
    let acceptor = Acceptor::new(&certificate.config(crate::config::ClientTlsMode::Allow)).unwrap().unwrap();
    for (alpn, good) in [(vec![b"postgresql".to_vec()], true), (vec![], false)] {
        let verifier = crate::tls::anyone();
        let mut config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = alpn;
        let (client, server) = tcp_pair().await;
        let client = async {
            let connector = TlsConnector::from(Arc::new(config));
            let mut stream = connector.connect("localhost".try_into().unwrap(), client).await?;
            stream.write_all(&startup(0, b"user\0direct\0\0")).await?;
            stream.flush().await?;
            Ok::<_, io::Error>(stream)
        };
        let (_stream, result) = tokio::join!(client, negotiate(Stream::Tcp(server), Some(&acceptor)));
        match result {
            Ok(Startup::Session { request, .. }) => assert!(good && request.user == "direct"),
            Err(StartupError::Tls(error)) => assert!(!good && error.to_string().contains("ALPN")),
            _ => panic!("neither session nor TLS error"),
        }
    }
}
