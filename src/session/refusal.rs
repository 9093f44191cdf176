//! What a client is told when it is turned away before it has a session: one FATAL ErrorResponse, in PostgreSQL's words.
//! startup and login make and send it. It must never tell an unknown user from a wrong password.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::response::ErrorResponse;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// A FATAL error with its SQLSTATE.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub sqlstate: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Refusal {
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { sqlstate, message: message.into(), detail: None, hint: None }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Refusal {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }

    /// The whole ErrorResponse message.
    pub fn encode(&self) -> BytesMut {
        let mut fields: Vec<(u8, String)> = vec![
            (b'S', "FATAL".to_owned()),
            (b'V', "FATAL".to_owned()),
            (b'C', self.sqlstate.to_owned()),
            (b'M', self.message.clone()),
        ];
        fields.extend(self.detail.clone().map(|detail| (b'D', detail)));
        fields.extend(self.hint.clone().map(|hint| (b'H', hint)));
        // A NUL would end the field early and shift all that follows.
        for (_, text) in &mut fields {
            text.retain(|c| c != '\0');
        }
        let mut message = BytesMut::new();
        if ErrorResponse::new(fields).encode(&mut message).is_err() {
            // Only a message over 64 KiB fails to encode, and startup packets are shorter: the client sees the end.
            message.clear();
        }
        message
    }

    /// Tells the client and ends the conversation. That it may be gone already is no error.
    pub async fn send<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S) {
        let sent = stream.write_all(&self.encode()).await.is_ok() && stream.flush().await.is_ok();
        if sent && stream.shutdown().await.is_ok() {
            discard(stream).await;
        }
    }
}

/// Reads what has arrived and was never looked at: closing a socket with unread bytes resets it, and a reset can overtake
/// the error that was just sent. Waits for nothing.
async fn discard<S: AsyncRead + Unpin>(stream: &mut S) {
    let mut bin = [0; 4096];
    poll_fn(|cx| {
        for _ in 0..16 {
            let mut buf = ReadBuf::new(&mut bin);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_an_error_response() {
        let refusal = Refusal::new("08P01", "no\0nsense").detail("d").hint("h");
        let body = b"SFATAL\0VFATAL\0C08P01\0Mnonsense\0Dd\0Hh\0\0";
        let message = refusal.encode();
        assert_eq!(message[0], b'E');
        assert_eq!(message[1..5], (body.len() as u32 + 4).to_be_bytes());
        assert_eq!(message[5..], body[..]);
    }
}
