//! Malformed and hostile input ends (or fails) the session that sent it, with the SQLSTATE that PostgreSQL gives, and no
//! other session notices. Every case is also sent to PostgreSQL itself, which is the expected answer.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::front;
use crate::harness::raw::{Message, RawSession, say};
use crate::harness::wait;

/// A message whose length field says something else than is true.
fn lying(tag: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// What a logged-in client may send, and a name for it.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a length of 0", lying(b'Q', 0, b"SELECT 1\0")),
        ("a length of 3", lying(b'Q', 3, b"SELECT 1\0")),
        ("a Sync of length 2", lying(b'S', 2, b"")),
        ("a negative length", lying(b'Q', 0xffff_ffff, b"SELECT 1\0")),
        ("a length of 2 GiB", lying(b'Q', 0x7fff_ffff, b"SELECT 1\0")),
        ("a Sync of 1 MB", lying(b'S', 1 << 20, &[0; 100])),
        ("a Terminate that is huge", lying(b'X', 1 << 30, &[0; 100])),
        ("an unknown tag", say::message(b'y', b"hello")),
        ("tag 0", say::message(0, b"")),
        ("tag 255", say::message(255, b"x")),
        ("a backend message", say::message(b'Z', b"I")),
        ("a password nobody asked for", say::message(b'p', b"secret\0")),
        ("a second startup", say::startup((3, 0), &[("user", "app")])),
        ("a Query without its NUL", say::message(b'Q', b"SELECT 1")),
        ("a Query with a NUL within", say::message(b'Q', b"SELECT 1\0; SELECT 2\0")),
        ("an empty Query body", say::message(b'Q', b"")),
        ("a Query that is not UTF-8", say::message(b'Q', b"SELECT '\xff\xfe'\0")),
        ("a Parse without its SQL", say::message(b'P', b"name\0")),
        ("a Parse without its count", say::message(b'P', b"\0SELECT 1\0")),
        ("a Parse with too few types", say::message(b'P', b"\0SELECT 1\0\0\x05\0\0\0\x17")),
        ("a Parse that is not UTF-8", say::message(b'P', b"\0SELECT '\xc3'\0\0\0")),
        ("a Parse with bytes after its end", say::message(b'P', b"\0SELECT 1\0\0\0extra")),
        ("an empty Bind", say::message(b'B', b"")),
        ("a Bind with a value that is longer than it", say::message(b'B', b"\0\0\0\0\0\x01\0\0\xff\xffabc")),
        ("a Bind with a length of -2", say::message(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0")),
        ("a Bind of 65535 values that are not there", say::message(b'B', b"\0\0\0\0\xff\xff")),
        ("an empty Describe", say::message(b'D', b"")),
        ("a Describe of kind X", say::message(b'D', b"Xname\0")),
        ("a Describe without its NUL", say::message(b'D', b"Sname")),
        ("an empty Close", say::message(b'C', b"")),
        ("a Close of kind 0", say::message(b'C', b"\0name\0")),
        ("an Execute without its limit", say::message(b'E', b"\0")),
        ("an Execute with bytes after its end", say::message(b'E', b"\0\0\0\0\0zz")),
        ("a Sync with a body", say::message(b'S', b"body")),
        ("a Flush with a body", say::message(b'H', b"body")),
        ("an empty FunctionCall", say::message(b'F', b"")),
        ("a FunctionCall cut short", say::message(b'F', b"\0\0\x01\xe1\0\0\0\x01\0\0")),
    ]
}

/// Sends the bytes, then a Sync and a Query, and says how it ended: SQLSTATEs in order, and whether the session lives.
fn fate(port: u16, bytes: &[u8], byte_by_byte: bool) -> (Vec<String>, bool) {
    let mut session = RawSession::log_in(port, "app");
    if byte_by_byte {
        // It may be thrown out in the middle.
        let _ = bytes.chunks(1).try_for_each(|byte| session.try_send(byte));
    } else {
        session.send(bytes);
    }
    let _ = session.try_send(&[say::sync(), say::query("SELECT 'alive'"), say::terminate()].concat());
    session.half_close_if_open();
    let answer = session.read_to_end();
    let states = answer.iter().filter(|message| message.tag == b'E').filter_map(|error| error.field(b'C')).collect();
    let alive = answer.iter().any(|message| message.tag == b'D' && message.columns()[0].as_deref() == Some("alive"));
    (states, alive)
}

#[tokio::test]
async fn malformed_messages_get_the_primarys_sqlstate_and_harm_nobody() {
    let front = front::shared().await;
    let bystander = front.connect("app").await;
    bystander.batch_execute("BEGIN; CREATE TEMP TABLE witness (a int)").await.expect("a transaction");
    let mut wrong = Vec::new();
    for (name, bytes) in malformed() {
        for byte_by_byte in [false, true] {
            let expected = fate(front.cluster.primary.port, &bytes, byte_by_byte);
            let happened = fate(front.port(), &bytes, byte_by_byte);
            // Whether the session may go on is a matter of taste when it was refused with the same words.
            if expected.0.first() != happened.0.first() || (expected.1 && expected.0.is_empty() && !happened.1) {
                wrong
                    .push(format!("{name} (byte by byte: {byte_by_byte}): PostgreSQL {expected:?}, here {happened:?}"));
            }
            assert_eq!(bystander.value("SELECT count(*) FROM witness").await, "0", "after {name}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How a startup was refused: its SQLSTATE, or the old kind of error that version 2 understands, or just an end.
fn refusal(bytes: &[u8]) -> String {
    let Some(tag) = bytes.first() else { return "no answer".to_string() };
    let length =
        bytes.get(1..5).map_or(0, |length| u32::from_be_bytes(length.try_into().expect("four bytes")) as usize);
    if *tag == b'E' && length + 1 == bytes.len() {
        let error = Message { tag: *tag, body: bytes[5..].to_vec() };
        return format!("SQLSTATE {:?}", error.field(b'C'));
    }
    format!("an answer that begins with {:?}", *tag as char)
}

#[tokio::test]
async fn malformed_startups_are_refused_like_the_primary_does() {
    let front = front::shared().await;
    let long = "x".repeat(20_000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no user", say::startup((3, 0), &[("database", "app")])),
        ("nothing at all", say::startup((3, 0), &[])),
        ("version 2", say::startup((2, 0), &[("user", "app")])),
        ("version 4", say::startup((4, 0), &[("user", "app")])),
        ("more than 10,000 bytes", say::startup((3, 0), &[("user", "app"), ("application_name", &long)])),
        ("a length of 3", 3u32.to_be_bytes().to_vec()),
        ("a length of 2 GiB", [&0x7fff_ffffu32.to_be_bytes()[..], b"\0\x03\0\0user\0"].concat()),
        ("a length of 8 GiB less one", [&0xffff_ffffu32.to_be_bytes()[..], b"\0\x03\0\0"].concat()),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: db\r\n\r\n".to_vec()),
        ("a parameter without a value", say::untagged(b"\0\x03\0\0user\0app\0database\0")),
        ("no final NUL", say::untagged(b"\0\x03\0\0user\0app\0database\0app\0")),
        ("a cancel that is too short", say::untagged(&80877102u32.to_be_bytes())),
        ("an unknown request code", say::untagged(&80877199u32.to_be_bytes())),
    ];
    let mut wrong = Vec::new();
    for (name, bytes) in cases {
        let answer = |port| {
            let mut session = RawSession::connect(port);
            session.send(&bytes);
            session.half_close_if_open();
            refusal(&session.read_bytes_to_end())
        };
        let (expected, happened) = (answer(front.cluster.primary.port), answer(front.port()));
        if expected != happened {
            wrong.push(format!("{name}: PostgreSQL {expected:?}, here {happened:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn claims_of_a_gigabyte_take_no_memory() {
    let front = front::with(&[]).await;
    let before = front.proxy().map_or(0, |proxy| proxy.peak_memory());
    let mut sessions: Vec<RawSession> = (0..40).map(|_| RawSession::log_in(front.port(), "app")).collect();
    for (number, session) in sessions.iter_mut().enumerate() {
        let tag = b"QPBd"[number % 4];
        session.send(&lying(tag, 1_000_000_000, b"\0SELECT 1"));
    }
    let session = front.connect("app").await;
    assert_eq!(session.value("SELECT name FROM numbers WHERE id = 1").await, "number 1", "others are served");
    let more = front.proxy().map_or(0, |proxy| proxy.peak_memory()) - before;
    assert!(more < 32 << 20, "{} MiB more for 40 GB of claims", more >> 20);
}

/// Texts that would take a parser long, or much memory: pgweir reads none of them, and PostgreSQL answers.
fn monsters() -> Vec<(&'static str, String)> {
    let list = |item: &str, count| vec![item; count].join(",");
    vec![
        ("a literal of 10 MB", format!("SELECT length('{}')", "x".repeat(10 << 20))),
        ("300,000 rows", format!("SELECT count(*), sum(a) FROM (VALUES {}) v (a)", list("(7)", 300_000))),
        ("300,000 rows to write", format!("INSERT INTO scribble (who) VALUES {}", list("('monster')", 300_000))),
        ("a list of 30,000", format!("SELECT name FROM numbers WHERE id IN ({},2)", list("1000000", 30_000))),
        ("100,000 parentheses", format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000))),
        ("5,000 parentheses", format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000))),
        ("1,500 queries in each other", format!("{}SELECT 1{}", "SELECT (".repeat(1_500), ")".repeat(1_500))),
        ("comments in each other", format!("SELECT 1 {}{}", "/*".repeat(2_000), "*/".repeat(2_000))),
        ("comments side by side", format!("SELECT 1 {}", "/**/".repeat(3_000))),
        ("an operator of 5,000", format!("SELECT 1 {} 1", "+-".repeat(2_500))),
        ("5,000 statements", "SELECT 1;".repeat(5_000)),
        ("a comment without an end", format!("SELECT 1 {}", "/* ".repeat(100_000))),
    ]
}

#[tokio::test]
async fn monstrous_texts_are_answered_by_the_primary_and_nobody_else_waits() {
    let front = front::with(&[]).await;
    let mut direct = RawSession::log_in(front.cluster.primary.port, "app");
    let mut through = RawSession::log_in(front.port(), "app");
    let mut bystander = RawSession::log_in(front.port(), "app");
    let before = front.proxy().map_or(0, |proxy| proxy.peak_memory());
    for (name, sql) in monsters() {
        let extended = [say::parse("", &sql, &[]), say::bind("", "", &[], &[]), say::execute("", 0), say::sync()];
        for asked in [say::query(&sql), extended.concat()] {
            direct.send(&asked);
            let (beginning, end) = asked.split_at(asked.len() - 1);
            through.send(beginning);
            assert_eq!(bystander.value("SELECT name FROM numbers WHERE id = 1"), "number 1", "beside {name}");
            through.send(end);
            assert_eq!(bystander.value("SELECT name FROM numbers WHERE id = 2"), "number 2", "beside {name}");
            let said = |session: &mut RawSession| -> Vec<(u8, Vec<u8>)> {
                session.read_until(b'Z').into_iter().map(|message| (message.tag, message.body)).collect()
            };
            assert!(said(&mut direct) == said(&mut through), "{name} is answered otherwise");
        }
    }
    let more = front.proxy().map_or(0, |proxy| proxy.peak_memory()) - before;
    assert!(more < 96 << 20, "{} MiB more", more >> 20);
}

#[tokio::test]
async fn silence_before_the_login_is_not_waited_for_forever() {
    let front = front::with(&[("limits.login_timeout", "\"300ms\"")]).await;
    if front.proxy().is_none() {
        return;
    }
    for said in [&b""[..], b"\0\0", &say::ssl_request(), &say::startup((3, 0), &[("user", "app"), ("database", "app")])]
    {
        let mut socket = TcpStream::connect(("127.0.0.1", front.port())).expect("the port answers");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
        std::io::Write::write_all(&mut socket, said).expect("it listens");
        let mut rest = Vec::new();
        // Whatever it says first, it must hang up.
        if let Err(error) = socket.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
}

/// Noise of many kinds, from a seed, so that a failure can be had again.
#[tokio::test]
async fn noise_never_ends_the_process() {
    let front = front::shared().await;
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut dice = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..300 {
        let mut noise: Vec<u8> = (0..dice() % 200).map(|_| dice() as u8).collect();
        let logged_in = round % 3 != 0;
        if round % 3 == 2 && noise.len() > 8 {
            // A plausible header, so that the noise reaches the readers of bodies.
            noise[0] = b"QPBDECSHFdcfX"[dice() as usize % 13];
            let length = noise.len() as u32 - 1;
            noise[1..5].copy_from_slice(&length.to_be_bytes());
        }
        let mut session =
            if logged_in { RawSession::log_in(front.port(), "app") } else { RawSession::connect(front.port()) };
        let _ = session.try_send(&noise);
        session.half_close_if_open();
        drop(session);
    }
    if let Some(proxy) = front.proxy() {
        assert!(proxy.is_running());
    }
    let session = wait::in_time("a login", front.connect("app")).await;
    assert_eq!(session.value("SELECT name FROM numbers WHERE id = 1").await, "number 1");
}
