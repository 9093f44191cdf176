//! The transcript twin: scripts of frontend messages are played to PostgreSQL itself and through pgweir, and every byte of
//! the answers must be the same. Each script is played in three portions: whole, message by message, and byte by byte.
//! Add a script by adding a block to a file in transcripts/; the notation is explained at the top of the first one.

use crate::harness::front::{self, Front};
use crate::harness::raw::{Message, RawSession, say};
use crate::prepared;

const FILES: &[(&str, &str)] = &[
    // First, as long as the catalog is known: after DDL nothing is prepared for a while.
    ("prepared", include_str!("transcripts/prepared.txt")),
    ("simple", include_str!("transcripts/simple.txt")),
    ("extended", include_str!("transcripts/extended.txt")),
    ("pipelines", include_str!("transcripts/pipelines.txt")),
    ("errors", include_str!("transcripts/errors.txt")),
    ("copy", include_str!("transcripts/copy.txt")),
    ("settings", include_str!("transcripts/settings.txt")),
];

/// PostgreSQL cuts it, and says so before it greets.
const LONG_NAME: &str = "an application whose name is longer than what PostgreSQL takes for the name of an application";

/// One block of a file.
#[derive(Debug)]
struct Script {
    name: String,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Send(Vec<u8>),
    /// So many messages of this tag must arrive before the script goes on.
    Await {
        tag: u8,
        count: usize,
    },
}

/// How a script's bytes are cut into segments.
#[derive(Clone, Copy, Debug)]
enum Portions {
    Whole,
    Messages,
    Bytes,
}

#[tokio::test]
async fn every_answer_is_the_primarys_to_the_byte() {
    let front = front::shared().await;
    let mut differing = Vec::new();
    let mut played = 0;
    for (file, text) in FILES {
        for script in scripts(text) {
            for portions in [Portions::Whole, Portions::Messages, Portions::Bytes] {
                played += 1;
                differing.extend(twin(front, &script, portions).err().map(|why| format!("{file}: {why}")));
            }
        }
    }
    println!("{played} transcripts played twice, {} differ", differing.len());
    assert!(differing.is_empty(), "{} of {played} transcripts differ:\n{}", differing.len(), differing.join("\n"));
}

/// A second session of the same front must not find what a script of the first left behind: the same scripts, back to back
/// through one server connection, each in a new session.
#[tokio::test]
async fn every_answer_is_the_primarys_even_through_one_server_connection() {
    check_one_connection(&front::with(&[("pool.size", "1")]).await);
}

/// Nor can a session tell that a statement of its own was prepared by another one.
#[tokio::test]
async fn every_answer_is_the_primarys_even_where_statements_are_kept_prepared() {
    let front = prepared::front(&[]).await;
    let before = prepared::spared(&front);
    check_one_connection(&front);
    let spared = prepared::spared(&front);
    assert!(before.is_none_or(|before| spared > Some(before + 50.0)), "{spared:?} Parses were not sent");
}

fn check_one_connection(front: &Front) {
    let differing: Vec<String> = FILES
        .iter()
        .flat_map(|(file, text)| scripts(text).into_iter().map(move |script| (file, script)))
        .filter_map(|(file, script)| twin(front, &script, Portions::Whole).err().map(|why| format!("{file}: {why}")))
        .collect();
    assert!(differing.is_empty(), "{} transcripts differ:\n{}", differing.len(), differing.join("\n"));
}

#[tokio::test]
async fn the_greeting_is_the_primarys() {
    let front = front::shared().await;
    for parameters in [
        &[("user", "app"), ("database", "app")][..],
        &[("user", "app"), ("database", "app"), ("application_name", "twin"), ("client_encoding", "LATIN1")],
        &[("user", "app"), ("database", "app"), ("options", "-c DateStyle=German -c search_path=elsewhere")],
        &[("user", "app"), ("database", "app"), ("application_name", "caf\u{e9}\tnoir")],
        &[("user", "app"), ("database", "app"), ("application_name", LONG_NAME)],
        &[("user", "app"), ("database", "app"), ("application_name", "")],
        &[("user", "app"), ("database", "app"), ("TimeZone", "Asia/Tokyo"), ("IntervalStyle", "iso_8601")],
        &[("user", "admin"), ("database", "app")],
        &[("user", "app")],
    ] {
        let greet = |port| {
            let (session, heard) =
                RawSession::log_in_with(port, (3, 0), parameters, "secret").expect("the login succeeds");
            let mut parameters = session.parameters.clone();
            parameters.sort();
            let notices: Vec<_> = heard.iter().filter(|message| message.tag == b'N').cloned().collect();
            (parameters, notices, heard.last().cloned())
        };
        let expected = greet(front.cluster.primary.port);
        assert_eq!(greet(front.port()), expected, "{parameters:?}");
        assert_eq!(greet(front.port()), expected, "{parameters:?}, once more");
    }
}

