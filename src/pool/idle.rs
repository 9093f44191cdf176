//! What a node says to a connection that nobody uses. Checkout and housekeeping look; usually there is nothing, which
//! costs no system call.
//!
//! An idle server process may report a changed setting or a notice; anything else, and above all the end of the stream,
//! makes the connection useless (manual: "Asynchronous Operations").

use std::io;

use super::connection::ServerConnection;

/// More than this while idle is nothing that PostgreSQL does.
const MOST: usize = 64 * 1024;

/// Reads what arrived while idle. `false`: close it.
pub(super) fn is_usable(connection: &mut ServerConnection, scratch: &mut [u8]) -> bool {
    if !connection.stream.has_input() {
        return true;
    }
    let mut filled = 0;
    let limit = scratch.len().min(MOST);
    loop {
        if filled == limit {
            return false;
        }
        match connection.stream.read_now(&mut scratch[filled..limit]) {
            Ok(0) => return false,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return false,
        }
    }
    hear(connection, &scratch[..filled])
}

/// Takes note of whole asynchronous messages. Half a message would leave its rest to the next session: not usable.
fn hear(connection: &mut ServerConnection, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Some((tag, body, rest)) = cut(bytes) else { return false };
        match tag {
            b'N' => {}
            // Sessions that LISTEN keep their connection, so this is for one that is gone.
            b'A' => {}
            b'S' => {
                let mut words = body.split(|byte| *byte == 0);
                let (Some(name), Some(value)) = (words.next(), words.next()) else { return false };
                connection.set_parameter(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
            }
            _ => return false,
        }
        bytes = rest;
    }
    connection.contradicts().is_none()
}

/// The first message: its type, its body, what follows.
fn cut(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let (body, rest) = rest.split_at_checked(length.checked_sub(4)?)?;
    Some((head[0], body, rest))
}
