//! Pure: the packets without a type byte that open a connection (manual: "Message Formats", StartupMessage, SSLRequest,
//! GSSENCRequest, CancelRequest). A stranger wrote them: every read is bounds-checked, every text limited.

use super::super::refusal::Refusal;
use super::options;

/// PostgreSQL's own limit (MAX_STARTUP_PACKET_LENGTH).
const LONGEST: u32 = 10_000;
const SPECIAL: u16 = 1234;

/// What a client opened with.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    SslRequest,
    GssEncRequest,
    Cancel(CancelKey),
    Startup(StartupPacket),
}

/// Names the session whose statement is to be cancelled. 4 bytes in protocol 3.0, up to 256 in 3.2.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    pub pid: u32,
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelKey({}, ***)", self.pid)
    }
}

/// The protocol that the session speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolVersion {
    V3_0,
    /// Longer cancel keys.
    V3_2,
}

impl ProtocolVersion {
    pub fn number(self) -> i32 {
        match self {
            ProtocolVersion::V3_0 => 3 << 16,
            ProtocolVersion::V3_2 => 3 << 16 | 2,
        }
    }
}

/// A StartupMessage, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupPacket {
    pub version: ProtocolVersion,
    pub user: String,
    pub database: String,
    /// Settings, `options`' first, since what stands in the packet itself outranks them.
    pub parameters: Vec<(String, String)>,
    /// `replication`, unless it says no.
    pub replication: Option<String>,
    /// `Some` if the client must be told what of its wishes we do not know: a newer minor version (empty list) or
    /// `_pq_.` options.
    pub negotiate: Option<Vec<String>>,
}

/// How many bytes follow the length word.
pub fn body_length(head: [u8; 4]) -> Result<usize, Refusal> {
    match u32::from_be_bytes(head).checked_sub(4) {
        Some(length) if (4..=LONGEST).contains(&length) => Ok(length as usize),
        _ => Err(Refusal::new("08P01", "invalid length of startup packet")),
    }
}

/// Which requests still count: each only once, and none inside TLS, as in PostgreSQL.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub ssl: bool,
    pub gss: bool,
}

/// Reads a packet's body.
pub fn read(body: &[u8], asked: Asked) -> Result<Packet, Refusal> {
    let (version, rest) = split_u32(body).ok_or_else(|| Refusal::new("08P01", "invalid length of startup packet"))?;
    let (major, minor) = ((version >> 16) as u16, version as u16);
    match (major, minor) {
        (SPECIAL, 5678) => cancel(rest),
        (SPECIAL, 5679) if !asked.ssl => Ok(Packet::SslRequest),
        (SPECIAL, 5680) if !asked.gss => Ok(Packet::GssEncRequest),
        (3, minor) => startup(minor, rest).map(Packet::Startup),
        _ => Err(Refusal::new(
            "0A000",
            format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2"),
        )),
    }
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*head), rest))
}

fn cancel(body: &[u8]) -> Result<Packet, Refusal> {
    let wrong = || Refusal::new("08P01", "invalid length of query cancel packet");
    let (pid, secret) = split_u32(body).ok_or_else(wrong)?;
    if !(4..=256).contains(&secret.len()) {
        return Err(wrong());
    }
    Ok(Packet::Cancel(CancelKey { pid, secret: secret.to_vec() }))
}

fn startup(minor: u16, body: &[u8]) -> Result<StartupPacket, Refusal> {
    let mut user = None;
    let mut database = None;
    let mut switches = None;
    let mut replication = None;
    let mut unknown = Vec::new();
    let mut parameters = Vec::new();
    for (name, value) in pairs(body)? {
        match name.as_str() {
            "user" => user = Some(text(&name, value)?),
            "database" => database = Some(text(&name, value)?),
            "options" => switches = Some(text(&name, value)?),
            "replication" => replication = read_replication(text(&name, value)?)?,
            _ if name.starts_with("_pq_.") => unknown.push(name),
            _ => parameters.push((text_of_setting(&name, value)?, name)),
        }
    }
    let user = user.filter(|user: &String| !user.is_empty());
    let user = user.ok_or_else(|| Refusal::new("28000", "no PostgreSQL user name specified in startup packet"))?;
    let mut settings = options::settings(switches.as_deref().unwrap_or(""))?;
    settings.extend(parameters.into_iter().map(|(value, name)| (name, value)));
    // Version 3.1 was never used; who asks for it speaks 3.0.
    let version = if minor >= 2 { ProtocolVersion::V3_2 } else { ProtocolVersion::V3_0 };
    Ok(StartupPacket {
        version,
        database: database.filter(|database| !database.is_empty()).unwrap_or_else(|| user.clone()),
        user,
        parameters: last_of_each(settings),
        replication,
        negotiate: (minor > 2 || !unknown.is_empty()).then_some(unknown),
    })
}

