//! Verdicts by text, one cache for each worker, bounded in bytes. The session asks it for every Query and Parse; a hit
//! allocates nothing. It holds verdicts only, never parse trees.
//!
//! The key is the text without literals itself, compared byte by byte, so that no two texts can be confused by a hash.
//! Where the verdict was made by looking at a literal, the entry under that key only says so, and the verdict lies under
//! the whole text. Entries go in the order of a clock: one round without a hit, and the entry is out.

use std::collections::HashMap;
use std::rc::Rc;

use super::findings::Literals;
use super::regulars::Regulars;
use super::{Act, Effect, Lexis, Reason, Verdict, classify, fingerprint, hint};
use crate::catalog::Catalog;

/// Keys of texts as they are begin with this, keys without literals do not: no token begins with it.
const AS_IS: u8 = 0x00;

/// Bytes that an entry costs besides its key and its verdict's own strings: map slot, boxes and counters.
const OVERHEAD: usize = 160;

type Map = HashMap<Rc<[u8]>, usize, foldhash::fast::RandomState>;

pub struct VerdictCache {
    /// Longer texts are not read at all.
    parsed_statement: usize,
    limit: usize,
    bytes: usize,
    index: Map,
    slots: Vec<Slot>,
    /// Where the clock's hand stands.
    hand: usize,
    /// The key being built; reused, so that a hit allocates nothing.
    key: Vec<u8>,
    unusual: Rc<Verdict>,
    /// How often something was learned; see `edition`.
    lessons: u64,
    stats: Stats,
    /// Of unnamed statements, to know which are worth being kept prepared.
    pub regulars: Regulars,
}

/// Counted for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub hits: u64,
    pub misses: u64,
    /// Texts that went through the full parser.
    pub parsed: u64,
    pub evicted: u64,
}

struct Slot {
    key: Rc<[u8]>,
    version: u64,
    answer: Stored,
    bytes: usize,
    touched: bool,
}

#[derive(Clone)]
enum Stored {
    Verdict(Rc<Verdict>),
    /// Look under the whole text: a literal matters.
    AsIs,
}

impl VerdictCache {
    pub fn new(bytes: usize, parsed_statement: usize) -> VerdictCache {
        let unusual = Verdict {
            effect: Effect::Primary,
            reason: Reason::Unparsed("the session's encoding or standard_conforming_strings is unusual".to_owned()),
            // The text is not read: it may be anything, a change of the catalog included.
            acts: vec![Act::Audit, Act::Sequence, Act::Ddl],
            hint: None,
            statements: 1,
        };
        VerdictCache {
            parsed_statement,
            limit: bytes,
            bytes: 0,
            index: Map::default(),
            slots: Vec::new(),
            hand: 0,
            key: Vec::new(),
            unusual: Rc::new(unusual),
            lessons: 0,
            stats: Stats::default(),
            regulars: Regulars::default(),
        }
    }

    /// What the text would do, by the catalog's snapshot.
    pub fn verdict(&mut self, sql: &[u8], catalog: &Catalog, lexis: Lexis) -> Rc<Verdict> {
        if lexis == Lexis::Unusual {
            return Rc::clone(&self.unusual);
        }
        if sql.len() > self.parsed_statement {
            return self.unparsed(sql);
        }
        if self.key_without_literals(sql, catalog.id) {
            match self.find(catalog.version) {
                Some(Stored::Verdict(verdict)) => return verdict,
                Some(Stored::AsIs) => {}
                None => return self.classify_without_literals(sql, catalog),
            }
        }
        self.key_as_is(sql, catalog.id);
        match self.find(catalog.version) {
            Some(Stored::Verdict(verdict)) => verdict,
            Some(Stored::AsIs) | None => {
                let (verdict, _) = self.classify(sql, catalog);
                self.store(Stored::Verdict(Rc::clone(&verdict)), catalog.version);
                verdict
            }
        }
    }

    /// Of a text that is longer than is read, or of the part of one that is there.
    pub fn unparsed(&self, sql: &[u8]) -> Rc<Verdict> {
        let text = String::from_utf8_lossy(sql);
        Rc::new(classify::unread(&text, "it is longer than limits.parsed_statement"))
    }

    /// A replica refused this text as a write although it was let go there: the snapshot does not tell what it does. Until
    /// there is another one the text goes to the primary.
    pub fn learn(&mut self, sql: &[u8], catalog: &Catalog) {
        let verdict = self.verdict(sql, catalog, Lexis::Standard);
        if verdict.effect != Effect::Read {
            return;
        }
        // `key` is still the one that this verdict lies under.
        let learned = Verdict { effect: Effect::Primary, reason: Reason::Learned, ..(*verdict).clone() };
        self.store(Stored::Verdict(Rc::new(learned)), catalog.version);
        self.lessons += 1;
    }

