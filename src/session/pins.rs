//! Pure: why this session must keep its server connection. The machine adds a pin when a statement leaves something in the
//! server process, and replaces the auditable ones by what an audit of the process found.

use crate::sql::Pin;

/// A small set of pins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u16);

const ALL: [Pin; 12] = [
    Pin::TempObjects,
    Pin::HoldCursor,
    Pin::AdvisoryLock,
    Pin::Listen,
    Pin::SqlPrepare,
    Pin::RandomSeed,
    Pin::Sequence,
    Pin::BackendPid,
    Pin::Load,
    Pin::ReplicationOrigin,
    Pin::Opaque,
    Pin::SessionPooling,
];

impl Pins {
    pub fn insert(&mut self, pin: Pin) {
        self.0 |= 1 << pin as u16;
    }

    pub fn remove(&mut self, pin: Pin) {
        self.0 &= !(1 << pin as u16);
    }

    pub fn contains(self, pin: Pin) -> bool {
        self.0 & (1 << pin as u16) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Nothing in the server process would be missed.
    pub fn hold_nothing(mut self) -> bool {
        self.remove(Pin::SessionPooling);
        self.is_empty()
    }

    pub fn iter(self) -> impl Iterator<Item = Pin> {
        ALL.into_iter().filter(move |pin| self.contains(*pin))
    }

    /// What a read may depend on: it must then run where the pin is. Who asked for the process may cancel or end it, and
    /// means whatever it is doing.
    pub fn hold_reads(self) -> bool {
        [Pin::TempObjects, Pin::RandomSeed, Pin::Opaque, Pin::BackendPid].into_iter().any(|pin| self.contains(pin))
    }

    /// What DISCARD ALL does not undo: the connection cannot serve another session afterwards.
    pub fn spoil(self) -> bool {
        [Pin::RandomSeed, Pin::Load, Pin::ReplicationOrigin, Pin::Opaque].into_iter().any(|pin| self.contains(pin))
    }

    /// An audit tells whether the process has it.
    pub fn are_audited(pin: Pin) -> bool {
        AUDITED.contains(&pin)
    }

    /// Replaces everything that an audit sees by what it saw.
    pub fn audited(&mut self, found: Pins) {
        for pin in AUDITED {
            self.remove(pin);
        }
        self.0 |= found.0;
    }
}

const AUDITED: [Pin; 6] =
    [Pin::TempObjects, Pin::HoldCursor, Pin::AdvisoryLock, Pin::Listen, Pin::SqlPrepare, Pin::Opaque];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_replaces_what_it_can_see_and_nothing_else() {
        let mut pins = Pins::default();
        pins.insert(Pin::TempObjects);
        pins.insert(Pin::RandomSeed);
        let mut found = Pins::default();
        found.insert(Pin::Listen);
        pins.audited(found);
        assert_eq!(pins.iter().collect::<Vec<_>>(), [Pin::Listen, Pin::RandomSeed]);
        assert!(pins.hold_reads() && pins.spoil());
    }

    /// node-postgres' suite ends a process by the number that the session itself was told, while the session sleeps.
    #[test]
    fn who_asked_for_the_process_keeps_its_reads_there() {
        let mut pins = Pins::default();
        pins.insert(Pin::Listen);
        assert!(!pins.hold_reads());
        pins.insert(Pin::BackendPid);
        assert!(pins.hold_reads());
    }

    #[test]
    fn every_pin_has_a_place() {
        for pin in ALL {
            let mut pins = Pins::default();
            pins.insert(pin);
            assert_eq!(pins.iter().collect::<Vec<_>>(), [pin]);
        }
    }
}
