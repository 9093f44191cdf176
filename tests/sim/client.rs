//! A client: what it sends, what the ideal server would have answered, and whether what it got is that.

use std::collections::VecDeque;

use pgweir::protocol::frontend::{message, put_parse, put_query, put_statement};

use super::backend::Backend;
use super::world::{Dice, Ideal};

/// One of the ideal servers that the client may be talking to: more than one after a loss whose outcome is unknown.
#[derive(Clone)]
struct Ghost {
    /// Before the oldest unit that is not answered.
    base: Backend,
    now: Backend,
    expected: Vec<u8>,
}

impl Ghost {
    /// As the base, with what follows of `units`.
    fn new(base: Backend, mut expected: Vec<u8>, units: &VecDeque<Vec<u8>>) -> Ghost {
        let mut now = base.clone();
        for unit in units {
            now.on_bytes(unit, &mut Ideal);
        }
        expected.append(&mut now.out);
        Ghost { base, now, expected }
    }
}

pub struct Client {
    ghosts: Vec<Ghost>,
    /// What is not answered, each with one ReadyForQuery to come.
    units: VecDeque<Vec<u8>>,
    /// Something of the oldest unit's answer has come.
    begun: bool,
    /// A loss was told: the status that follows says whether the block goes on.
    told: bool,
    pub got: Vec<u8>,
    /// The newest position that it has seen, as reader or writer.
    pub seen: u64,
    pub in_block: bool,
    pub left: usize,
}

fn execute(out: &mut Vec<u8>, statement: &[u8], value: Option<usize>) {
    message(out, b'B', |out| {
        out.push(0);
        out.extend_from_slice(statement);
        out.extend_from_slice(b"\0\0\0");
        match value.map(|value| value.to_string()) {
            Some(value) => {
                out.extend_from_slice(b"\0\x01");
                out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                out.extend_from_slice(value.as_bytes());
            }
            None => out.extend_from_slice(b"\0\0\0\0\0\0"),
        }
        out.extend_from_slice(b"\0\0");
    });
    message(out, b'E', |out| out.extend_from_slice(b"\0\0\0\0\0"));
}

impl Client {
    pub fn new() -> Client {
        let ghost = Ghost::new(Backend::default(), Vec::new(), &VecDeque::new());
        Client {
            ghosts: vec![ghost],
            units: VecDeque::new(),
            begun: false,
            told: false,
            got: Vec::new(),
            seen: 0,
            in_block: false,
            left: 12,
        }
    }

    /// The next unit; its answer by the ideal server is noted.
    pub fn next(&mut self, dice: &mut Dice) -> Vec<u8> {
        let mut out = Vec::new();
        if dice.one_in(3) {
            self.extended(&mut out, dice)
        } else {
            put_query(&mut out, self.text(dice).as_bytes())
        }
        self.left -= 1;
        for ghost in &mut self.ghosts {
            ghost.now.on_bytes(&out, &mut Ideal);
            ghost.expected.append(&mut ghost.now.out);
        }
        let mut unit = Vec::new();
        for message in messages(&out) {
            unit.extend_from_slice(message);
            if matches!(message[0], b'Q' | b'S') {
                self.units.push_back(std::mem::take(&mut unit));
            }
        }
        out
    }

    fn text(&mut self, dice: &mut Dice) -> String {
        let id = dice.below(4);
        if self.in_block && dice.one_in(3) {
            self.in_block = false;
            return ["COMMIT", "COMMIT", "ROLLBACK"][dice.below(3)].to_owned();
        }
        match dice.below(16) {
            0..=5 => format!("SELECT v FROM t WHERE id = {id}"),
            6..=8 if self.ghosts.iter().all(|ghost| ghost.now.is_clean()) => {
                format!("UPDATE t SET v = 1 WHERE id = {id}")
            }
            9 if !self.in_block => {
                self.in_block = true;
                ["BEGIN", "BEGIN READ ONLY"][dice.below(2)].to_owned()
            }
            10 => format!("SET search_path TO 'p{id}'"),
            11 => ["RESET search_path", "RESET ALL", "SET work_mem TO '64kB'"][dice.below(3)].to_owned(),
            12 => "SELECT nosuch()".to_owned(),
            13 if !self.in_block => {
                ["DISCARD ALL", "DEALLOCATE ALL", "DEALLOCATE s1", "SELECT loud_writer()"][id].to_owned()
            }
            _ => "SHOW search_path".to_owned(),
        }
    }

