//! The machine's transcripts: what it does with each message of a client and of a node, without either. A line of a case is a
//! message from the client (F) or from the node (B), in the manual's names, NUL written as `|` and what ends a line as `^`; what follows it, indented, is
//! what the machine sends to the node (>) and to the client (<) and asks of its loop.

use std::time::Duration;

use super::super::unit;
use super::*;
use crate::catalog::{Conduct, IsSequence, Relation, Safety, Writes};
use crate::cluster::Timeline;
use crate::cluster::samples::{at, replica, view};
use crate::config::{ClusterConfig, RoutingConfig};
use crate::protocol::frontend::message;

const NAMES: [(char, &str, u8); 25] = [
    ('F', "Query", b'Q'),
    ('F', "Parse", b'P'),
    ('F', "Bind", b'B'),
    ('F', "Describe", b'D'),
    ('F', "Execute", b'E'),
    ('F', "Close", b'C'),
    ('F', "Sync", b'S'),
    ('F', "Flush", b'H'),
    ('F', "CopyData", b'd'),
    ('F', "CopyDone", b'c'),
    ('F', "CopyFail", b'f'),
    ('F', "Terminate", b'X'),
    ('B', "ReadyForQuery", b'Z'),
    ('B', "CommandComplete", b'C'),
    ('B', "ErrorResponse", b'E'),
    ('B', "RowDescription", b'T'),
    ('B', "DataRow", b'D'),
    ('B', "ParseComplete", b'1'),
    ('B', "BindComplete", b'2'),
    ('B', "CloseComplete", b'3'),
    ('B', "NoData", b'n'),
    ('B', "CopyInResponse", b'G'),
    ('B', "CopyOutResponse", b'H'),
    ('B', "CopyData", b'd'),
    ('B', "ParameterStatus", b'S'),
];

fn encode(side: char, line: &str) -> Vec<u8> {
    let (name, body) = line.split_once(' ').unwrap_or((line, ""));
    let (_, _, tag) = NAMES.iter().find(|(known, known_name, _)| (*known, *known_name) == (side, name)).expect(name);
    let mut out = Vec::new();
    message(&mut out, *tag, |out| out.extend(body.bytes().map(|byte| if byte == b'|' { 0 } else { byte })));
    out
}

/// The messages of `side`, one a line; long ones are cut.
fn show(side: char, sign: char, mut bytes: &[u8], out: &mut Vec<String>) {
    while let Ok(Some(header)) = crate::protocol::frame::header(bytes) {
        let name =
            NAMES.iter().find(|(known, _, tag)| (*known, *tag) == (side, header.tag)).map_or("?", |(_, name, _)| name);
        let body: String = bytes[5..header.total]
            .iter()
            .map(|byte| match *byte {
                0 => '|',
                b'\n' => '^',
                byte => char::from(byte),
            })
            .take(90)
            .collect();
        out.push(format!("{sign} {name} {body}").trim_end().to_owned());
        bytes = &bytes[header.total..];
    }
    assert!(bytes.is_empty(), "a message that is not whole");
}

/// Whatever a machine at rest leaves on its desk must not be missed.
fn rest_and_resume(machine: &mut Machine) {
    let room = machine.rest();
    machine.resume(|| room.unwrap_or_default());
}

/// A session's loop, as `run` is, on lines.
struct Player {
    machine: Machine,
    rules: Rules,
    view: ClusterView,
    verdicts: VerdictCache,
    lease: Option<(LinkRole, ConnectionState)>,
    ends_expected: bool,
    /// The connection that was released last.
    idle: Option<(LinkRole, ConnectionState)>,
    inbox: Vec<u8>,
    request: Vec<u8>,
    reply: Vec<u8>,
    out: Vec<String>,
}

impl Player {
    fn new() -> Player {
        let rules = Rules {
            routing: RoutingConfig::default(),
            cluster: ClusterConfig::default(),
            held_request: 1 << 20,
            session_statements: 100,
            server_statements: 100,
            auto_prepare: 0,
            checkout_timeout: Duration::from_secs(5),
            session_pooling: false,
            user: "app".into(),
        };
        let mut machine = Machine::new(1, &rules, SessionSettings::default());
        machine.resume(Box::default);
        Player {
            machine,
            rules,
            view: view(vec![replica(1, 500)]),
            verdicts: VerdictCache::new(1 << 20, 1 << 16),
            lease: None,
            ends_expected: false,
            idle: None,
            inbox: Vec::new(),
            request: Vec::new(),
            reply: Vec::new(),
            out: Vec::new(),
        }
    }

