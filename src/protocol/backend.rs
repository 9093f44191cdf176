//! Pure: bounds-checked readers of the backend messages that pgweir looks inside, and the ones that it originates.
//! Rows are never decoded here except those of pgweir's own audit.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::response::{CommandComplete, ErrorResponse, ReadyForQuery};

use super::TransactionStatus;
use super::sqlstate::ClientError;

/// The field of an ErrorResponse or NoticeResponse body (manual: "Error and Notice Message Fields").
pub fn error_field(body: &[u8], field: u8) -> Option<&[u8]> {
    let mut rest = body;
    loop {
        let (&code, tail) = rest.split_first()?;
        if code == 0 {
            return None;
        }
        let end = memchr::memchr(0, tail)?;
        if code == field {
            return Some(&tail[..end]);
        }
        rest = &tail[end + 1..];
    }
}

/// Appends the ErrorResponse `body` with every `from` in its fields replaced by `to`.
pub fn put_error_renamed(out: &mut Vec<u8>, body: &[u8], from: &[u8], to: &[u8]) {
    super::frontend::message(out, b'E', |out| {
        let mut rest = body;
        while let Some(at) = memchr::memmem::find(rest, from) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(to);
            rest = &rest[at + from.len()..];
        }
        out.extend_from_slice(rest);
    });
}

/// ParameterStatus: name and value.
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let name = memchr::memchr(0, body)?;
    let rest = &body[name + 1..];
    let value = memchr::memchr(0, rest)?;
    (value + 1 == rest.len()).then_some((&body[..name], &rest[..value]))
}

/// The columns of a DataRow; `None` inside is NULL.
pub fn data_row(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (columns, rest) = values(body)?;
    rest.is_empty().then_some(columns)
}

/// Counted values, as DataRow and Bind have them, and what stands behind; `None` inside is NULL.
#[expect(clippy::type_complexity)]
pub(super) fn values(bytes: &[u8]) -> Option<(Vec<Option<&[u8]>>, &[u8])> {
    let count = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
    let mut rest = &bytes[2..];
    let mut values = Vec::new();
    for _ in 0..count {
        let length = i32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
        rest = &rest[4..];
        if length < 0 {
            values.push(None);
            continue;
        }
        values.push(Some(rest.get(..length as usize)?));
        rest = &rest[length as usize..];
    }
    Some((values, rest))
}

/// Appends a message of ours.
fn put(out: &mut Vec<u8>, message: impl Message) {
    let mut bytes = BytesMut::new();
    // The only error that encoding knows is a message of over 2 GiB; ours are short.
    if message.encode(&mut bytes).is_ok() {
        out.extend_from_slice(&bytes);
    }
}

pub fn put_command_complete(out: &mut Vec<u8>, tag: &str) {
    put(out, CommandComplete::new(tag.to_owned()));
}

pub fn put_ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    let status = match status {
        TransactionStatus::Idle => pgwire::messages::response::TransactionStatus::Idle,
        TransactionStatus::InTransaction => pgwire::messages::response::TransactionStatus::Transaction,
        TransactionStatus::Failed => pgwire::messages::response::TransactionStatus::Error,
    };
    put(out, ReadyForQuery::new(status));
}

pub fn put_error(out: &mut Vec<u8>, error: &ClientError) {
    let mut fields = vec![
        (b'S', error.severity.to_owned()),
        (b'V', error.severity.to_owned()),
        (b'C', error.sqlstate.to_owned()),
        (b'M', error.message.clone()),
    ];
    if let Some(detail) = &error.detail {
        fields.push((b'D', detail.clone()));
    }
    if let Some(hint) = &error.hint {
        fields.push((b'H', hint.clone()));
    }
    put(out, ErrorResponse::new(fields));
}

/// Appends ParameterStatus; the value may be in any encoding, so this is not pgwire's (which knows only text).
pub fn put_parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    super::frontend::message(out, b'S', |out| {
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    });
}

/// Appends BackendKeyData; `secret` has 4 bytes in protocol 3.0 and up to 256 in 3.2.
pub fn put_backend_key_data(out: &mut Vec<u8>, pid: u32, secret: &[u8]) {
    super::frontend::message(out, b'K', |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn error_fields_are_found_and_renamed() {
        let body = b"SERROR\0C26000\0Mprepared statement \"pgweir_7\" does not exist\0\0";
        assert_eq!(error_field(body, b'C'), Some(&b"26000"[..]));
        assert_eq!(error_field(body, b'D'), None);
        let mut out = Vec::new();
        put_error_renamed(&mut out, body, b"\"pgweir_7\"", b"\"mine\"");
        assert_eq!(error_field(&out[5..], b'M'), Some(&b"prepared statement \"mine\" does not exist"[..]));
        assert_eq!(u32::from_be_bytes(out[1..5].try_into().expect("four")) as usize, out.len() - 1);
    }

    #[test]
    fn rows_are_read_with_their_nulls() {
        let body = b"\0\x02\0\0\0\x01a\xff\xff\xff\xff";
        assert_eq!(data_row(body), Some(vec![Some(&b"a"[..]), None]));
        assert_eq!(data_row(b"\0\x01\0\0\0\x09a"), None);
    }

    #[test]
    fn what_we_originate_has_the_manuals_bytes() {
        let mut out = Vec::new();
        put_ready_for_query(&mut out, TransactionStatus::Failed);
        put_command_complete(&mut out, "BEGIN");
        put_parameter_status(&mut out, b"a", b"b");
        put_backend_key_data(&mut out, 1, &[2; 4]);
        assert_eq!(out, b"Z\0\0\0\x05EC\0\0\0\x0aBEGIN\0S\0\0\0\x08a\0b\0K\0\0\0\x0c\0\0\0\x01\x02\x02\x02\x02");
    }

    proptest! {
        #[test]
        fn no_reader_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (error_field(&bytes, b'M'), parameter_status(&bytes), data_row(&bytes));
        }
    }
}
