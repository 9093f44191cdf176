//! Pure: cuts length-prefixed messages from a buffer (manual: "Message Formats"). The session and the pool call it for
//! every byte that crosses; it never copies and never looks into a body.

/// Bytes of the type byte and the length word.
pub const HEADER: usize = 5;

/// The longest message that PostgreSQL accepts, without its type byte (`PQ_LARGE_MESSAGE_LIMIT`).
pub const LARGE_LIMIT: usize = 0x3fff_ffff;

/// The longest of the messages that have no reason to be long (`PQ_SMALL_MESSAGE_LIMIT`).
pub const SMALL_LIMIT: usize = 10_000;

/// The first five bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Bytes of the whole message, type byte included.
    pub total: usize,
}

/// The peer does not speak the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("invalid message length")]
    Length { tag: u8 },
    #[error("invalid frontend message type {0}")]
    Type(u8),
}

/// The next message's header, or `None` while fewer than five bytes are there.
#[inline]
pub fn header(input: &[u8]) -> Result<Option<Header>, FrameError> {
    let [tag, a, b, c, d, ..] = *input else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(4..=LARGE_LIMIT).contains(&length) {
        return Err(FrameError::Length { tag });
    }
    Ok(Some(Header { tag, total: length + 1 }))
}

/// As [`header`], with PostgreSQL's checks of what a client may send (`SocketBackend`).
#[inline]
pub fn frontend_header(input: &[u8]) -> Result<Option<Header>, FrameError> {
    let Some(&tag) = input.first() else {
        return Ok(None);
    };
    let limit = match tag {
        b'Q' | b'P' | b'B' | b'F' | b'd' | b'f' => LARGE_LIMIT,
        b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' => SMALL_LIMIT,
        _ => return Err(FrameError::Type(tag)),
    };
    match header(input)? {
        Some(header) if header.total - 1 > limit => Err(FrameError::Length { tag }),
        header => Ok(header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_five_bytes_and_a_sane_length() {
        assert_eq!(header(b"Q\0\0\0"), Ok(None));
        assert_eq!(header(b"Q\0\0\0\x04"), Ok(Some(Header { tag: b'Q', total: 5 })));
        assert_eq!(header(b"Q\0\0\0\x03"), Err(FrameError::Length { tag: b'Q' }));
        assert_eq!(header(b"Q\xff\xff\xff\xff"), Err(FrameError::Length { tag: b'Q' }));
        assert_eq!(header(b"Q\x3f\xff\xff\xff"), Ok(Some(Header { tag: b'Q', total: 0x4000_0000 })));
        assert_eq!(header(b"Q\x40\0\0\0"), Err(FrameError::Length { tag: b'Q' }));
    }

    #[test]
    fn a_client_may_send_only_known_messages_of_their_length() {
        assert_eq!(frontend_header(b"z"), Err(FrameError::Type(b'z')));
        assert_eq!(frontend_header(b"S\0\0\x27\x11"), Err(FrameError::Length { tag: b'S' }));
        assert_eq!(frontend_header(b"S\0\0\0\x04"), Ok(Some(Header { tag: b'S', total: 5 })));
    }
}