    fn ask<T>(&mut self, call: impl FnOnce(&mut Machine, Option<&mut Link<'_>>, &mut Env<'_>) -> T) -> T {
        rest_and_resume(&mut self.machine);
        let mut catalog = Catalog::default();
        catalog.relations.entry("t".into()).or_default().push(Relation {
            schema: "public".into(),
            safety: Safety::Safe,
            conduct: Conduct::QUIET,
            write_conduct: Conduct::QUIET,
            writes: Writes::Refused,
            sequence: IsSequence::No,
        });
        let mut env = Env {
            view: &self.view,
            sample: None,
            ticket: 0,
            global: GlobalFloor { position: None, unresolved: None },
            catalog: &catalog,
            catalog_current: true,
            ends_expected: self.ends_expected,
            verdicts: &mut self.verdicts,
            dice: (0, 0),
            waited: Duration::ZERO,
            rules: &self.rules,
        };
        let mut parameters = Vec::new();
        match &mut self.lease {
            Some((role, state)) => {
                let node = NodeId(u16::from(*role == LinkRole::Replica));
                let mut link = Link { id: 1, node, role: *role, state, parameters: &mut parameters };
                call(&mut self.machine, Some(&mut link), &mut env)
            }
            None => call(&mut self.machine, None, &mut env),
        }
    }

    fn feed(&mut self) {
        let input = std::mem::take(&mut self.inbox);
        let (mut own, mut answers, mut at) = (Vec::new(), Vec::new(), 0);
        let mut io = ClientIo { to_server: Outbox::new(&input, &mut own), to_client: &mut answers };
        let step = loop {
            let step = self.ask(|machine, link, env| machine.on_client(&input, &mut at, &mut io, link, env)).unwrap();
            let Step::Checkout(target) = step else { break step };
            let role = if let Target::Replica(_) = target { LinkRole::Replica } else { LinkRole::Primary };
            self.out.push(format!("checkout {role:?}"));
            self.lease = Some((role, ConnectionState::default()));
            self.ask(|machine, link, _| machine.on_lease(at, &mut io, link.unwrap()));
        };
        let of_unit = self.machine.of_unit(&input[..at]);
        if self.machine.keeps_request() && self.request.is_empty() {
            self.request.extend_from_slice(of_unit);
        }
        show('F', '>', io.to_server.bytes(), &mut self.out);
        show('B', '<', &answers, &mut self.out);
        self.inbox = input[at..].to_vec();
        if let Step::Close(end) = step {
            self.out.push(format!("close {end:?}"));
        }
    }

    fn on_server(&mut self, input: &[u8]) {
        let (mut own, mut requests, mut at) = (Vec::new(), Vec::new(), 0);
        let mut io = ServerIo { to_client: Outbox::new(input, &mut own), to_server: &mut requests };
        let step = self
            .ask(|machine, link, env| machine.on_server(input, &mut at, &mut io, link.expect("a lease"), env))
            .unwrap();
        let bytes = io.to_client.bytes().to_vec();
        show('F', '>', &requests, &mut self.out);
        if step == Step::Retry || self.machine.discards_reply() {
            self.reply.clear();
        } else {
            self.reply.extend_from_slice(&bytes);
            if !self.machine.holds_reply() {
                show('B', '<', &std::mem::take(&mut self.reply), &mut self.out);
            }
        }
        if !self.machine.keeps_request() && step != Step::Retry {
            self.request.clear();
        }
        self.follow(step);
    }

    fn on_lost(&mut self) {
        let (role, _) = self.lease.take().expect("a lease");
        let mut words = Vec::new();
        let node = NodeId(u16::from(role == LinkRole::Replica));
        let step = self.machine.on_server_eof(node, "node", role, &mut words);
        self.reply.clear();
        show('B', '<', &words, &mut self.out);
        self.follow(step);
    }

    fn follow(&mut self, step: Step) {
        match step {
            Step::Release => {
                self.idle = self.lease.take();
                self.out.push("release".to_owned());
            }
            Step::Retry => {
                self.idle = self.lease.take();
                self.out.push("retry".to_owned());
                self.inbox.splice(0..0, std::mem::take(&mut self.request));
            }
            Step::Close(end) => self.out.push(format!("close {end:?}").chars().take(90).collect()),
            _ => {}
        }
        if !self.inbox.is_empty() {
            self.feed();
        }
    }

