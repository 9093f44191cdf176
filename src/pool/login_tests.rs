//! Tests of the login to a node: a scripted, hostile node in memory, and a real PostgreSQL with every method of pg_hba.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio::io::DuplexStream;
use tokio::net::TcpStream;

use super::*;
use crate::auth::credentials::PassThrough;
use crate::auth::{Auth, Challenge, Primary};
use crate::config::{AuthConfig, AuthMethod, NodeTls, Secret};
use crate::session::startup::tests::Certificate;
use crate::tls::Connector;

fn startup(user: &str) -> ServerStartup {
    let parameters = vec![("application_name".to_owned(), "pgweir test".to_owned())];
    ServerStartup { user: user.to_owned(), database: "postgres".to_owned(), parameters }
}

fn password(text: &str) -> Credentials {
    Credentials::password("app", Secret::from(text))
}

/// What a scripted node makes of a login.
async fn scripted(script: &[u8], credentials: &Credentials) -> Result<Greeting, LoginError> {
    let (mut node, mut stream): (DuplexStream, DuplexStream) = tokio::io::duplex(1 << 20);
    node.write_all(script).await.unwrap();
    node.shutdown().await.unwrap();
    log_in(&mut stream, &startup("app"), credentials).await
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

#[tokio::test]
async fn a_trusting_node() {
    let script = [
        message(b'v', b"\0\x03\0\0\0\0\0\0"),
        message(b'N', b"SNOTICE\0\0"),
        message(b'R', &[0; 4]),
        message(b'S', b"server_version\x0015\0"),
        message(b'S', b"server_version\x0016\0"),
        message(b'K', b"\0\0\0\x05\0\0\0\x06"),
        message(b'Z', b"I"),
    ];
    let greeting = scripted(&script.concat(), &Credentials::nothing("app")).await.unwrap();
    assert_eq!((greeting.pid, greeting.secret), (5, vec![0, 0, 0, 6]));
    assert_eq!(greeting.parameters, [("server_version".to_owned(), "16".to_owned())]);
}

#[tokio::test]
async fn a_refusal_is_kept_whole() {
    let body = b"SFATAL\0VFATAL\0C3D000\0Mdatabase \"x\" does not exist\0\0";
    match scripted(&message(b'E', body), &Credentials::nothing("app")).await {
        Err(LoginError::Refused { body: kept, sqlstate, severity, message }) => {
            assert_eq!((kept.as_slice(), sqlstate.as_str(), severity.as_str()), (&body[..], "3D000", "FATAL"));
            assert_eq!(message, "database \"x\" does not exist");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(scripted(&message(b'E', b"Cnever ends"), &password("x")).await, Err(LoginError::Refused { .. })));
}

#[tokio::test]
async fn hostile_nodes() {
    let ok = message(b'R', &[0; 4]);
    let sasl = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    for (script, expect) in [
        (b"R\0\0\0\x02".to_vec(), "the node sent a message of type 'R' with a wrong length"),
        (b"S\x7f\0\0\0".to_vec(), "the node sent a message of type 'S' with a wrong length"),
        (message(b'R', b"\0\0"), "the node sent a short authentication request"),
        (message(b'R', b"\0\0\0\x05ab"), "the node sent an md5 request without its salt"),
        (message(b'R', b"\0\0\0\x0b"), "the node sent an authentication request 11 out of turn"),
        (message(b'R', b"\0\0\0\x63"), "the node sent an authentication request 99 out of turn"),
        (
            message(b'R', b"\0\0\0\x07"),
            "the node asks for GSSAPI, and nothing is known of the user that would answer it",
        ),
        (
            message(b'R', b"\0\0\0\x0aOTHER\0\0"),
            "the node asks for a SASL mechanism that pgweir does not have, and nothing is known of the user that would \
             answer it",
        ),
        (message(b'Z', b"I"), "the node sent an unexpected message of type 'Z'"),
        (message(b'K', b"\0\0\0\0\0\0\0\0"), "the node sent an unexpected message of type 'K'"),
        ([ok.clone(), ok.clone()].concat(), "the node sent an authentication request after AuthenticationOk"),
        ([ok.clone(), message(b'Z', b"T")].concat(), "the node sent an unexpected message of type 'Z'"),
        ([ok.clone(), message(b'K', b"\0\0\0\0")].concat(), "the node sent a malformed BackendKeyData"),
        ([ok.clone(), message(b'S', b"name\0value")].concat(), "the node sent a malformed ParameterStatus"),
        ([ok.clone(), message(b'S', b"a\0b\0c")].concat(), "the node sent a malformed ParameterStatus"),
        ([ok.clone(), message(b'D', b"")].concat(), "the node sent an unexpected message of type 'D'"),
        // A node that never proved itself must not get away with it.
        ([sasl.clone(), ok.clone()].concat(), "the node sent AuthenticationOk without its SCRAM proof"),
        ([sasl.clone(), message(b'R', b"\0\0\0\x0br=x,s=QQ==,i=1")].concat(), "the node changed the SCRAM nonce"),
        (ok.clone(), "the node closed the connection during login"),
        (Vec::new(), "the node closed the connection during login"),
    ] {
        let error = scripted(&script, &password("geheim")).await.unwrap_err();
        assert_eq!(error.to_string(), expect, "{:?}", String::from_utf8_lossy(&script));
    }
    let endless = message(b'N', b"SNOTICE\0\0").repeat(2000);
    let error = scripted(&endless, &password("geheim")).await.unwrap_err();
    assert_eq!(error.to_string(), "the node sent too many messages before ReadyForQuery");
}

/// A throw-away PostgreSQL, stopped and removed at the end.
struct Postgres {
    directory: PathBuf,
    port: u16,
}

fn root() -> bool {
    // The owner of what we make is who we are.
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// Runs a program as who may run PostgreSQL.
fn run(program: &Path, args: &[&str]) -> String {
    let mut command = if root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    let output = command.args(args).current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program:?} {args:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    text.trim().to_owned()
}

const BIN: &str = "/usr/lib/postgresql/15/bin";

impl Postgres {
    fn start(certificate: &Certificate) -> Postgres {
        let directory = PathBuf::from(run(Path::new("mktemp"), &["-d"]));
        let data = directory.join("data");
        let data = data.to_str().unwrap();
        let bin = Path::new(BIN);
        run(&bin.join("initdb"), &["-D", data, "-A", "trust", "-U", "postgres", "--no-sync"]);
        let hba = "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all scram 127.0.0.1/32 scram-sha-256\n\
                   host all md5 127.0.0.1/32 md5\nhost all clear 127.0.0.1/32 password\n\
                   hostssl all tls 127.0.0.1/32 scram-sha-256\n";
        for (name, text) in [
            ("pg_hba.conf", hba.to_owned()),
            ("server.crt", std::fs::read_to_string(certificate.directory.join("cert.pem")).unwrap()),
            ("server.key", std::fs::read_to_string(certificate.directory.join("key.pem")).unwrap()),
        ] {
            let file = format!("{data}/{name}");
            run(Path::new("sh"), &["-c", "umask 077; printf %s \"$1\" > \"$2\"", "sh", &text, &file]);
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = format!(
            "-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} -c ssl=on -c fsync=off",
            directory.display()
        );
        let log = directory.join("log");
        run(&bin.join("pg_ctl"), &["-D", data, "-w", "-l", log.to_str().unwrap(), "-o", &options, "start"]);
        Postgres { directory, port }
    }

    fn sql(&self, sql: &str) -> String {
        let port = self.port.to_string();
        run(Path::new("psql"), &["-XAtq", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-c", sql])
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn plain(&self, credentials: &Credentials) -> Result<Greeting, LoginError> {
        let mut stream = self.tcp().await;
        let greeting = log_in(&mut stream, &startup(&credentials.user), credentials).await?;
        // The connection is ready: it answers a query.
        stream.write_all(b"Q\0\0\0\x0dSELECT 1\0").await?;
        assert_eq!(read_message(&mut stream).await?.0, b'T');
        Ok(greeting)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.directory.join("data");
        run(&Path::new(BIN).join("pg_ctl"), &["-D", data.to_str().unwrap(), "-m", "immediate", "-w", "stop"]);
        run(Path::new("rm"), &["-rf", self.directory.to_str().unwrap()]);
    }
}

fn secret(user: &str, text: &str) -> Credentials {
    Credentials::password(user, Secret::from(text))
}

#[tokio::test]
async fn a_real_node_with_every_method() {
    let certificate = Certificate::new();
    let node = Postgres::start(&certificate);
    node.sql("CREATE ROLE scram LOGIN PASSWORD 'geheim'; CREATE ROLE clear LOGIN PASSWORD 'klar'");
    node.sql("CREATE ROLE tls LOGIN PASSWORD 'verschluesselt'");
    node.sql("SET password_encryption = 'md5'; CREATE ROLE md5 LOGIN PASSWORD 'alt'");

    let greeting = node.plain(&Credentials::nothing("postgres")).await.unwrap();
    let parameter = |name: &str| greeting.parameters.iter().find(|(known, _)| known == name).map(|(_, v)| v.as_str());
    assert_eq!((parameter("application_name"), parameter("in_hot_standby")), (Some("pgweir test"), Some("off")));
    assert!(greeting.pid > 0 && greeting.secret.len() == 4);

    passwords(&node).await;
    pass_through(&node).await;
    encrypted(&node, &certificate).await;
    auth_query(&node, &certificate).await;
}

async fn passwords(node: &Postgres) {
    for (user, text) in [("scram", "geheim"), ("clear", "klar"), ("md5", "alt")] {
        node.plain(&secret(user, text)).await.unwrap();
        match node.plain(&secret(user, "falsch")).await.unwrap_err() {
            LoginError::Refused { sqlstate, message, .. } => {
                let expect = format!("password authentication failed for user \"{user}\"");
                assert_eq!((sqlstate.as_str(), message), ("28P01", expect));
            }
            other => panic!("{other}"),
        }
        let error = node.plain(&Credentials::nothing(user)).await.unwrap_err();
        assert!(matches!(error, LoginError::NoAnswer(_)), "{error}");
    }
    let stored = node.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'md5'");
    let hash = Credentials { user: "md5".into(), proof: Proof::Md5(Arc::new(Secret::from(stored))) };
    node.plain(&hash).await.unwrap();
    let elsewhere = Credentials { user: "scram".into(), proof: hash.proof };
    assert!(matches!(node.plain(&elsewhere).await, Err(LoginError::NoAnswer(_))));
}

/// Logs in with the keys that a client's proof leaves, knowing nothing but the verifier.
async fn pass_through(node: &Postgres) {
    let stored = node.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram'");
    let verifier = scram::Verifier::parse(&stored).unwrap();
    let keys = scram::derive(b"geheim", &verifier.salt, verifier.iterations);
    let through = |salt: Vec<u8>| Credentials {
        user: "scram".into(),
        proof: Proof::Keys(Arc::new(PassThrough { keys: keys.clone(), salt, iterations: verifier.iterations })),
    };
    node.plain(&through(verifier.salt.clone())).await.unwrap();
    let error = node.plain(&through(b"another salt".to_vec())).await.unwrap_err();
    assert!(matches!(error, LoginError::OtherVerifier), "{error}");
}

async fn encrypted(node: &Postgres, certificate: &Certificate) {
    let root = certificate.root();
    for tls in [NodeTls::Prefer, NodeTls::Require, NodeTls::VerifyFull { root }] {
        let connector = Connector::new(&tls, "127.0.0.1").unwrap();
        let mut stream = connector.secure(node.tcp().await).await.unwrap();
        // The certificate's hash is known, so this is SCRAM-SHA-256-PLUS.
        assert!(stream.tls_server_end_point().is_some());
        log_in(&mut stream, &startup("tls"), &secret("tls", "verschluesselt")).await.unwrap();
    }
    // And PostgreSQL did check the binding: another one fails.
    struct Liar(crate::stream::Stream);
    impl EndPoint for Liar {
        fn tls_server_end_point(&self) -> Option<Vec<u8>> {
            Some(vec![1; 32])
        }
    }
    use std::pin::Pin;
    use std::task::{Context, Poll};
    impl AsyncRead for Liar {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }
    impl AsyncWrite for Liar {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
    let connector = Connector::new(&NodeTls::Require, "127.0.0.1").unwrap();
    let mut stream = Liar(connector.secure(node.tcp().await).await.unwrap());
    let error = log_in(&mut stream, &startup("tls"), &secret("tls", "verschluesselt")).await.unwrap_err();
    assert!(error.to_string().contains("SCRAM channel binding check failed"), "{error}");

    let error = node.plain(&secret("tls", "verschluesselt")).await.unwrap_err();
    assert!(error.to_string().contains("no pg_hba.conf entry"), "{error}");
}

async fn auth_query(node: &Postgres, certificate: &Certificate) {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(node.port).user("tls").password("verschluesselt").dbname("postgres");
    let connector = Connector::new(&NodeTls::VerifyFull { root: certificate.root() }, "127.0.0.1").unwrap();
    config.ssl_mode(connector.ssl_mode());
    node.sql("ALTER ROLE tls SUPERUSER");
    let primary = Primary {
        find: Arc::new(move || Some((config.clone(), connector.clone()))),
        control: tokio::runtime::Handle::current(),
    };
    let sql = "SELECT usename, passwd FROM pg_shadow WHERE usename = $1".to_owned();
    let config = AuthConfig { method: AuthMethod::ScramSha256, users: Vec::new(), auth_query: Some(sql) };
    let auth = Auth::new(&config, Vec::new(), Some(primary)).unwrap();
    let stored = node.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram'");
    let verifier = async |user: &str| match auth.challenge(user).await.unwrap() {
        Challenge::Scram(challenge) => challenge.verifier,
        other => panic!("{other:?}"),
    };
    assert_eq!(verifier("scram").await, scram::Verifier::parse(&stored).unwrap());
    // An md5 hash cannot be checked by SCRAM, and nobody is nobody: both get a challenge that nothing answers.
    assert_eq!(verifier("nobody").await.iterations, 4096);
    assert_eq!(verifier("md5").await.stored_key, verifier("nobody").await.stored_key);
    // The connection dies; the next login makes another. A failed login forgets the old verifier.
    node.sql(
        "ALTER ROLE scram PASSWORD 'neu'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tls'",
    );
    auth.failed("scram");
    let changed = loop {
        // The death of the old connection may be noticed by the query that runs into it.
        match auth.challenge("scram").await {
            Ok(Challenge::Scram(challenge)) => break challenge.verifier,
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    };
    assert_ne!(changed, scram::Verifier::parse(&stored).unwrap());
}
