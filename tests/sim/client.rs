//! A client: what it sends, what the ideal server would have answered, and whether what it got is that.

use std::collections::VecDeque;
use std::time::Duration;

use pgweir::protocol::frontend::{message, put_parse, put_query, put_statement};

use pgweir::protocol::sqlstate::ClientError;
use pgweir::sql::{Consistency, Hint, hint};

use super::backend::{Backend, CANCELED};
use super::history::{Place, Shown};
use super::sql::Status;
use super::world::{Dice, Ideal, World};

/// What is asked for, up to one ReadyForQuery.
struct Unit {
    bytes: Vec<u8>,
    promise: Promise,
}

/// What its reads are promised.
#[derive(Clone, Copy, Default)]
struct Promise {
    /// Not known after a loss.
    level: Option<Consistency>,
    /// Of `global` or `strict`.
    least: Place,
    max_lag: Option<Duration>,
    /// The newest timeline that pgweir knew of.
    timeline: usize,
}

/// One of the ideal servers that the client may be talking to: more than one after a loss whose outcome is unknown.
#[derive(Clone, PartialEq)]
struct Ghost {
    /// Before the oldest unit that is not answered.
    base: Backend,
    now: Backend,
    expected: Vec<u8>,
    /// Of the oldest unit's answer.
    heard: Vec<u8>,
}

impl Ghost {
    /// As the base, with what follows of `units`.
    fn new(base: Backend, mut expected: Vec<u8>, units: &VecDeque<Unit>) -> Ghost {
        let mut now = base.clone();
        for unit in units {
            now.on_bytes(&unit.bytes, &mut Ideal);
        }
        expected.append(&mut now.out);
        Ghost { base, now, expected, heard: Vec::new() }
    }
}

/// What the client does not do before it has heard what it waits for.
#[derive(Clone, Copy, Default, PartialEq)]
enum Pause {
    #[default]
    None,
    /// The rest of the unit comes behind a Flush.
    Flush,
    /// A COPY FROM STDIN was asked for.
    Copy,
    /// It has begun: rows can be sent.
    Copying,
}

pub struct Client {
    ghosts: Vec<Ghost>,
    /// What is not answered, each with one ReadyForQuery to come.
    units: VecDeque<Unit>,
    /// Something of the oldest unit's answer has come.
    begun: bool,
    /// A loss was told: the status that follows says whether the block goes on.
    told: bool,
    pause: Pause,
    /// The unit's rest behind a Flush, or of a COPY: whether it was asked for by a Query.
    rest: Vec<u8>,
    /// The connection of the unit that is half sent was lost: what comes of it is only what ends it.
    rest_is_lost: bool,
    pub got: Vec<u8>,
    /// The newest place that it has seen, as reader or writer.
    seen: Place,
    /// What `global` and `strict` promise to what is sent now.
    pub globally: Place,
    pub strictly: Place,
    /// The timeline that pgweir knows.
    pub timeline: usize,
    /// The configured one.
    level: Consistency,
    pub in_block: bool,
    pub left: usize,
    /// It takes values from a sequence. Then it asks for the last one before it takes the first: pgweir does not keep a
    /// session on its connection for values that nobody asks for, so that a first question may come too late.
    counts: bool,
    counted: bool,
    /// Nothing of note is held back for it.
    hears_early: bool,
    /// What it was told by nextval last.
    value: Option<u64>,
}

const READ: &[u8] = b"SELECT v FROM t WHERE id = $1\0\0\0";

fn execute(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], value: Option<usize>) {
    bind(out, portal, statement, value);
    run(out, portal, 0);
}

fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], value: Option<usize>) {
    message(out, b'B', |out| {
        for name in [portal, statement] {
            out.extend_from_slice(name);
            out.push(0);
        }
        out.extend_from_slice(b"\0\0");
        match value.map(|value| value.to_string()) {
            Some(value) => {
                out.extend_from_slice(b"\0\x01");
                out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                out.extend_from_slice(value.as_bytes());
            }
            None => out.extend_from_slice(b"\0\0"),
        }
        out.extend_from_slice(b"\0\0");
    });
}

