//! Who gets in, and what is said to those who do not. Nobody may learn from an answer which users exist.

use crate::harness::front::{self, Front};
use crate::harness::raw::{Message, RawSession, say, sqlstate, tags};
use crate::harness::{Session, wait};

/// Logs in and says how it was refused, with the user's name taken out.
fn refused(port: u16, user: &str, database: &str, password: &str) -> Vec<(u8, String)> {
    let outcome = RawSession::log_in_with(port, (3, 0), &[("user", user), ("database", database)], password);
    let Err(error) = outcome else { panic!("{user} got in") };
    [b'S', b'V', b'C', b'M', b'D', b'H']
        .into_iter()
        .filter_map(|code| Some((code, error.field(code)?.replace(user, "USER"))))
        .collect()
}

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_look_alike() {
    let front = front::shared().await;
    let wrong = refused(front.port(), "app", "app", "wrong");
    assert_eq!(wrong, refused(front.port(), "nobody_here", "app", "wrong"));
    assert_eq!(wrong, refused(front.cluster.primary.port, "app", "app", "wrong"), "and like the primary's answer");
    assert!(wrong.iter().any(|(code, text)| *code == b'C' && text == "28P01"), "{wrong:?}");
    // Neither does a database's existence show before the login.
    assert_eq!(wrong, refused(front.port(), "app", "no_such_database", "wrong"));
}

/// What is asked of a client before its password is known must not differ either: the same mechanisms, and a salt of the
/// same length and iterations that stays the same from one try to the next.
#[tokio::test]
async fn the_challenge_of_an_unknown_user_looks_real() {
    let front = front::shared().await;
    let challenge = |user: &str| {
        let mut session = RawSession::connect(front.port());
        session.send(&say::startup((3, 0), &[("user", user), ("database", "app")]));
        let offer = session.read().expect("an offer");
        let first = "n,,n=,r=0123456789012345678901";
        let mut body = say::zero_ended("SCRAM-SHA-256");
        body.extend((first.len() as u32).to_be_bytes());
        body.extend(first.as_bytes());
        session.send(&say::message(b'p', &body));
        let answer = session.read().expect("a challenge");
        assert_eq!(answer.tag, b'R', "{answer:?}");
        let text = String::from_utf8_lossy(&answer.body[4..]).into_owned();
        let salt_and_count = text.split_once(",s=").expect("a salt").1.to_string();
        (offer, salt_and_count)
    };
    let (known, unknown, again) = (challenge("app"), challenge("nobody_here"), challenge("nobody_here"));
    assert_eq!(known.0, unknown.0, "the same mechanisms");
    assert_eq!(unknown.1, again.1, "the same salt each time");
    assert_eq!(known.1.len(), unknown.1.len());
    assert_eq!(
        known.1.split_once(",i=").map(|(_, count)| count.to_string()),
        unknown.1.split_once(",i=").map(|(_, count)| count.to_string())
    );
}

#[tokio::test]
async fn a_database_that_is_not_there_is_refused_like_the_primary_does() {
    let front = front::shared().await;
    let here = refused(front.port(), "app", "no_such_database", "secret");
    assert_eq!(here, refused(front.cluster.primary.port, "app", "no_such_database", "secret"));
    assert!(here.iter().any(|(code, text)| *code == b'C' && text == "3D000"), "{here:?}");
}

/// A role with the right password that may not come in is told why, in the primary's words.
#[tokio::test]
async fn a_role_that_may_not_log_in_is_refused_like_the_primary_does() {
    let cluster = front::shared_cluster().await;
    let roles = [
        ("shut_nologin", "NOLOGIN", "28000"),
        ("shut_expired", "LOGIN VALID UNTIL '2020-01-01'", "28P01"),
        ("shut_crowded", "LOGIN CONNECTION LIMIT 0", "53300"),
    ];
    let mut users = Vec::new();
    for (role, options, _) in roles {
        cluster.primary.run_in("app", &format!("CREATE ROLE {role} PASSWORD 'secret' {options}")).await;
        let verifier = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
        users.push(format!("{{ name = \"{role}\", password = \"{}\" }}", cluster.primary.ask(&verifier).await));
    }
    let front = Front::before(cluster, &[("auth.users", &format!("[{}]", users.join(", ")))]).await;
    for (role, _, expect) in roles {
        let here = refused(front.port(), role, "app", "secret");
        assert_eq!(here, refused(front.cluster.primary.port, role, "app", "secret"));
        assert!(here.iter().any(|(code, text)| *code == b'C' && text == expect), "{here:?}");
        front.cluster.primary.run_in("app", &format!("DROP ROLE {role}")).await;
    }
}

