//! Pure: what sending a unit changed in the session's statements, kept until the unit is over: what the server then ignored,
//! or a replica could not answer, or died with its connection, must leave the session as it was. Part of the machine.

use std::rc::Rc;

use super::machine::{Link, Machine};
use super::pipeline::{Closed, Owed, Parsed};
use super::statements::{Statement, Unnamed};
use super::work::Traces;
use crate::pool::state::UnnamedKey;

/// One change, by its opposite.
#[derive(Debug)]
pub(super) enum Undo {
    /// The name is new.
    Parsed(Box<[u8]>),
    /// The name was closed.
    Closed(Box<[u8]>, Statement),
    /// The unnamed statement was another one.
    Unnamed(Unnamed),
}

impl Machine {
    /// The unnamed statement is about to be another one, or none. What it was is kept if a message before this one may
    /// still fail, and this one be ignored with it.
    pub(super) fn forget_unnamed(&mut self) {
        if self.now.owed.is_empty() {
            self.statements.drop_unnamed();
        } else {
            self.now.undo.push(Undo::Unnamed(self.statements.take_unnamed()));
        }
    }

    /// An error in the extended protocol: nothing up to Sync will be answered, nothing in it was prepared.
    pub(super) fn on_skip(&mut self, link: &mut Link<'_>) {
        let skipped: Vec<Owed> = self.now.owed.skip_to_sync().collect();
        if let Some(Owed::Execute(Some(failed))) = skipped.first() {
            self.executed(Rc::clone(failed), link);
        }
        if self.now.owed.is_empty() {
            self.now.work.end = None;
            self.now.work.skipping = true;
        }
        if skipped.iter().any(|owed| matches!(owed, Owed::OurParse(_))) {
            // If statements were about to get their own names behind the error, they did not.
            self.traces.remove(Traces::OWN_NAMES);
        }
        self.take_back(skipped, |owed| take_back_on_server(owed, link));
    }

    /// What the session believed of messages that were not done. From the last to the first, as the statements that they
    /// closed come back; the first is the one that failed.
    pub(super) fn take_back(&mut self, undone: Vec<Owed>, mut each: impl FnMut(Owed)) {
        for (place, owed) in undone.into_iter().enumerate().rev() {
            let last = match &owed {
                Owed::Parse(Parsed::Named { name, .. }) => {
                    self.statements.remove(name);
                    self.now.undo.iter().rposition(|undo| matches!(undo, Undo::Parsed(new) if new == name))
                }
                Owed::Close(Closed::Statement) => {
                    self.now.undo.iter().rposition(|undo| matches!(undo, Undo::Closed(..)))
                }
                Owed::Parse(Parsed::Unnamed) | Owed::Close(Closed::Unnamed) | Owed::Query(_) if place == 0 => {
                    // The one before it is gone in any case.
                    self.statements.drop_unnamed();
                    None
                }
                Owed::Parse(Parsed::Unnamed) | Owed::Close(Closed::Unnamed) | Owed::Query(_) => {
                    self.now.undo.iter().rposition(|undo| matches!(undo, Undo::Unnamed(_)))
                }
                _ => None,
            };
            if let Some(at) = last {
                let undo = self.now.undo.remove(at);
                self.revert(undo);
            }
            each(owed);
        }
    }

    fn revert(&mut self, undo: Undo) {
        match undo {
            Undo::Parsed(name) => drop(self.statements.remove(&name)),
            Undo::Closed(name, statement) => self.statements.insert(&name, statement),
            Undo::Unnamed(unnamed) => self.statements.put_unnamed(unnamed),
        }
    }

    /// Takes back what sending the unit did to the session, so that it can be sent again.
    pub(super) fn undo(&mut self) {
        while let Some(undo) = self.now.undo.pop() {
            self.revert(undo);
        }
        self.now.owed.clear();
        self.now.aliases.clear();
    }
}

/// And what was believed of the server connection.
fn take_back_on_server(owed: Owed, link: &mut Link<'_>) {
    match owed {
        Owed::Parse(Parsed::Named { key, .. }) | Owed::OurParse(key) => drop(link.state.statements.remove(key)),
        // It failed, or was ignored and the one before it is still there: nobody's, so never used as it is.
        Owed::Parse(Parsed::Unnamed)
        | Owed::Close(Closed::Unnamed)
        | Owed::OurUnnamed
        | Owed::OurClose(None)
        | Owed::Query(_) => link.state.unnamed = Some(UnnamedKey::default()),
        // It was ignored, too, so the statement is still there.
        Owed::OurClose(Some(number)) => link.state.orphans.push(number),
        Owed::OurStandIn(number) => link.state.orphans.retain(|orphan| *orphan != number),
        _ => {}
    }
}