    /// Verdicts that somebody keeps are good for as long as this number stays: it is another one when the catalog
    /// changed or something was learned.
    pub fn edition(&self, catalog: &Catalog) -> u64 {
        catalog.version ^ (self.lessons << 40)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What was counted since the last call.
    pub fn take_stats(&mut self) -> Stats {
        std::mem::take(&mut self.stats)
    }

    /// The key's first bytes tell the database: workers serve many.
    fn begin_key(&mut self, id: u32) {
        self.key.clear();
        self.key.extend_from_slice(&id.to_ne_bytes());
    }

    /// Whether the text could be cut; if not, `key` is unfinished.
    fn key_without_literals(&mut self, sql: &[u8], id: u32) -> bool {
        self.begin_key(id);
        // Comments do not count, but a hint in front of the text does, and only there can one be.
        if matches!(sql.iter().find(|b| !b.is_ascii_whitespace()), Some(b'/' | b'-'))
            && let Ok(text) = std::str::from_utf8(sql)
            && hint::leading(text).is_some()
        {
            return false;
        }
        let start = self.key.len();
        let cut = fingerprint::normalize(sql, &mut self.key).is_ok();
        cut && self.key.get(start) != Some(&AS_IS)
    }

    fn key_as_is(&mut self, sql: &[u8], id: u32) {
        self.begin_key(id);
        self.key.push(AS_IS);
        self.key.extend_from_slice(sql);
    }

    fn find(&mut self, version: u64) -> Option<Stored> {
        let slot = &mut self.slots[*self.index.get(self.key.as_slice())?];
        if slot.version != version {
            return None;
        }
        slot.touched = true;
        self.stats.hits += u64::from(matches!(slot.answer, Stored::Verdict(_)));
        Some(slot.answer.clone())
    }

    fn classify(&mut self, sql: &[u8], catalog: &Catalog) -> (Rc<Verdict>, Literals) {
        self.stats.misses += 1;
        match std::str::from_utf8(sql) {
            Ok(text) => {
                self.stats.parsed += 1;
                let classified = classify::examine(text, catalog);
                (Rc::new(classified.verdict), classified.literals)
            }
            Err(_) => (Rc::new(classify::unread(&String::from_utf8_lossy(sql), "it is not UTF-8")), Literals::Matter),
        }
    }

    /// `key` is the one without literals.
    fn classify_without_literals(&mut self, sql: &[u8], catalog: &Catalog) -> Rc<Verdict> {
        let (verdict, literals) = self.classify(sql, catalog);
        match literals {
            Literals::Irrelevant => self.store(Stored::Verdict(Rc::clone(&verdict)), catalog.version),
            Literals::Matter => {
                self.store(Stored::AsIs, catalog.version);
                self.key_as_is(sql, catalog.id);
                self.store(Stored::Verdict(Rc::clone(&verdict)), catalog.version);
            }
        }
        verdict
    }

    fn store(&mut self, answer: Stored, version: u64) {
        let bytes = OVERHEAD + self.key.len() + size(&answer);
        if bytes > self.limit {
            return;
        }
        if let Some(&at) = self.index.get(self.key.as_slice()) {
            let slot = &mut self.slots[at];
            self.bytes = self.bytes - slot.bytes + bytes;
            (slot.answer, slot.version, slot.bytes) = (answer, version, bytes);
        } else {
            let key: Rc<[u8]> = Rc::from(self.key.as_slice());
            self.index.insert(Rc::clone(&key), self.slots.len());
            self.slots.push(Slot { key, version, answer, bytes, touched: false });
            self.bytes += bytes;
        }
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.limit && !self.slots.is_empty() {
            self.hand = if self.hand >= self.slots.len() { 0 } else { self.hand };
            let slot = &mut self.slots[self.hand];
            if slot.touched {
                slot.touched = false;
                self.hand += 1;
                continue;
            }
            let gone = self.slots.swap_remove(self.hand);
            self.index.remove(&gone.key);
            if let Some(moved) = self.slots.get(self.hand) {
                self.index.insert(Rc::clone(&moved.key), self.hand);
            }
            self.bytes -= gone.bytes;
            self.stats.evicted += 1;
        }
    }
}

fn size(answer: &Stored) -> usize {
    match answer {
        Stored::AsIs => 0,
        Stored::Verdict(verdict) => {
            let strings: usize = verdict.acts.iter().map(act_size).sum();
            size_of::<Verdict>() + verdict.acts.len() * size_of::<Act>() + strings + verdict.reason.to_string().len()
        }
    }
}

fn act_size(act: &Act) -> usize {
    match act {
        Act::Set { name, value } => name.len() + value.len(),
        Act::Reset { name } | Act::Deallocate { name } => name.len(),
        _ => 0,
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