fn run(out: &mut Vec<u8>, portal: &[u8], most: u32) {
    message(out, b'E', |out| {
        out.extend_from_slice(portal);
        out.push(0);
        out.extend_from_slice(&most.to_be_bytes());
    });
}

fn end(out: &mut Vec<u8>, tag: u8) {
    message(out, tag, |_| {});
}

impl Client {
    pub fn new(left: usize, level: Consistency, counts: bool, hears_early: bool) -> Client {
        let ghost = Ghost::new(Backend::default(), Vec::new(), &VecDeque::new());
        Client {
            ghosts: vec![ghost],
            units: VecDeque::new(),
            begun: false,
            told: false,
            pause: Pause::None,
            rest: Vec::new(),
            rest_is_lost: false,
            got: Vec::new(),
            seen: Place::default(),
            globally: Place::default(),
            strictly: Place::default(),
            timeline: 0,
            level,
            in_block: false,
            left,
            counts,
            counted: false,
            hears_early,
            value: None,
        }
    }

    /// The next unit, or the rest of one; its answer by the ideal server is noted. Empty: there is nothing to be said now.
    pub fn next(&mut self, dice: &mut Dice) -> Vec<u8> {
        match self.pause {
            Pause::Copy => return Vec::new(),
            Pause::Flush if !self.rest_is_lost && self.ghosts.iter().any(|ghost| !ghost.expected.is_empty()) => {
                return Vec::new();
            }
            Pause::Flush | Pause::Copying => return self.finish(dice),
            Pause::None => {}
        }
        let mut out = Vec::new();
        match dice.below(16) {
            _ if self.ghosts.len() == 1 && self.counts && !self.counted => {
                put_query(&mut out, b"SELECT currval('s')");
            }
            0..=4 => self.extended(&mut out, dice),
            5 if !self.in_block || dice.one_in(2) => self.copy_in(&mut out, dice),
            6 if dice.one_in(4) => message(&mut out, b'F', |out| out.extend_from_slice(&[0; 10])),
            _ => {
                let mut text = self.text(dice);
                while dice.one_in(6) {
                    let more = self.text(dice);
                    // Behind the end of a block that failed the names would have to be there already.
                    if self.is_sound() || !more.starts_with("DEALLOCATE") {
                        text = format!("{text}; {more}");
                    }
                }
                put_query(&mut out, text.as_bytes())
            }
        }
        self.left -= 1;
        let promise = self.promise(&[&out[..], &self.rest].concat());
        self.expect(&out);
        let mut unit = Vec::new();
        for message in messages(&out) {
            unit.extend_from_slice(message);
            if matches!(message[0], b'Q' | b'S' | b'F') {
                self.units.push_back(Unit { bytes: std::mem::take(&mut unit), promise });
            }
        }
        if !unit.is_empty() {
            self.units.push_back(Unit { bytes: unit, promise });
        }
        out
    }

    /// What is sent together runs in one place, which must be good enough for the most demanding part of it.
    fn promise(&self, out: &[u8]) -> Promise {
        let setting = |ghost: &Ghost| ghost.now.process.setting("pgweir.consistency");
        let set = setting(&self.ghosts[0]);
        let known = self.ghosts.iter().all(|ghost| setting(ghost) == set) && !contains(out, b"pgweir.consistency");
        let own = set.map_or(Some(self.level), |set| hint::consistency(&set));
        let mut promise = Promise { timeline: self.timeline, ..Promise::default() };
        let mut levels = Vec::new();
        for message in messages(out) {
            let text = match message[0] {
                b'Q' => &message[5..],
                b'P' => &message[6 + message[5..].iter().position(|byte| *byte == 0).unwrap_or(0)..],
                b'E' | b'B' => b"",
                _ => continue,
            };
            match hint::leading(&String::from_utf8_lossy(text)) {
                Some(Hint::Consistency(level)) => levels.push(level),
                Some(Hint::MaxLag(most)) => promise.max_lag = Some(most),
                // A portal has the level of its statement, which the session gave it or this very message.
                _ if message[0] == b'E' || message[0] == b'B' && !levels.is_empty() => {}
                _ => levels.extend(own),
            }
        }
        promise.level = levels.into_iter().max_by_key(|level| strength(*level)).filter(|_| known);
        promise.least = match promise.level {
            Some(Consistency::Global) => self.globally,
            Some(Consistency::Strict) => self.strictly,
            _ => Place::default(),
        };
        promise
    }