    fn play(&mut self, line: &str) -> Vec<String> {
        match line.split_at(4) {
            ("(F) ", said) => {
                self.inbox.extend(encode('F', said));
                self.feed();
            }
            ("(B) ", "lost") => self.on_lost(),
            ("(B) ", said) => self.on_server(&encode('B', said)),
            _ => panic!("neither side says {line}"),
        }
        std::mem::take(&mut self.out)
    }
}

#[test]
fn the_machine_does_what_its_transcripts_say() {
    for case in include_str!("machine_tests.txt").split("\n\n").filter(|case| !case.trim().is_empty()) {
        let mut lines = case.trim().lines().filter(|line| !line.starts_with('#')).peekable();
        let (title, mut player) = (case.trim().lines().next().unwrap(), Player::new());
        while let Some(line) = lines.next() {
            let mut expected = Vec::new();
            while let Some(follows) = lines.next_if(|line| line.starts_with("    ")) {
                expected.push(follows.trim().to_owned());
            }
            assert_eq!(player.play(line), expected, "{title}: after {line}");
        }
    }
}

/// What stands in front of a unit that waits for its settings is gone when the unit is sent.
#[test]
fn a_unit_that_waited_for_its_settings_is_asked_again_whole() {
    let mut player = Player::new();
    player.machine.settings_mut().apply(&crate::sql::Act::Set { name: "role".into(), value: "x".into() });
    player.inbox = [encode('F', "Sync"), encode('F', "Query SELECT 1|")].concat();
    player.feed();
    assert!(!player.out.contains(&"> Query SELECT 1|".to_owned()), "the role first: {:?}", player.out);
    player.play("(B) CommandComplete SET|");
    assert_eq!(player.play("(B) ReadyForQuery I"), ["> Query SELECT 1|"]);
    player.play("(B) lost");
    player.play("(B) CommandComplete SET|");
    assert_eq!(player.play("(B) ReadyForQuery I"), ["> Query SELECT 1|"]);
}

/// Of a promotion that the node at hand does not know of: nobody fenced it.
#[test]
fn a_connection_to_what_was_the_primary_is_not_used_any_more() {
    // Seeds 46646, 52560, 64840 of the simulation: the new primary was gone, too, and the old one was asked.
    for (primary, timeline) in [(Some(NodeId(1)), 2), (None, 3)] {
        let mut player = Player::new();
        player.play("(F) Query BEGIN|");
        player.play("(F) Query UPDATE t SET a = 1|");
        for tag in ["BEGIN", "UPDATE 1"] {
            player.play(&format!("(B) CommandComplete {tag}|"));
            player.play("(B) ReadyForQuery T");
        }
        (player.view.primary, player.view.timeline) = (primary, Timeline(timeline));
        let mut at = 0;
        let (input, mut own, mut answers) = (encode('F', "Query COMMIT|"), Vec::new(), Vec::new());
        let mut io = ClientIo { to_server: Outbox::new(&input, &mut own), to_client: &mut answers };
        let step = player.ask(|machine, link, env| machine.on_client(&input, &mut at, &mut io, link, env));
        assert_eq!(step, Ok(Step::Deposed));
        assert!(io.to_server.bytes().is_empty() && answers.is_empty());
    }
}

#[test]
fn a_level_that_was_reset_is_the_configured_one_again() {
    for reset in ["RESET pgweir.consistency", "RESET ALL", "DISCARD ALL"] {
        let mut player = Player::new();
        let configured = player.machine.state.consistency;
        // Each time on another connection: the second must be brought to the session's settings first.
        for (text, level, answers) in
            [("SET pgweir.consistency = 'eventual'", Consistency::Eventual, 1), (reset, configured, 2)]
        {
            player.play(&format!("(F) Query {text}|"));
            for _ in 0..answers {
                player.play("(B) CommandComplete SET|");
                player.play("(B) ReadyForQuery I");
            }
            assert_eq!(player.machine.state.consistency, level, "after {text}");
        }
    }
}

/// A read that waits for its replica to be observed, or for another connection after a loss, is read once more later; seed 24
/// of the simulation cancelled one meanwhile, and its client waited for ever.
#[test]
fn a_query_that_is_to_be_decided_anew_can_be_refused() {
    let mut player = Player::new();
    let (input, mut at, mut answers) = (encode('F', "Query SELECT 1|"), 0, Vec::new());
    player.machine.reconsider();
    let step = player.machine.on_no_lease(&ClientError::canceled(), &input, &mut at, &mut answers);
    let mut told = Vec::new();
    show('B', '<', &answers, &mut told);
    assert_eq!((step, at), (Step::ReadMore, input.len()));
    assert!(told[0].contains("C57014") && told[1] == "< ReadyForQuery I", "{told:?}");
}

