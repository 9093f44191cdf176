//! A client: what it sends, what the ideal server would have answered, and whether what it got is that.

use pgweir::protocol::frontend::{message, put_parse, put_query, put_statement};

use super::backend::Backend;
use super::world::{Dice, Ideal};

pub struct Client {
    ideal: Backend,
    pub expected: Vec<u8>,
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
        Client { ideal: Backend::default(), expected: Vec::new(), got: Vec::new(), seen: 0, in_block: false, left: 12 }
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
        self.ideal.on_bytes(&out, &mut Ideal);
        self.expected.append(&mut self.ideal.out);
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
            6..=8 if self.ideal.is_clean() => format!("UPDATE t SET v = 1 WHERE id = {id}"),
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
        for _ in 0..=dice.below(3) {
            let (name, id) = ([&b""[..], b"s1", b"s2"][dice.below(3)], dice.below(4));
            match dice.below(7) {
                // Each name has its own text: an error about one of two names for one text names the first (known, open).
                0..=2 if name != b"s2" => put_parse(out, name, b"SELECT v FROM t WHERE id = $1\0\0\0"),
                0..=2 if !self.in_block => put_parse(out, name, b"UPDATE t SET v = 1 WHERE id = $1\0\0\0"),
                3 => put_statement(out, b'C', name),
                4 => put_statement(out, b'D', name),
                _ => execute(out, name, Some(id)),
            }
            if dice.one_in(5) {
                message(out, b'S', |_| {});
            }
        }
        message(out, b'S', |_| {});
    }

    /// Compares what has arrived so far. The error says what is wrong.
    pub fn check(&mut self, level: u64, acknowledged: &mut u64) -> Result<(), String> {
        while let Some(length) = whole(&self.got) {
            let got: Vec<u8> = self.got.drain(..length).collect();
            let Some(length) = whole(&self.expected) else {
                return Err(format!("nothing more was owed, but {} came", show(&got)));
            };
            let expected: Vec<u8> = self.expected.drain(..length).collect();
            let Some((version, snapshot)) = position(&got) else {
                if got != expected {
                    return Err(format!("{} instead of {}", show(&got), show(&expected)));
                }
                continue;
            };
            if got.len() != expected.len() || position(&expected).is_none() || got[0] != expected[0] {
                return Err(format!("{} instead of {}", show(&got), show(&expected)));
            }
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
