//! Unnamed statements that come again and again are kept prepared on server connections (`pool.auto_prepare`), and nothing
//! shows of it but the time that PostgreSQL saves: what was prepared before a change of the schema never answers after it.
//! The transcripts are played so, too.

use crate::harness::front::{self, Front};
use crate::harness::raw::{Message, RawSession, say};
use crate::harness::wait;

/// Everything that was prepared would be used for ever: no change from elsewhere is looked for while the test runs.
const FOR_EVER: &[(&str, &str)] = &[("routing.consistency", "\"primary\""), ("routing.catalog_poll", "\"1h\"")];

/// pgweir that prepares what came before, for sessions that share a server connection, and knows what there is to read.
pub async fn front(more: &[(&str, &str)]) -> Front {
    let settings = [("pool.auto_prepare", "1"), ("listen.workers", "1"), ("pool.size", "1")];
    let front = front::with(&[&settings, more].concat()).await;
    wait::until("statements are kept prepared", || async {
        let mut session = RawSession::log_in(front.port(), "app");
        ask(&mut session, "SELECT count(*) FROM kv");
        session.send(&say::terminate());
        session.read_to_end();
        spared(&front).is_none_or(|spared| spared > 0.0)
    })
    .await;
    front
}

/// A statement as a driver sends it.
fn ask(session: &mut RawSession, text: &str) -> Vec<Message> {
    let parameters: &[Option<&[u8]>] = if text.contains("$1") { &[Some(b"5")] } else { &[] };
    let bind = say::bind("", "", parameters, &[]);
    let describe = say::of_named(b'D', b'P', "");
    session.send(&[say::parse("", text, &[]), bind, describe, say::execute("", 0), say::sync()].concat());
    session.read_until(b'Z')
}

/// How many Parses were not sent.
pub fn spared(front: &Front) -> Option<f64> {
    front.proxy().map(|proxy| proxy.metrics().sum("pgweir_auto_prepared_total", &[]))
}

#[tokio::test]
async fn a_session_finds_what_another_one_prepared() {
    let front = front(FOR_EVER).await;
    let before = spared(&front);
    let text = "SELECT name FROM numbers WHERE id = $1";
    let expected = ask(&mut RawSession::log_in(front.cluster.primary.port, "app"), text);
    for times in [1, 1, 2] {
        let mut session = RawSession::log_in(front.port(), "app");
        for _ in 0..times {
            assert_eq!(ask(&mut session, text), expected);
        }
        session.send(&say::terminate());
        session.read_to_end();
    }
    // The first was counted, the second was prepared, the others found it.
    assert_eq!(spared(&front), before.map(|before| before + 2.0));
}

/// What is asked, and what changes meanwhile; `it` stands for a table's name.
const CHANGES: &[(&str, &str)] = &[
    ("SELECT * FROM it WHERE id = $1", "ALTER TABLE it ADD COLUMN more int"),
    ("SELECT v FROM it WHERE id = $1", "ALTER TABLE it ALTER COLUMN v TYPE bigint"),
    ("SELECT v FROM it WHERE id = $1", "ALTER TABLE it ALTER COLUMN v TYPE text USING 'was ' || v"),
    ("SELECT v FROM it WHERE id = $1", "ALTER TABLE it ALTER COLUMN id TYPE bigint"),
    ("SELECT v FROM it WHERE id = $1", "ALTER TABLE it ALTER COLUMN id TYPE text"),
    ("SELECT v FROM it WHERE id = $1", "ALTER TABLE it RENAME COLUMN v TO w"),
    ("SELECT * FROM it WHERE id = $1", "ALTER TABLE it RENAME COLUMN v TO w"),
    ("SELECT v FROM it WHERE id = $1", "ALTER TABLE it RENAME TO it_old"),
    ("SELECT v FROM it WHERE id = $1", "DROP TABLE it"),
    ("SELECT v FROM it WHERE id = $1", "DROP TABLE it; CREATE TABLE it (id int, v int); INSERT INTO it VALUES (5, 8)"),
    ("SELECT v FROM it WHERE id = $1", "REVOKE ALL ON it FROM app"),
    ("SELECT v FROM it WHERE id = $1", "CREATE INDEX ON it (id); UPDATE it SET v = 9"),
    ("SELECT count(*) FROM it", "TRUNCATE it"),
    ("SELECT v FROM it WHERE id = $1", "ALTER TABLE it ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
];

#[tokio::test]
async fn what_was_prepared_before_a_change_does_not_answer_after_it() {
    let cluster = front::shared_cluster().await;
    let mut direct = RawSession::log_in(cluster.primary.port, "app");
    let ways = ["past", "through"];
    let name = |way: &str, index: usize| format!("changing_{way}_{index}");
    for (way, index) in ways.iter().flat_map(|way| (0..CHANGES.len()).map(move |index| (way, index))) {
        let it = name(way, index);
        direct.query(&format!("CREATE TABLE {it} (id int, v int); INSERT INTO {it} VALUES (5, 7), (6, 8)"));
    }
    let front = front(FOR_EVER).await;
    let mut differing = Vec::new();
    for way in ways {
        let mut session = RawSession::log_in(front.port(), "app");
        for (index, (text, change)) in CHANGES.iter().enumerate() {
            let it = name(way, index);
            let (text, change) = (replace_name(text, &it), replace_name(change, &it));
            let before = spared(&front);
            (0..5).for_each(|_| drop(ask(&mut session, &text)));
            let found = before.is_none_or(|before| spared(&front) > Some(before));
            assert!(found || way == "through", "{text} was not prepared");
            if way == "past" {
                direct.query(&change)
            } else {
                session.query(&change)
            };
            let expected = ask(&mut direct, &text);
            for time in 0..5 {
                let answer = ask(&mut session, &text);
                if answer != expected {
                    differing.push(format!("{change}, {way}, time {time}:\n  {expected:?}\n  {answer:?}"));
                }
            }
        }
        session.send(&say::terminate());
        session.read_to_end();
    }
    for (way, index) in ways.iter().flat_map(|way| (0..CHANGES.len()).map(move |index| (way, index))) {
        let it = name(way, index);
        direct.query(&format!("DROP TABLE IF EXISTS {it}, {it}_old"));
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// The word `it`, and `it_old`.
fn replace_name(text: &str, name: &str) -> String {
    let words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let renamed = words.map(|word| match word.strip_prefix("it") {
        Some(rest) if rest.is_empty() || rest.starts_with(|c: char| !c.is_ascii_alphanumeric()) => {
            format!("{name}{rest}")
        }
        _ => word.to_owned(),
    });
    renamed.collect()
}