    fn expect(&mut self, bytes: &[u8]) {
        for ghost in &mut self.ghosts {
            ghost.now.on_bytes(bytes, &mut Ideal);
            ghost.expected.append(&mut ghost.now.out);
        }
    }

    /// The rest of the unit that was begun.
    fn finish(&mut self, dice: &mut Dice) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.rest);
        if self.pause == Pause::Copying {
            let extended = std::mem::take(&mut out).first() == Some(&b'P');
            for _ in 0..dice.below(3) {
                message(&mut out, b'd', |out| out.extend_from_slice(b"0\n"));
            }
            match dice.below(5) {
                0 => {
                    message(&mut out, b'd', |out| out.extend_from_slice(b"bad\n"));
                    end(&mut out, b'c');
                }
                1 => message(&mut out, b'f', |out| out.extend_from_slice(b"enough\0")),
                _ => end(&mut out, b'c'),
            }
            if extended {
                end(&mut out, b'S');
            }
        }
        self.pause = Pause::None;
        let promise = self.units.back().map_or_else(Promise::default, |unit| unit.promise);
        let mut goes_on = true;
        for message in messages(&out) {
            if self.rest_is_lost {
                // What comes of it is only its end.
                self.rest_is_lost = message[0] != b'S';
                goes_on &= self.rest_is_lost;
                continue;
            }
            match self.units.back_mut() {
                Some(unit) if goes_on => unit.bytes.extend_from_slice(message),
                _ => self.units.push_back(Unit { bytes: message.to_vec(), promise }),
            }
            goes_on = message[0] != b'S';
            self.expect(message);
        }
        out
    }

    fn copy_in(&mut self, out: &mut Vec<u8>, dice: &mut Dice) {
        if dice.one_in(2) {
            put_query(out, b"COPY t FROM STDIN");
        } else {
            put_parse(out, b"", b"COPY t FROM STDIN\0\0\0");
            execute(out, b"", b"", None);
            // Not ended by a Sync before the rows are there: whoever sends one earlier may hear two ReadyForQuery.
            end(out, b'H');
        }
        self.rest = vec![out[0]];
        self.pause = Pause::Copy;
    }

    /// No block has failed.
    fn is_sound(&self) -> bool {
        self.ghosts.iter().all(|ghost| ghost.now.status() != Status::Failed)
    }

    fn text(&mut self, dice: &mut Dice) -> String {
        let id = dice.below(4);
        let sound = self.is_sound();
        if self.in_block && dice.one_in(3) {
            self.in_block = false;
            return ["COMMIT", "COMMIT", "ROLLBACK"][dice.below(3)].to_owned();
        }
        let text = match dice.below(42) {
            40 => return format!("/* pgweir: {} */ SELECT v FROM t WHERE id = {id}", HINTS[dice.below(HINTS.len())]),
            41 => SETTINGS[dice.below(SETTINGS.len())],
            0..=11 => return format!("SELECT v FROM t WHERE id = {id}"),
            12..=14 => return format!("UPDATE t SET v = 1 WHERE id = {id}"),
            15..=18 if !self.in_block => {
                self.in_block = true;
                ["BEGIN", "BEGIN READ ONLY", "BEGIN READ ONLY", "BEGIN"][id]
            }
            19..=20 => return format!("SET search_path TO 'p{id}'"),
            21 => return format!("SET application_name TO 'a{id}'"),
            22 => return format!("SET LOCAL search_path TO 'l{id}'"),
            23 => ["RESET search_path", "RESET ALL", "SET work_mem TO '64kB'", "RESET application_name"][id],
            24 => "SELECT nosuch()",
            25 if !self.in_block => ["DISCARD ALL", "DEALLOCATE ALL", "SELECT loud_writer()", "DISCARD ALL"][id],
            26 => ["DEALLOCATE s1", "DEALLOCATE s2", "DEALLOCATE p1", "DEALLOCATE ALL"][id],
            27 => ["SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO a", "ROLLBACK TO b"][id],
            28 => ["SAVEPOINT a", "ROLLBACK TO a", "ROLLBACK TO a", "SAVEPOINT a"][id],
            29 => return format!("COPY (SELECT v FROM t WHERE id = {id}) TO STDOUT"),
            30 => ["CREATE TEMP TABLE tmp (v text)", "DROP TABLE tmp", "SELECT v FROM tmp", "SELECT v FROM tmp"][id],
            31 => ["LISTEN c", "UNLISTEN *", "SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock_all()"][id],
            32..=33 if self.counted => {
                ["SELECT nextval('s')", "SELECT currval('s')", "SELECT currval('s')", "SELECT nextval('s')"][id]
            }
            // In a block that failed statements cannot be given their own names.
            34 if sound => [
                "PREPARE p1 AS SELECT v FROM t WHERE id = 1",
                "EXECUTE p1",
                "EXECUTE s1(2)",
                "PREPARE p1 AS UPDATE t SET v = 1 WHERE id = 1",
            ][id],
            35 => "SHOW application_name",
            _ => "SHOW search_path",
        };
        text.to_owned()
    }

    fn extended(&mut self, out: &mut Vec<u8>, dice: &mut Dice) {
        if dice.one_in(4) {
            // What drivers send of a statement that is not prepared.
            put_parse(out, b"", READ);
            bind(out, b"", b"", Some(dice.below(4)));
            message(out, b'D', |out| out.extend_from_slice(b"P\0"));
            run(out, b"", 0);
            return end(out, b'S');
        }
        let mut flushed = None;

        for _ in 0..=dice.below(3) {
            let name = [&b""[..], b"s1", b"s2"][dice.below(3)];
            let id = dice.below(4);
            match dice.below(14) {
                0..=2 => put_parse(out, name, READ),
                3 => put_parse(out, name, b"UPDATE t SET v = 1 WHERE id = $1\0\0\0"),
                4 => put_statement(out, b'C', name),
                5 => put_statement(out, b'D', name),
                6 => {
                    let mut text = self.text(dice);
                    if text.starts_with("EXECUTE s1") {
                        // Behind a Flush pgweir cannot give statements their own names without ending the transaction.
                        text = "EXECUTE p1".to_owned();
                    }
                    put_parse(out, b"", &[text.as_bytes(), b"\0\0\0"].concat());
                    execute(out, b"", b"", None);
                }
                7 => {
                    put_parse(out, b"", b"SELECT v FROM three\0\0\0");
                    bind(out, b"c", b"", None);
                    for _ in 0..=id {
                        run(out, b"c", 1 + dice.below(3) as u32);
                    }
                }
                8 => message(out, b'C', |out| out.extend_from_slice(b"Pc\0")),
                9 => {
                    // By itself: a READ ONLY block that must go on elsewhere does not take the portal of an earlier unit along.
                    end(out, b'S');
                    message(out, b'D', |out| out.extend_from_slice(b"P\0"));
                    end(out, b'S');
                }
                10 => execute(out, b"c", name, Some(id)),
                _ => {
                    execute(out, b"", name, Some(id));
                }
            }
            match dice.below(12) {
                0 | 1 => {
                    end(out, b'S');
                }
                2 => {
                    end(out, b'H');
                    flushed = Some(out.len()).filter(|_| dice.one_in(2)).or(flushed);
                }
                _ => {}
            }
        }
        end(out, b'S');
        if let Some(flushed) = flushed {
            self.rest = out.split_off(flushed);
            self.pause = Pause::Flush;
        }
    }

    /// A block is open, or failed; its COMMIT may stand behind an error.
    pub fn is_in_block(&self) -> bool {
        self.in_block || self.ghosts.iter().any(|ghost| ghost.now.status() != Status::Idle)
    }

    /// Everything was answered.
    pub fn is_quiet(&self) -> bool {
        self.units.is_empty()
    }

    /// The rest of a unit is to be sent.
    pub fn has_more(&self) -> bool {
        self.pause != Pause::None
    }

    /// The oldest unit is not answered, and the client hears so: if it was begun, any part of it may have been done.
    fn lose(&mut self, begun: Begun) {
        let Some(Unit { bytes: unit, promise }) = self.units.pop_front() else { return };
        let mut ghosts = Vec::new();
        for ghost in std::mem::take(&mut self.ghosts) {
            let mut partly = ghost.base;
            let mut without = partly.clone();
            without.process.statements.remove(&b""[..]);
            let mut steps = vec![partly.clone(), without];
            for message in messages(&unit).filter(|_| begun == Begun::Perhaps) {
                partly.on_bytes(message, &mut Ideal);
                steps.push(partly.clone());
                // Whether an unnamed statement was replaced is unknown: rather none than the wrong one.
                let mut without = partly.clone();
                without.process.statements.remove(&b""[..]);
                steps.push(without);
            }
            for (mut after, in_block) in steps.into_iter().flat_map(|step| [(step.clone(), true), (step, false)]) {
                if begun == Begun::No && !in_block {
                    continue;
                }
                after.lose(in_block);
                after.out.clear();
                // The answer ends as that to a Sync does; the unit in front is then an empty one.
                let mut expected = Vec::new();
                let mut base = after.clone();
                base.on_bytes(&SYNC, &mut Ideal);
                expected.append(&mut base.out);
                let later = Ghost::new(base, expected, &self.units);
                let ghost = Ghost { base: after, ..later };
                if !ghosts.contains(&ghost) {
                    ghosts.push(ghost);
                }
            }
        }
        self.rest_is_lost = self.units.is_empty() && self.pause != Pause::None;
        if self.rest_is_lost && unit[0] == b'Q' {
            // It is over; there is nothing to end.
            (self.pause, self.rest_is_lost) = (Pause::None, false);
        } else if self.rest_is_lost && self.pause != Pause::Flush {
            (self.pause, self.rest) = (Pause::Flush, SYNC.to_vec());
        }
        self.units.push_front(Unit { bytes: SYNC.to_vec(), promise });
        (self.ghosts, self.begun, self.told, self.value) = (ghosts, true, true, None);
        // It may have been lost that it asked for the last value.
        self.counted = false;
    }

    /// A statement of the oldest unit was cancelled: which one, the answer so far tells.
    fn cancel(&mut self) {
        for ghost in std::mem::take(&mut self.ghosts) {
            self.strike(&ghost, |base, struck| base.cancelled = Some(struck));
        }
    }

    /// A statement that the oldest unit uses in a block that failed may not be on the connection.
    fn miss(&mut self) {
        for ghost in self.ghosts.clone() {
            self.strike(&ghost, |base, struck| base.absent = Some(struck));
        }
    }

    /// A READ ONLY block that had to go on elsewhere did not take the unnamed portal of an earlier unit along.
    fn miss_portal(&mut self) {
        for ghost in self.ghosts.clone() {
            self.strike(&ghost, |base, _| base.leave_portal());
        }
    }

    /// What else the ideal server may be, by what was heard of it so far.
    fn strike(&mut self, ghost: &Ghost, strikes: impl Fn(&mut Backend, usize)) {
        for struck in 0..MOST_STATEMENTS {
            let mut base = ghost.base.clone();
            strikes(&mut base, struck);
            let mut later = Ghost::new(base, Vec::new(), &self.units);
            if later.expected.starts_with(&ghost.heard) {
                later.expected.drain(..ghost.heard.len());
                later.heard.clone_from(&ghost.heard);
                if !self.ghosts.contains(&later) {
                    self.ghosts.push(later);
                }
            }
        }
    }

    /// A connection was lost while nothing of the client's was under way: if there was a block, it can only be ended.
    pub fn lost_in_silence(&mut self) {
        if self.begun {
            return;
        }
        let in_block: Vec<Backend> =
            self.ghosts.iter().map(|ghost| ghost.base.clone()).filter(|base| base.status() != Status::Idle).collect();
        for mut base in in_block {
            base.lose(true);
            let ghost = Ghost::new(base, Vec::new(), &self.units);
            if !self.ghosts.contains(&ghost) {
                self.ghosts.push(ghost);
            }
        }
    }

    /// The message must be what one of the ideal servers says; the others are none.
    fn compare(&mut self, got: &[u8]) -> Result<(), String> {
        let mut wanted = Vec::new();
        self.ghosts.retain_mut(|ghost| {
            let Some(length) = whole(&ghost.expected) else {
                return false;
            };
            let expected: Vec<u8> = ghost.expected.drain(..length).collect();
            let masked = |mark| number(got, mark).is_some() && number(&expected, mark).is_some();
            ghost.heard.extend_from_slice(&expected);
            let same = match masked("v:") || masked("q:") {
                false => got == expected,
                true => got.len() == expected.len() && got[0] == expected[0],
            };
            wanted.push(show(&expected));
            same
        });
        if self.ghosts.is_empty() {
            wanted.dedup();
            return Err(format!("{} instead of one of {wanted:?}", show(got)));
        }
        if let Some(value) = number(got, "q:") {
            let known = self.value.replace(value);
            if got.ends_with(b"c") && known.is_some_and(|known| known != value) {
                return Err(format!("currval is {value}, but nextval was {known:?}"));
            }
        }
        self.counted |= contains(got, b"C55000\0");
        self.begun = got[0] != b'Z';
        match (got[0], self.pause) {
            _ if self.units.len() > 1 => {}
            (b'G', Pause::Copy) => self.pause = Pause::Copying,
            // It did not begin.
            (b'E', Pause::Copy) if self.rest[0] == b'P' => (self.pause, self.rest) = (Pause::Flush, SYNC.to_vec()),
            (b'E', Pause::Copy) => self.pause = Pause::None,
            _ => {}
        }
        if !self.begun {
            let unit = self.units.pop_front().map_or_else(Vec::new, |unit| unit.bytes);
            for ghost in &mut self.ghosts {
                ghost.base.on_bytes(&unit, &mut Ideal);
                ghost.base.out.clear();
                ghost.heard.clear();
            }
            if std::mem::take(&mut self.told) {
                self.in_block = self.ghosts.iter().any(|ghost| ghost.now.status() != Status::Idle);
            }
        }
        Ok(())
    }

    /// Compares what has arrived so far. The error says what is wrong.
    pub fn check(&mut self, world: &mut World, bereaved: bool, refused: &mut Vec<ClientError>) -> Result<(), String> {
        while let Some(length) = whole(&self.got) {
            let got: Vec<u8> = self.got.drain(..length).collect();
            // After something was forwarded a replica's error is the answer.
            let own =
                self.hears_early && self.begun && got[0] == b'E' && contains(&got, b"an error of the replica's own");
            let loss = got[0] == b'E' && [&b"C08006\0"[..], b"C08007\0"].iter().any(|code| contains(&got, code));
            if got[0] == b'E' && refused.first().is_some_and(|error| contains(&got, error.message.as_bytes())) {
                refused.remove(0);
                // A Close in front of a Flush was answered, and is done.
                self.lose(if self.begun { Begun::Perhaps } else { Begun::No });
                continue;
            }
            if (own || loss && bereaved) && !self.units.is_empty() {
                self.lose(Begun::Perhaps);
                continue;
            }
            if got[0] == b'E' && contains(&got, CANCELED.as_bytes()) {
                self.cancel();
            } else if contains(&got, b"C25P02\0") && !self.ghosts.iter().any(|ghost| ghost.expected.starts_with(&got)) {
                self.miss();
            } else if contains(&got, b"C34000\0Mportal \"\" ") {
                self.miss_portal();
            }
            let promise = self.units.front().map_or_else(Promise::default, |unit| unit.promise);
            self.compare(&got)?;
            let Some(shown) = number(&got, "v:").and_then(|number| world.history.shown(number)) else { continue };
            self.hold(&shown, &promise, world)?;
            self.seen = world.history.later(self.seen, shown.version);
            if got[0] == b'N' {
                world.acknowledged = world.history.later(world.acknowledged, shown.version);
            }
        }
        Ok(())
    }

    /// Holds what was shown against what was promised.
    fn hold(&self, shown: &Shown, promise: &Promise, world: &World) -> Result<(), String> {
        let session = matches!(promise.level, Some(level) if level != Consistency::Eventual);
        // A replica follows a promotion before pgweir hears of it, while the old primary lives on: nobody can tell.
        let split = |least: &Place| shown.writable && least.timeline > promise.timeline;
        for least in [promise.least, self.seen].into_iter().filter(|least| !split(least)) {
            if session && !world.history.holds(shown.snapshot, least) {
                return Err(format!("read at {:?}, promised {least:?} ({:?})", shown.snapshot, promise.level));
            }
        }
        let oldest = world.cluster.max_lag + shown.may.evicted;
        if shown.age > oldest {
            return Err(format!("what it read is {:?} old, evicted at {oldest:?}", shown.age));
        }
        match promise.max_lag {
            Some(most) if shown.age > most + shown.may.hinted => {
                Err(format!("what it read is {:?} old, asked for {most:?}", shown.age))
            }
            _ => Ok(()),
        }
    }
}

