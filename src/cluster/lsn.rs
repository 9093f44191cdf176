//! Pure: positions in the write-ahead log. An `Lsn` alone compares only within one timeline of one cluster;
//! a `Position` says which. Used by everyone who reasons about "has this replica replayed that?".

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log (manual: "pg_lsn Type").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A timeline ID; grows with every promotion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u32);

/// A position that can be compared with care: LSNs of different timelines share numbers but not history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    pub system: u64,
    pub timeline: Timeline,
    pub lsn: Lsn,
}

const BLOCK: u64 = 8192;
const LONG_HEADER: u64 = 40;
const SHORT_HEADER: u64 = 24;

impl Lsn {
    /// Takes an insert position that points just past a page header back to the page's start.
    ///
    /// When the last record ends exactly at a page's end, `pg_current_wal_insert_lsn()` already points behind the next
    /// page's header. No record byte can lie there, so no replica would ever reach it on an idle primary.
    pub fn normalized(self, segment_size: u64) -> Lsn {
        if segment_size > 0 && self.0 % segment_size == LONG_HEADER {
            return Lsn(self.0 - LONG_HEADER);
        }
        if self.0 % BLOCK == SHORT_HEADER {
            return Lsn(self.0 - SHORT_HEADER);
        }
        self
    }

    /// Bytes from `older` to `self`; 0 if `self` is not ahead.
    pub fn bytes_since(self, older: Lsn) -> u64 {
        self.0.saturating_sub(older.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text was not `XXXXXXXX/XXXXXXXX`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a log position; one looks like 16/B374D848")]
pub struct LsnError(pub String);

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Lsn, LsnError> {
        let wrong = || LsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| wrong())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| wrong())?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}