/// It would end the next statement, which nobody cancelled.
#[test]
fn a_cancel_is_over_with_its_unit() {
    for end in ["(B) lost", "(B) ErrorResponse SERROR|C57014|"] {
        let mut player = Player::new();
        player.play("(F) Query UPDATE t SET a = 1|");
        assert!(!player.machine.note_cancel() && player.machine.note_cancel());
        player.play(end);
        if player.lease.is_some() {
            assert!(player.machine.is_cancelled(), "not answered yet");
            player.play("(B) ReadyForQuery I");
        }
        assert!(!player.machine.is_cancelled(), "{end}");
    }
}

/// PostgreSQL forgets the unnamed statement before it looks at a Query, whatever becomes of it (seed 374).
#[test]
fn a_query_that_is_refused_leaves_no_unnamed_statement() {
    for (refused, is_left) in
        [("Query SELECT 1|", false), ("Parse |SELECT 1|\0\0", false), ("Parse a|SELECT 1|\0\0", true)]
    {
        let mut player = Player::new();
        player.machine.statements.set_unnamed(b"SELECT 1\0\0\0", unit::opaque("a test"));
        let (input, mut at, mut answers) = ([encode('F', refused), encode('F', "Sync")].concat(), 0, Vec::new());
        player.machine.reconsider();
        player.machine.on_no_lease(&ClientError::canceled(), &input, &mut at, &mut answers);
        assert_eq!(player.machine.statements.unnamed().is_some(), is_left, "after {refused}");
    }
}

/// An unnamed read as drivers send it, on the connection of the one before it.
fn unnamed_read(player: &mut Player, node: &[&str]) -> Vec<String> {
    player.lease = player.idle.take();
    let messages = ["Parse |SELECT 1|||", "Bind ||||||||", "Describe P|", "Execute |||||", "Sync"];
    player.inbox = messages.iter().flat_map(|message| encode('F', message)).collect();
    player.feed();
    let mut out = std::mem::take(&mut player.out);
    out.extend(node.iter().flat_map(|line| player.play(line)));
    out
}

const ANSWER: [&str; 5] = [
    "(B) BindComplete",
    "(B) RowDescription x",
    "(B) DataRow x",
    "(B) CommandComplete SELECT 1|",
    "(B) ReadyForQuery I",
];
const HEARD: [&str; 7] = [
    "< ParseComplete",
    "< BindComplete",
    "< RowDescription x",
    "< DataRow x",
    "< CommandComplete SELECT 1|",
    "< ReadyForQuery I",
    "release",
];
const SENT: [&str; 5] = ["> Parse |SELECT 1|||", "> Bind ||||||||", "> Describe P|", "> Execute |||||", "> Sync"];

fn prepared(level: Consistency) -> Player {
    let mut player = Player::new();
    player.rules.auto_prepare = 1;
    player.machine.state.consistency = level;
    let answer = [&["(B) ParseComplete"][..], &ANSWER].concat();
    assert_eq!(unnamed_read(&mut player, &answer)[1..], [&SENT[..], &HEARD].concat());
    let named = ["> Parse pgweir_1|SELECT 1|||", "> Bind |pgweir_1|||||||", SENT[2], SENT[3], SENT[4]];
    assert_eq!(unnamed_read(&mut player, &answer), [&named[..], &HEARD].concat());
    assert_eq!(unnamed_read(&mut player, &ANSWER), [&named[1..], &HEARD].concat());
    player
}

#[test]
fn a_read_that_comes_again_is_prepared_once() {
    for level in [Consistency::Primary, Consistency::Eventual] {
        let mut player = prepared(level);
        // The client may bind it again, and a connection that has another unnamed statement must hear of it first.
        player.lease = player.idle.take();
        player.inbox = SENT[1..].iter().flat_map(|message| encode('F', &message[2..])).collect();
        player.feed();
        assert_eq!(std::mem::take(&mut player.out), SENT);
        // Where names may come to mean something else it is parsed as the client says.
        for act in [
            crate::sql::Act::Set { name: "plan_cache_mode".into(), value: "auto".into() },
            crate::sql::Act::Set { name: "search_path".into(), value: "a".into() },
        ] {
            let mut player = prepared(level);
            player.machine.settings_mut().apply(&act);
            let sent = unnamed_read(&mut player, &[]);
            let parse = sent.iter().find(|line| line.starts_with("> Parse")).expect("a Parse");
            assert_eq!(
                *parse == SENT[0],
                matches!(&act, crate::sql::Act::Set { name, .. } if name == "plan_cache_mode")
            );
        }
    }
}