    fn extended(&mut self, out: &mut Vec<u8>, dice: &mut Dice) {
        // A statement without a result can be described even in a block that failed, if only it is on that connection; pgweir
        // may not have it there, and says 25P02.
        let failed = self.ghosts.iter().any(|ghost| ghost.now.is_failed());
        for _ in 0..=dice.below(3) {
            let (name, id) = ([&b""[..], b"s1", b"s2"][dice.below(3)], dice.below(4));
            match dice.below(7) {
                0..=1 => put_parse(out, name, b"SELECT v FROM t WHERE id = $1\0\0\0"),
                2 if !self.in_block => put_parse(out, name, b"UPDATE t SET v = 1 WHERE id = $1\0\0\0"),
                3 => put_statement(out, b'C', name),
                4 if !failed => put_statement(out, b'D', name),
                _ => execute(out, name, Some(id)),
            }
            if dice.one_in(5) {
                message(out, b'S', |_| {});
            }
        }
        message(out, b'S', |_| {});
    }

    /// Everything was answered.
    pub fn is_quiet(&self) -> bool {
        self.units.is_empty()
    }

    /// The oldest unit's connection was lost, and the client hears so: any part of the unit may have been done.
    fn lose(&mut self) {
        let unit = self.units.pop_front().unwrap_or_default();
        let mut ghosts = Vec::new();
        for ghost in std::mem::take(&mut self.ghosts) {
            let mut partly = ghost.base;
            let mut steps = vec![partly.clone()];
            for message in messages(&unit) {
                partly.on_bytes(message, &mut Ideal);
                steps.push(partly.clone());
                // Whether an unnamed statement was replaced is unknown: rather none than the wrong one.
                let mut without = partly.clone();
                without.statements.remove(&b""[..]);
                steps.push(without);
            }
            for (mut after, in_block) in steps.into_iter().flat_map(|step| [(step.clone(), true), (step, false)]) {
                after.lose(in_block);
                after.out.clear();
                // The answer ends as that to a Sync does; the unit in front is then an empty one.
                let sync = [b'S', 0, 0, 0, 4];
                let mut units = self.units.clone();
                units.push_front(sync.to_vec());
                ghosts.push(Ghost::new(after, Vec::new(), &units));
            }
        }
        self.units.push_front(vec![b'S', 0, 0, 0, 4]);
        (self.ghosts, self.begun, self.told) = (ghosts, true, true);
    }

    /// A connection was lost while nothing of the client's was under way: if there was a block, it can only be ended.
    pub fn lost_in_silence(&mut self) {
        if self.begun {
            return;
        }
        let in_block: Vec<Backend> =
            self.ghosts.iter().map(|ghost| ghost.base.clone()).filter(Backend::is_in_block).collect();
        for mut base in in_block {
            base.lose(true);
            self.ghosts.push(Ghost::new(base, Vec::new(), &self.units));
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
            let same = match position(got) {
                None => got == expected,
                Some(_) => got.len() == expected.len() && position(&expected).is_some() && got[0] == expected[0],
            };
            wanted.push(show(&expected));
            same
        });
        if self.ghosts.is_empty() {
            return Err(format!("{} instead of one of {wanted:?}", show(got)));
        }
        self.begun = got[0] != b'Z';
        if !self.begun {
            let unit = self.units.pop_front().unwrap_or_default();
            for ghost in &mut self.ghosts {
                ghost.base.on_bytes(&unit, &mut Ideal);
                ghost.base.out.clear();
            }
            if std::mem::take(&mut self.told) {
                self.in_block = self.ghosts.iter().any(|ghost| ghost.now.is_in_block());
            }
        }
        Ok(())
    }

    /// Compares what has arrived so far. The error says what is wrong.
    pub fn check(&mut self, level: u64, acknowledged: &mut u64, bereaved: bool) -> Result<(), String> {
        while let Some(length) = whole(&self.got) {
            let got: Vec<u8> = self.got.drain(..length).collect();
            let loss = got[0] == b'E' && [&b"C08006\0"[..], b"C08007\0"].iter().any(|code| contains(&got, code));
            if loss && bereaved && !self.units.is_empty() {
                self.lose();
                continue;
            }
            self.compare(&got)?;
            let Some((version, snapshot)) = position(&got) else { continue };
            let least = self.seen.max(level);
            if snapshot < least {
                return Err(format!("read at {snapshot}, promised {least}"));
            }
            self.seen = self.seen.max(version);
            if got[0] == b'N' {
                *acknowledged = (*acknowledged).max(version);
            }
        }
        Ok(())
    }
}

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

fn position(message: &[u8]) -> Option<(u64, u64)> {
    let text = String::from_utf8_lossy(message);
    let rest = &text[text.find("v:")? + 2..];
    Some((rest.get(..16)?.parse().ok()?, rest.get(17..33)?.parse().ok()?))
}

fn show(message: &[u8]) -> String {
    String::from_utf8_lossy(message).escape_debug().to_string()
}
