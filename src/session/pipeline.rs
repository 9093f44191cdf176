//! Pure: requests sent and the replies still owed, in order, up to Sync (manual: "Extended Query" and "Pipelining").
//! The machine pushes an entry for every message that it sends and pops it when the reply is complete.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::pool::state::StatementKey;
use crate::sql::Verdict;

/// One reply that a node owes.
#[derive(Clone, Debug, PartialEq)]
pub enum Owed {
    /// The client's Query, up to ReadyForQuery. The verdict only if its acts must be accounted for.
    Query(Option<Rc<Verdict>>),
    /// A Query of ours: swallowed up to its ReadyForQuery.
    Ours(Ours),
    /// The client's Parse. What to undo if it fails.
    Parse(Parsed),
    /// The client's Parse of what the server connection has prepared: we answer it in front of the next reply.
    Known,
    Bind,
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    DescribePortal,
    Execute(Option<Rc<Verdict>>),
    /// The client's Close.
    Close(Closed),
    Sync,
    FunctionCall,
    /// A Parse of ours in front of a Bind or Describe; its ParseComplete is swallowed, its error is the client's.
    OurParse(StatementKey),
    /// A Parse of ours of an empty text, to be deallocated in the place of a statement that may not be here.
    OurStandIn(u32),
    /// A Parse of ours of the session's unnamed statement.
    OurUnnamed,
    /// A Close of ours, of a statement with this number or of the unnamed one; its CloseComplete is swallowed.
    OurClose(Option<u32>),
}

/// Why we sent a Query of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ours {
    /// The settings' difference.
    Settings,
    /// The transaction's BEGIN that the client was already told to be done.
    Begin,
    /// Sequence state of another session is dropped.
    Discard,
    /// A READ ONLY transaction leaves its replica.
    Rollback,
    /// A block that fails at once, in the place of one that was lost.
    Doom,
    /// The end of a failed block that the client is about to end.
    End,
    Audit,
    /// Whether the replica has replayed what the unit behind it must see.
    Proof,
}

/// What a Close was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The session has forgotten the statement already; it is in the undo list.
    Statement,
    Unnamed,
    Other,
}

/// A Parse under way.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    Unnamed,
    /// Known to the session as `name`, to the server connection by the key.
    Named {
        name: Box<[u8]>,
        key: StatementKey,
    },
    /// Expected to fail: the client used the name of a statement that it has.
    Duplicate,
}

/// The replies owed, oldest first.
#[derive(Debug, Default)]
pub struct Pipeline {
    owed: VecDeque<Owed>,
}

impl Pipeline {
    pub fn push(&mut self, owed: Owed) {
        self.owed.push_back(owed);
    }

    pub fn front(&self) -> Option<&Owed> {
        self.owed.front()
    }

    pub fn last(&self) -> Option<&Owed> {
        self.owed.back()
    }

    pub fn pop(&mut self) -> Option<Owed> {
        self.owed.pop_front()
    }

    /// Something of ours stands in front of what the client asked: a Query, or messages with a Sync behind them.
    pub fn begins_with_ours(&self) -> bool {
        let is_part = |owed: &&Owed| {
            matches!(owed, Owed::OurParse(_) | Owed::OurClose(_) | Owed::OurStandIn(_) | Owed::OurUnnamed)
        };
        matches!(self.owed.iter().find(|owed| !is_part(owed)), Some(Owed::Ours(_)))
    }

    /// What failed is a request of ours with a Sync of its own behind it.
    pub fn fails_alone(&self) -> bool {
        matches!((self.owed.front(), self.owed.get(1)), (Some(Owed::OurParse(_)), Some(Owed::Ours(_))))
    }

    /// Nothing will be answered any more.
    pub fn take(&mut self) -> Vec<Owed> {
        std::mem::take(&mut self.owed).into()
    }

    /// The texts with acts that are being executed.
    pub fn texts(&self) -> impl Iterator<Item = &Rc<Verdict>> {
        self.owed.iter().filter_map(|owed| match owed {
            Owed::Query(verdict) | Owed::Execute(verdict) => verdict.as_ref(),
            _ => None,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    pub fn len(&self) -> usize {
        self.owed.len()
    }

    pub fn clear(&mut self) {
        self.owed.clear();
    }

    /// COPY FROM STDIN began: a Sync that was sent behind its Execute is ignored by the server. True if there was one.
    pub fn drop_sync_behind_execute(&mut self) -> bool {
        let behind = matches!(self.owed.get(1), Some(Owed::Sync));
        if behind {
            self.owed.remove(1);
        }
        behind
    }

    /// After an error in the extended protocol the server skips everything up to Sync. Returns what will not be
    /// answered, the failed one first; the Sync itself stays, if it was sent already. A Sync of ours is as good.
    pub fn skip_to_sync(&mut self) -> impl Iterator<Item = Owed> + '_ {
        let end = self.owed.iter().position(|owed| matches!(owed, Owed::Sync | Owed::Ours(_)));
        self.owed.drain(..end.unwrap_or(self.owed.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seed 60 of the simulation: a cancel was let through while statements got their own names, struck the BEGIN of ours
    /// behind them, and the session ended.
    #[test]
    fn what_has_a_sync_of_ours_behind_it_is_ours() {
        let pipeline = |owed: &[Owed]| Pipeline { owed: owed.iter().cloned().collect() };
        let (close, begin, query) = (Owed::OurClose(Some(1)), Owed::Ours(Ours::Begin), Owed::Query(None));
        assert!(pipeline(&[close.clone(), begin.clone(), query.clone()]).begins_with_ours());
        assert!(!pipeline(&[close.clone(), Owed::Bind, Owed::Sync]).begins_with_ours());
        assert!(!pipeline(&[query, close, begin]).begins_with_ours());
        assert!(!pipeline(&[]).begins_with_ours());
    }
}
