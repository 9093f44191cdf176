//! Pure: bytes ↔ messages, in the words of the manual's "Frontend/Backend Protocol" chapter. Used by sessions and pools.
//! Readers here are bounds-checked and ours; what pgweir originates is encoded by pgwire's message structs.

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod sqlstate;

/// ReadyForQuery's status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

impl TransactionStatus {
    /// `I`, `T` or `E`; `None` for any other byte.
    pub fn from_byte(byte: u8) -> Option<TransactionStatus> {
        match byte {
            b'I' => Some(TransactionStatus::Idle),
            b'T' => Some(TransactionStatus::InTransaction),
            b'E' => Some(TransactionStatus::Failed),
            _ => None,
        }
    }

    pub fn to_byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }
}
