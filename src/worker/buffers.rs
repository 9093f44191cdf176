//! Room for a session's bytes on their way. A session at rest has none: its worker lends it to whoever has bytes, and keeps
//! the memory for the next one. Sessions take and give it back in their loop; nothing here does I/O.

use std::ops::{Deref, DerefMut};

/// What one session has of bytes that it could not pass on at once.
#[derive(Debug, Default)]
pub struct Buffers {
    /// The client's, that could not be dealt with yet.
    pub inbox: Vec<u8>,
    pub client_out: Vec<u8>,
    pub server_out: Vec<u8>,
    /// A message of the node whose end has not arrived.
    pub server_in: Vec<u8>,
    /// The client's bytes of the unit under way, while it may have to be sent once more.
    pub request: Vec<u8>,
    /// A replica's reply, while another node may still be asked.
    pub reply: Vec<u8>,
}

const NONE: &Buffers = &Buffers {
    inbox: Vec::new(),
    client_out: Vec::new(),
    server_out: Vec::new(),
    server_in: Vec::new(),
    request: Vec::new(),
    reply: Vec::new(),
};

impl Buffers {
    /// Nothing is left to be passed on; what may have to be sent once more counts no more then.
    pub fn is_drained(&self) -> bool {
        let on_their_way = [&self.inbox, &self.client_out, &self.server_out, &self.server_in];
        on_their_way.into_iter().all(|buffer| buffer.is_empty())
    }

    /// For the next session: no bytes, and no more memory than small messages take.
    pub(super) fn clear(&mut self) {
        let Buffers { inbox, client_out, server_out, server_in, request, reply } = self;
        for buffer in [inbox, client_out, server_out, server_in, request, reply] {
            buffer.clear();
            buffer.shrink_to(super::SCRATCH);
        }
    }
}

/// A session's buffers, lent or not: without them it has no bytes, and whoever writes into one has new ones.
#[derive(Debug, Default)]
pub struct Lent(Option<Box<Buffers>>);

impl Lent {
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    pub fn put(&mut self, buffers: Box<Buffers>) {
        self.0 = Some(buffers);
    }

    pub fn take(&mut self) -> Option<Box<Buffers>> {
        self.0.take()
    }
}

impl Deref for Lent {
    type Target = Buffers;

    fn deref(&self) -> &Buffers {
        self.0.as_deref().unwrap_or(NONE)
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Buffers {
        self.0.get_or_insert_default()
    }
}