/// Names and values up to the empty name that ends the packet.
fn pairs(body: &[u8]) -> Result<Vec<(String, &[u8])>, Refusal> {
    let wrong = || Refusal::new("08P01", "invalid startup packet layout: expected terminator as last byte");
    let mut pairs = Vec::new();
    let mut rest = body;
    loop {
        let (name, after) = cstring(rest).ok_or_else(wrong)?;
        if name.is_empty() {
            return if after.is_empty() { Ok(pairs) } else { Err(wrong()) };
        }
        let (value, after) = cstring(after).ok_or_else(wrong)?;
        pairs.push((text("parameter name", name)?, value));
        rest = after;
    }
}

fn cstring(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn text(name: &str, value: &[u8]) -> Result<String, Refusal> {
    let wrong = || Refusal::new("22021", format!("startup parameter \"{name}\" is not valid UTF-8"));
    std::str::from_utf8(value).map(str::to_owned).map_err(|_| wrong())
}

/// A setting's value. What an application calls itself is cleaned as PostgreSQL does, not refused.
fn text_of_setting(name: &str, value: &[u8]) -> Result<String, Refusal> {
    if name.eq_ignore_ascii_case("application_name") && std::str::from_utf8(value).is_err() {
        return Ok(value.iter().map(|b| if (b' '..=b'~').contains(b) { char::from(*b) } else { '?' }).collect());
    }
    text(name, value)
}

/// A name given twice counts as last given; PostgreSQL compares settings' names without case.
fn last_of_each(settings: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> = Vec::with_capacity(settings.len());
    for (name, value) in settings {
        match kept.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
            Some(known) => *known = (name, value),
            None => kept.push((name, value)),
        }
    }
    kept
}

