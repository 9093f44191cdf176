//! Pure: bounds-checked readers of the frontend messages that pgweir looks inside, and writers of the few that it sends
//! to nodes on a session's behalf. A body that does not have the manual's shape is `None`: the node then says what is wrong.

/// A NUL-terminated string at the front of `body`, without the NUL, and what follows it.
fn cstring(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, body)?;
    Some((&body[..end], &body[end + 1..]))
}

/// Query: the text, which must be the whole body up to its NUL.
pub fn query(body: &[u8]) -> Option<&[u8]> {
    match cstring(body)? {
        (text, []) => Some(text),
        _ => None,
    }
}

/// Parse (manual: "Message Formats").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub text: &'a [u8],
    /// From the text to the end of the body: the text, its NUL, and the parameter types.
    pub rest: &'a [u8],
}

pub fn parse(body: &[u8]) -> Option<Parse<'_>> {
    let (name, rest) = cstring(body)?;
    let (text, types) = cstring(rest)?;
    let count = u16::from_be_bytes(types.get(..2)?.try_into().ok()?) as usize;
    (types.len() == 2 + 4 * count).then_some(Parse { name, text, rest })
}

/// The parameter types that a Parse declares: those in a body from the text on, which `parse` has read whole.
pub fn declared_types(rest: &[u8]) -> impl Iterator<Item = u32> {
    let types = cstring(rest).map_or(&[][..], |(_, types)| types.get(2..).unwrap_or_default());
    types.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The head of a Bind: where from, and under which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    /// Everything behind the statement's NUL.
    pub rest: &'a [u8],
}

/// Reads only the two names: `body` may be cut off behind them.
pub fn bind(body: &[u8]) -> Option<Bind<'_>> {
    let (portal, rest) = cstring(body)?;
    let (statement, rest) = cstring(rest)?;
    Some(Bind { portal, statement, rest })
}

/// The values in a Bind, whose `rest` this is; `None` inside is NULL.
pub fn bound_values(rest: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let formats = usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?));
    super::backend::values(rest.get(2 + 2 * formats..)?).map(|(values, _)| values)
}

/// What Describe and Close name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
}

pub fn named(body: &[u8]) -> Option<Named<'_>> {
    let (&kind, rest) = body.split_first()?;
    match (kind, cstring(rest)?) {
        (b'S', (name, [])) => Some(Named::Statement(name)),
        (b'P', (name, [])) => Some(Named::Portal(name)),
        _ => None,
    }
}

/// Execute: the portal, and the most rows wanted (0: all).
pub fn execute(body: &[u8]) -> Option<(&[u8], u32)> {
    let (portal, rest) = cstring(body)?;
    Some((portal, u32::from_be_bytes(rest.try_into().ok()?)))
}

/// Appends one message: `write` appends the body, the length is filled in afterwards.
pub fn message(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

pub fn put_query(out: &mut Vec<u8>, text: &[u8]) {
    message(out, b'Q', |out| {
        out.extend_from_slice(text);
        out.push(0);
    });
}

/// `rest` as in [`Parse::rest`].
pub fn put_parse(out: &mut Vec<u8>, name: &[u8], rest: &[u8]) {
    message(out, b'P', |out| {
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(rest);
    });
}

/// A Close or Describe (`tag`) of a statement.
pub fn put_statement(out: &mut Vec<u8>, tag: u8, name: &[u8]) {
    message(out, tag, |out| {
        out.push(b'S');
        out.extend_from_slice(name);
        out.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use pgwire::messages::Message;
    use pgwire::messages::extendedquery as pg;
    use proptest::prelude::*;

    fn body(message: impl Message) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes).expect("pgwire encodes what it is given");
        bytes[5..].to_vec()
    }

    proptest! {
        #[test]
        fn parse_reads_what_pgwire_writes(name in "[^\0]{0,20}", text in "[^\0]{0,80}", types in prop::collection::vec(any::<u32>(), 0..5)) {
            let bytes = body(pg::Parse::new(Some(name.clone()), text.clone(), types));
            let read = parse(&bytes).expect("well formed");
            prop_assert_eq!(read.name, name.as_bytes());
            prop_assert_eq!(read.text, text.as_bytes());
            let mut again = Vec::new();
            put_parse(&mut again, read.name, read.rest);
            prop_assert_eq!(&again[5..], &bytes[..]);
        }

        #[test]
        fn no_reader_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (query(&bytes), parse(&bytes), bind(&bytes), named(&bytes), execute(&bytes));
        }
    }

    #[test]
    fn bodies_of_another_shape_are_refused() {
        assert_eq!(query(b"SELECT 1"), None);
        assert_eq!(query(b"SELECT 1\0Q"), None);
        assert_eq!(parse(b"a\0SELECT 1\0"), None);
        assert_eq!(parse(b"a\0SELECT 1\0\0\x01\0\0\0"), None);
        assert_eq!(named(b"X\0"), None);
        assert_eq!(named(b"Sabc\0"), Some(Named::Statement(b"abc")));
        assert_eq!(execute(b"p\0\0\0\0\x05"), Some((&b"p"[..], 5)));
    }
}
