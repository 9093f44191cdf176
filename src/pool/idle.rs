//! What a node says to a connection that nobody uses. Checkout and housekeeping look; usually there is nothing, which
//! costs no system call.
//!
//! An idle server process may report a changed setting or a notice; anything else, and above all the end of the stream,
//! makes the connection useless (manual: "Asynchronous Operations").

use std::io;

use super::connection::ServerConnection;
use crate::protocol::backend;

/// pg_terminate_backend, or the node shuts down.
const ADMIN_SHUTDOWN: &[u8] = b"57P01";

/// More than this while idle is nothing that PostgreSQL does.
const MOST: usize = 64 * 1024;

/// What became of an idle connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    Nothing,
    /// Close it.
    Useless,
    /// Close it: an administrator ended its process, with this ErrorResponse's body as the last words.
    Ended(&'a [u8]),
}

/// Reads what arrived while idle.
pub(super) fn listen<'a>(connection: &mut ServerConnection, scratch: &'a mut [u8]) -> Heard<'a> {
    if !connection.stream.has_input() {
        return Heard::Nothing;
    }
    let mut filled = 0;
    let limit = scratch.len().min(MOST);
    while filled < limit {
        match connection.stream.read_now(&mut scratch[filled..limit]) {
            // What it said before it closed.
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return hear(connection, &scratch[..filled]),
            Err(_) => break,
        }
    }
    match hear(connection, &scratch[..filled]) {
        Heard::Nothing => Heard::Useless,
        heard => heard,
    }
}

/// Takes note of whole asynchronous messages. Half a message would leave its rest to the next session: not usable.
fn hear<'a>(connection: &mut ServerConnection, mut bytes: &'a [u8]) -> Heard<'a> {
    while !bytes.is_empty() {
        let Some((tag, body, rest)) = cut(bytes) else { return Heard::Useless };
        match tag {
            b'N' => {}
            // Sessions that LISTEN keep their connection, so this is for one that is gone.
            b'A' => {}
            b'S' => {
                let mut words = body.split(|byte| *byte == 0);
                let (Some(name), Some(value)) = (words.next(), words.next()) else { return Heard::Useless };
                connection.set_parameter(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
            }
            b'E' if backend::error_field(body, b'C') == Some(ADMIN_SHUTDOWN) => return Heard::Ended(body),
            _ => return Heard::Useless,
        }
        bytes = rest;
    }
    if connection.contradicts().is_none() { Heard::Nothing } else { Heard::Useless }
}

/// The first message: its type, its body, what follows.
fn cut(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let (body, rest) = rest.split_at_checked(length.checked_sub(4)?)?;
    Some((head[0], body, rest))
}