/// Plays a script to both and says how the answers differ.
fn twin(front: &Front, script: &Script, portions: Portions) -> Result<(), String> {
    let expected = play(front.cluster.primary.port, script, portions);
    let answered = play(front.port(), script, portions);
    for index in 0..expected.len().max(answered.len()) {
        let (want, have) = (expected.get(index), answered.get(index));
        if want != have {
            return Err(format!(
                "`{}` ({portions:?}), message {index}:\n   PostgreSQL: {want:?}\n   here:       {have:?}\n   all of it:  {answered:?}",
                script.name
            ));
        }
    }
    Ok(())
}

/// The answers to a script in a session of its own, without what is the server's own business.
fn play(port: u16, script: &Script, portions: Portions) -> Vec<Message> {
    let mut session = RawSession::log_in(port, "app");
    let mut answers = Vec::new();
    let mut waiting = Vec::new();
    for step in &script.steps {
        match step {
            Step::Send(bytes) => match portions {
                Portions::Whole => waiting.extend(bytes),
                Portions::Messages => session.send(bytes),
                Portions::Bytes => session.send_byte_by_byte(bytes),
            },
            Step::Await { tag, count } => {
                session.send(&std::mem::take(&mut waiting));
                for _ in 0..*count {
                    answers.extend(session.read_until(*tag));
                }
            }
        }
    }
    session.send(&waiting);
    session.send(&say::terminate());
    answers.extend(session.read_to_end());
    answers.iter_mut().for_each(forget_server_local);
    answers
}

/// A NotificationResponse begins with the notifying server process's id.
fn forget_server_local(message: &mut Message) {
    if message.tag == b'A' {
        message.body[..4].fill(0);
    }
}

/// Cuts a file into its blocks.
fn scripts(text: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        if let Some(name) = line.strip_prefix("### ") {
            scripts.push(Script { name: name.to_string(), steps: Vec::new() });
        } else if !line.is_empty() && !line.starts_with('#') {
            let script = scripts.last_mut().unwrap_or_else(|| panic!("a line before the first script: {line}"));
            script.steps.push(step(line));
        }
    }
    scripts
}

/// One line of a script; fields are parted by " | ".
fn step(line: &str) -> Step {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let fields: Vec<&str> = rest.split(" | ").map(|field| field.trim_matches(|c| c == '|')).map(str::trim).collect();
    let field = |index: usize| fields.get(index).copied().unwrap_or("");
    let rows = |index: usize| field(index).parse::<u32>().unwrap_or(0);
    Step::Send(match verb {
        "Query" => say::query(&unescape(rest)),
        "Parse" => {
            let types: Vec<u32> = field(2).split_whitespace().map(|oid| oid.parse().expect("an oid")).collect();
            say::parse(field(0), &unescape(field(1)), &types)
        }
        "Bind" => bind(&fields),
        "Describe" => say::of_named(b'D', rest.as_bytes()[0], rest[1..].trim()),
        "Close" => say::of_named(b'C', rest.as_bytes()[0], rest[1..].trim()),
        "Execute" => say::execute(field(0), rows(1)),
        "Sync" => say::sync(),
        "Flush" => say::flush(),
        "CopyData" => say::copy_data(unescape(rest).as_bytes()),
        "CopyDone" => say::copy_done(),
        "CopyFail" => say::copy_fail(rest),
        "FunctionCall" => {
            let arguments: Vec<&str> = fields[1..].to_vec();
            say::function_call(rows(0), &arguments)
        }
        "<" => {
            // The tag is the last character; ParseComplete's is a digit itself.
            let (count, tag) = rest.split_at(rest.len() - 1);
            return Step::Await { tag: tag.as_bytes()[0], count: count.parse().unwrap_or(1) };
        }
        _ => panic!("no such verb: {line}"),
    })
}

/// `portal | statement | values … | -> formats`: NULL is the word NULL.
fn bind(fields: &[&str]) -> Vec<u8> {
    let results = fields.iter().find_map(|field| field.strip_prefix("->")).unwrap_or("");
    let results: Vec<u16> = results.split_whitespace().map(|format| format.parse().expect("a format code")).collect();
    let values: Vec<Option<Vec<u8>>> = fields[2.min(fields.len())..]
        .iter()
        .filter(|field| !field.starts_with("->"))
        .map(|field| (*field != "NULL").then(|| unescape(field).into_bytes()))
        .collect();
    let values: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
    let name = |index: usize| fields.get(index).copied().unwrap_or("");
    say::bind(name(0), name(1), &values, &results)
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}