/// A login's proof is made for one salt, so a verifier that is remembered for too long refuses the right password.
#[tokio::test]
async fn an_altered_password_holds_for_the_next_login() {
    let cluster = front::shared_cluster().await;
    // The nodes' user may not read verifiers itself.
    let find = "CREATE FUNCTION verifier_of(name) RETURNS SETOF record LANGUAGE sql SECURITY DEFINER \
        AS 'SELECT rolname::text, rolpassword FROM pg_authid WHERE rolname = $1'";
    cluster.primary.run_in("app", &format!("{find}; CREATE ROLE changeable LOGIN PASSWORD 'first'")).await;
    let query = "\"SELECT * FROM verifier_of($1) AS (role text, verifier text)\"";
    let front = Front::before(cluster, &[("auth.auth_query", query)]).await;
    let admin = front.connect("admin").await;
    for password in ["first", "second", "third"] {
        admin.batch_execute(&format!("ALTER ROLE changeable PASSWORD '{password}'")).await.expect("it is altered");
        let parameters = [("user", "changeable"), ("database", "app")];
        let login = RawSession::log_in_with(front.port(), (3, 0), &parameters, password);
        assert!(login.is_ok(), "{password}");
    }
    admin.batch_execute("DROP ROLE changeable; DROP FUNCTION verifier_of").await.expect("it is dropped");
}

/// The connections that pgweir keeps to a database after its last session are not in the way of who goes past pgweir.
#[tokio::test]
async fn a_database_that_nobody_uses_can_be_dropped() {
    let front = front::with(&[]).await;
    front.cluster.primary.run_in("postgres", "CREATE DATABASE left_behind").await;
    let parameters = [("user", "app"), ("database", "left_behind")];
    let (mut session, _) = RawSession::log_in_with(front.port(), (3, 0), &parameters, "secret").expect("a login");
    assert_eq!(sqlstate(&session.query("SELECT 1")), None);
    drop(session);
    let primary = front.cluster.primary.superuser("postgres").await;
    wait::until("the database is dropped", || async {
        primary.batch_execute("DROP DATABASE left_behind").await.is_ok()
    })
    .await;
    let gone = refused(front.port(), "app", "left_behind", "secret");
    assert_eq!(gone, refused(front.cluster.primary.port, "app", "left_behind", "secret"));
}

#[tokio::test]
async fn encryption_is_declined_politely_and_the_login_goes_on() {
    let front = front::shared().await;
    for asked in
        [vec![say::ssl_request()], vec![say::gssenc_request()], vec![say::gssenc_request(), say::ssl_request()]]
    {
        let mut session = RawSession::connect(front.port());
        for request in &asked {
            session.send(request);
            let answer = session.read_byte();
            if front.proxy().is_none() && answer != b'N' {
                // This PostgreSQL was built with GSSAPI and means it.
                return;
            }
            assert_eq!(answer, b'N');
        }
        session.send(&say::startup((3, 0), &[("user", "app"), ("database", "app")]));
        assert_eq!(session.read().map(|message| message.tag), Some(b'R'));
    }
}