/// Whatever went wrong may come of the statement's having been prepared earlier.
#[test]
fn after_an_error_it_is_sent_as_the_client_said_and_that_answer_counts() {
    let error = "(B) ErrorResponse SERROR|VERROR|C0A000|Mcached plan must not change result type||";
    for failed in [&[error, ANSWER[4]][..], &[ANSWER[0], error, ANSWER[4]]] {
        let mut player = prepared(Consistency::Primary);
        let out = unnamed_read(&mut player, failed);
        assert_eq!(out[4..], [&["retry", "checkout Primary"][..], &SENT].concat());
        let answer = [&["(B) ParseComplete"][..], &ANSWER].concat();
        let heard: Vec<String> = answer.iter().flat_map(|line| player.play(line)).collect();
        assert_eq!(heard, HEARD);
    }
}

/// A read that must see position 600 (0/258) of a replica that was seen at 500.
fn asked(said: &[&str], answer: &[&str]) -> Vec<String> {
    let mut player = Player::new();
    player.machine.state.floor = Floor::At(at(2, 600));
    let sent = player.play("(F) Query SELECT 1|");
    let question = "> Query SELECT pg_catalog.pg_last_wal_replay_lsn()|";
    assert_eq!(sent, ["checkout Replica", question, "> Query SELECT 1|"]);
    let own = [&["(B) RowDescription x"], said, &["(B) ReadyForQuery I"]].concat();
    own.iter().for_each(|line| assert!(player.play(line).is_empty(), "it is ours"));
    answer.iter().flat_map(|line| player.play(line)).collect()
}

#[test]
fn a_replica_that_lacks_what_a_read_must_see_is_not_heard() {
    let has = |lsn: &str| format!("(B) DataRow |\u{1}|||\u{5}{lsn}");
    for (lsn, proven) in [("0/258", true), ("1/000", true), ("0/257", false), ("what?", false)] {
        let heard = asked(&[&has(lsn), "(B) CommandComplete SELECT 1|"], &ANSWER[1..]);
        let elsewhere = ["retry", "checkout Primary", "> Query SELECT 1|"];
        assert_eq!(heard, if proven { &HEARD[2..] } else { &elsewhere[..] }, "{lsn}");
    }
    // Nor are its errors, and who may not ask has no proof.
    let error = "(B) ErrorResponse SERROR|VERROR|C42501|Mno||";
    for said in [&[&has("0/257"), "(B) CommandComplete SELECT 1|"][..], &[error]] {
        let heard = asked(said, &[error, "(B) ReadyForQuery I"]);
        assert_eq!(heard, ["retry", "checkout Primary", "> Query SELECT 1|"]);
    }
}

/// It is the client's own error, and in its place.
#[test]
fn a_cancel_is_heard_behind_the_answer_to_the_parse() {
    let mut player = prepared(Consistency::Primary);
    let error = "(B) ErrorResponse SERROR|VERROR|C57014|Mcanceled||";
    let out = unnamed_read(&mut player, &[error, ANSWER[4]]);
    assert_eq!(out[4..], ["< ParseComplete", &error.replace("(B)", "<"), "< ReadyForQuery I", "release"]);
    // It is closed before the connection is used again.
    assert_eq!(unnamed_read(&mut player, &[])[0], "> Close Spgweir_1|");
}

/// Nothing follows them that would send on what is held back.
#[test]
fn the_last_words_of_a_process_that_somebody_had_ended_are_heard_at_once() {
    let mut player = Player::new();
    player.ends_expected = true;
    player.machine.state.consistency = Consistency::Primary;
    player.play("(F) Query SELECT 1|");
    let words = "ErrorResponse SFATAL|VFATAL|C57P01|Mterminating connection due to administrator command||";
    assert_eq!(player.play(&format!("(B) {words}")), [format!("< {words}")]);
    assert_eq!(player.play("(B) lost"), ["close Server"]);
}

#[test]
fn a_machine_at_rest_answers_what_the_loop_asks_between_events() {
    let player = Player::new();
    let machine = Machine::new(2, &player.rules, SessionSettings::default());
    assert!(machine.is_at_rest() && machine.is_idle());
    assert_eq!(machine.works_for(), WorksFor::Nobody);
    let busy = [
        machine.is_in_message(),
        machine.discards_reply(),
        machine.holds_reply(),
        machine.keeps_request(),
        machine.awaits_node(),
        machine.is_routed(),
    ];
    assert_eq!(busy, [false; 6]);
}