const HINTS: [&str; 8] = [
    "consistency=strict",
    "consistency=global",
    "consistency=eventual",
    "consistency=eventual",
    "max_lag=100ms",
    "max_lag=10ms",
    "primary",
    "replica",
];

const SETTINGS: [&str; 10] = [
    "SET pgweir.consistency TO 'eventual'",
    "SET pgweir.consistency TO 'eventual'",
    "SET pgweir.consistency TO 'global'",
    "SET pgweir.consistency TO 'strict'",
    "SET LOCAL pgweir.consistency TO 'strict'",
    "RESET pgweir.consistency",
    "RESET pgweir.consistency",
    "SET pgweir.route TO 'primary'",
    "SET pgweir.route TO 'replica'",
    "RESET pgweir.route",
];

fn strength(level: Consistency) -> u8 {
    match level {
        Consistency::Eventual => 0,
        Consistency::Session => 1,
        Consistency::Global => 2,
        Consistency::Strict => 3,
        Consistency::Primary => 4,
    }
}

/// Whether a unit that is not answered may have been begun.
#[derive(Clone, Copy, PartialEq)]
enum Begun {
    No,
    Perhaps,
}

/// Of one unit.
const MOST_STATEMENTS: usize = 24;

const SYNC: [u8; 5] = [b'S', 0, 0, 0, 4];

/// One message after the other.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (message, rest) = bytes.split_at(whole(bytes)?);
        bytes = rest;
        Some(message)
    })
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn whole(bytes: &[u8]) -> Option<usize> {
    let total = 1 + u32::from_be_bytes(bytes.get(1..5)?.try_into().ok()?) as usize;
    (bytes.len() >= total).then_some(total)
}

/// The number behind a mark.
fn number(message: &[u8], mark: &str) -> Option<u64> {
    let text = String::from_utf8_lossy(message);
    text[text.find(mark)? + 2..].get(..16)?.parse().ok()
}

fn show(message: &[u8]) -> String {
    String::from_utf8_lossy(message).escape_debug().to_string()
}