/// Protocol 3.2 brings long cancel keys; who knows only 3.0 says so. Both are right.
#[tokio::test]
async fn newer_protocols_and_unknown_options_are_negotiated() {
    let front = front::shared().await;
    let parameters = [("user", "app"), ("database", "app"), ("_pq_.unheard_of", "1")];
    let (_, heard) = RawSession::log_in_with(front.port(), (3, 0), &parameters, "secret").expect("the login succeeds");
    let negotiation = heard.iter().find(|message| message.tag == b'v').expect("a NegotiateProtocolVersion");
    assert!(negotiation.body.ends_with(b"_pq_.unheard_of\0"), "{negotiation:?}");

    let plain = [("user", "app"), ("database", "app")];
    let (session, heard) = RawSession::log_in_with(front.port(), (3, 2), &plain, "secret").expect("the login succeeds");
    match heard.iter().find(|message| message.tag == b'v') {
        Some(negotiation) => assert_eq!(negotiation.body[..4], [0, 3, 0, 0], "only 3.0 is known: {negotiation:?}"),
        None => assert!(session.secret.len() > 4, "3.2 means a long key: {}", session.secret.len()),
    }
    let (_, heard) = RawSession::log_in_with(front.port(), (3, 9999), &plain, "secret").expect("the login succeeds");
    assert!(heard.iter().any(|message| message.tag == b'v'), "{}", tags(&heard));
}

#[tokio::test]
async fn md5_and_trust_let_in_whom_they_should() {
    let front = front::with(&[("auth.method", "\"trust\"")]).await;
    if front.proxy().is_none() {
        return;
    }
    let url = format!("postgres://app@127.0.0.1:{}/app", front.port());
    let session = Session::open(&url).await.expect("trust asks for nothing");
    assert_eq!(session.value("SELECT name FROM numbers WHERE id = 4").await, "number 4");

    let front = front::with(&[("auth.method", "\"md5\"")]).await;
    assert_eq!(front.connect("app").await.value("SELECT name FROM numbers WHERE id = 4").await, "number 4");
    let url = format!("postgres://app:wrong@127.0.0.1:{}/app", front.port());
    let error = Session::open(&url).await.err().expect("a wrong password");
    assert_eq!(error.code().map(|code| code.code()), Some("28P01"));
}

/// The verifier in the configuration is the node's own: pgweir never knows the password, and logs in all the same.
#[tokio::test]
async fn a_verifier_is_enough_to_pass_a_login_through() {
    let cluster = front::shared_cluster().await;
    let verifier = cluster.primary.ask("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").await;
    let users = format!("[{{ name = \"app\", password = \"{verifier}\" }}]");
    let front = Front::before(cluster, &[("auth.users", &users)]).await;
    let session = front.connect("app").await;
    assert_eq!(session.value("SELECT current_user").await, "app");
    let url = format!("postgres://app:wrong@127.0.0.1:{}/app", front.port());
    assert!(Session::open(&url).await.is_err());
}

#[tokio::test]
async fn a_replication_connection_passes_to_the_primary() {
    let front = front::shared().await;
    for mode in ["database", "true"] {
        let parameters = [("user", "streamer"), ("database", "app"), ("replication", mode)];
        let (mut session, _) =
            RawSession::log_in_with(front.port(), (3, 0), &parameters, "secret").expect("the login succeeds");
        let answer = session.query("IDENTIFY_SYSTEM");
        assert_eq!(sqlstate(&answer), None, "{answer:?}");
        let row = answer.iter().find(|message: &&Message| message.tag == b'D').expect("a row").columns();
        let system = front.cluster.primary.ask("SELECT system_identifier FROM pg_control_system()").await;
        assert_eq!(row[0].as_deref(), Some(system.as_str()));
    }
}

#[tokio::test]
async fn a_hundred_clients_may_come_and_go() {
    let front = front::with(&[]).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..100 {
        let url = front.url(if number % 2 == 0 { "app" } else { "admin" });
        clients.spawn(async move {
            let session = Session::open(&url).await.expect("a login");
            assert_eq!(session.value("SELECT name FROM numbers WHERE id = 1").await, "number 1");
            session.close().await;
        });
    }
    while let Some(ended) = wait::in_time("a hundred logins", clients.join_next()).await {
        ended.expect("it was served");
    }
    if let Some(proxy) = front.proxy() {
        wait::until("nobody is left", || async { proxy.metrics().sum("pgweir_client_connections", &[]) == 0.0 }).await;
    }
}