/// `database`, or what PostgreSQL takes for a boolean: a word's beginning will do.
fn read_replication(value: String) -> Result<Option<String>, Refusal> {
    let lower = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
    if value == "database" || begins("true", 1) || begins("yes", 1) || lower == "on" || lower == "1" {
        Ok(Some(value))
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || lower == "0" {
        Ok(None)
    } else {
        Err(Refusal::new("22023", format!("invalid value for parameter \"replication\": \"{value}\""))
            .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(version: u32, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        for (name, value) in pairs {
            body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        body.push(0);
        body
    }

    const V3: u32 = 3 << 16;

    fn startup_of(version: u32, pairs: &[(&str, &str)]) -> StartupPacket {
        match read(&body(version, pairs), Asked::default()) {
            Ok(Packet::Startup(packet)) => packet,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(body: &[u8]) -> String {
        let error = read(body, Asked::default()).unwrap_err();
        format!("{} {}", error.sqlstate, error.message)
    }

    #[test]
    fn a_whole_startup() {
        let packet = startup_of(
            V3,
            &[
                ("user", "app"),
                ("options", "-c work_mem=1MB --Search-Path=a,b"),
                ("application_name", "x"),
                ("WORK_MEM", "2MB"),
            ],
        );
        assert_eq!((packet.user.as_str(), packet.database.as_str()), ("app", "app"));
        let settings: Vec<_> = packet.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(settings, [("WORK_MEM", "2MB"), ("Search_Path", "a,b"), ("application_name", "x")]);
        assert_eq!((packet.version, packet.negotiate, packet.replication), (ProtocolVersion::V3_0, None, None));
        assert_eq!(startup_of(V3, &[("user", "a"), ("database", "b"), ("user", "c")]).user, "c");
        assert_eq!(startup_of(V3, &[("user", "a"), ("database", "")]).database, "a");
    }

    #[test]
    fn versions() {
        let user = [("user", "a")];
        assert_eq!(startup_of(V3 | 2, &user).version, ProtocolVersion::V3_2);
        assert_eq!(startup_of(V3 | 2, &user).negotiate, None);
        assert_eq!(startup_of(V3 | 1, &user).version, ProtocolVersion::V3_0);
        let grease = startup_of(V3 | 9999, &[("user", "a"), ("_pq_.x", "1"), ("_pq_.y", "2")]);
        assert_eq!(grease.version, ProtocolVersion::V3_2);
        assert_eq!(grease.negotiate, Some(vec!["_pq_.x".to_owned(), "_pq_.y".to_owned()]));
        assert!(grease.parameters.is_empty());
        for (version, name) in
            [(2 << 16, "2.0"), (1 << 16, "1.0"), (4 << 16, "4.0"), (0, "0.0"), (0x1603_0100, "5635.256")]
        {
            let expect = format!("0A000 unsupported frontend protocol {name}: server supports 3.0 to 3.2");
            assert_eq!(refusal(&body(version, &user)), expect);
        }
    }

    #[test]
    fn hostile_packets() {
        let layout = "08P01 invalid startup packet layout: expected terminator as last byte";
        let v3 = V3.to_be_bytes();
        for (rest, expect) in [
            (&b""[..], layout),
            (b"user", layout),
            (b"user\0", layout),
            (b"user\0app", layout),
            (b"user\0app\0", layout),
            (b"user\0app\0\0x", layout),
            (b"\0", "28000 no PostgreSQL user name specified in startup packet"),
            (b"user\0\0\0", "28000 no PostgreSQL user name specified in startup packet"),
            (b"user\0\xff\0\0", "22021 startup parameter \"user\" is not valid UTF-8"),
            (b"\xff\0\0\0", "22021 startup parameter \"parameter name\" is not valid UTF-8"),
            (b"user\0a\0replication\0maybe\0\0", "22023 invalid value for parameter \"replication\": \"maybe\""),
        ] {
            assert_eq!(refusal(&[&v3[..], rest].concat()), expect, "{:?}", String::from_utf8_lossy(rest));
        }
        assert_eq!(refusal(b"\0\x03"), "08P01 invalid length of startup packet");
        let named = [&v3[..], b"user\0a\0application_name\0caf\xe9\0\0"].concat();
        match read(&named, Asked::default()) {
            Ok(Packet::Startup(packet)) => assert_eq!(packet.parameters[0].1, "caf?"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lengths() {
        for (length, expect) in [(8u32, Some(4)), (10_004, Some(10_000))] {
            assert_eq!(body_length(length.to_be_bytes()).ok(), expect);
        }
        for length in [0u32, 3, 4, 7, 10_005, u32::MAX, 0x1603_0100] {
            let error = body_length(length.to_be_bytes()).unwrap_err();
            assert_eq!(error.message, "invalid length of startup packet", "{length}");
        }
    }

    #[test]
    fn requests() {
        let request = |minor: u32| ((1234 << 16) | minor).to_be_bytes();
        assert_eq!(read(&request(5679), Asked::default()), Ok(Packet::SslRequest));
        assert_eq!(read(&request(5680), Asked::default()), Ok(Packet::GssEncRequest));
        let again = read(&request(5679), Asked { ssl: true, gss: true }).unwrap_err();
        assert_eq!(again.message, "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2");
        for (length, good) in [(3, false), (4, true), (32, true), (256, true), (257, false)] {
            let packet = [&request(5678)[..], &7u32.to_be_bytes(), &vec![9; length]].concat();
            let found = read(&packet, Asked::default());
            if good {
                assert_eq!(found, Ok(Packet::Cancel(CancelKey { pid: 7, secret: vec![9; length] })));
            } else {
                assert_eq!(found.unwrap_err().message, "invalid length of query cancel packet");
            }
        }
    }

    #[test]
    fn replication_values() {
        for (value, expect) in [
            ("true", Some("true")),
            ("on", Some("on")),
            ("YES", Some("YES")),
            ("1", Some("1")),
            ("database", Some("database")),
            ("false", None),
            ("off", None),
            ("0", None),
            ("n", None),
        ] {
            let packet = startup_of(V3, &[("user", "a"), ("replication", value)]);
            assert_eq!(packet.replication.as_deref(), expect, "{value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200), ssl: bool) {
            let _ = read(&body, Asked { ssl, gss: !ssl });
            let _ = startup(0, &body);
            let _ = cancel(&body);
        }

        /// pgwire encodes what we read.
        #[test]
        fn reads_what_pgwire_writes(user in "[a-z]{1,20}", database in "[a-zA-Z0-9 ]{1,20}", value in "[^\0]{0,30}") {
            use pgwire::messages::Message as _;
            let mut message = pgwire::messages::startup::Startup::new();
            message.parameters.insert("user".to_owned(), user.clone());
            message.parameters.insert("database".to_owned(), database.clone());
            message.parameters.insert("search_path".to_owned(), value.clone());
            let mut bytes = bytes::BytesMut::new();
            message.encode(&mut bytes).unwrap();
            let head = bytes[..4].try_into().unwrap();
            proptest::prop_assert_eq!(body_length(head).unwrap(), bytes.len() - 4);
            let Ok(Packet::Startup(packet)) = read(&bytes[4..], Asked::default()) else { panic!("not read") };
            proptest::prop_assert_eq!((packet.user, packet.database), (user, database));
            proptest::prop_assert_eq!(packet.parameters, vec![("search_path".to_owned(), value)]);
        }
    }
}
