//! A client that speaks the protocol by hand: it may send any bytes in any portions and sees every message of the answer.
//! The transcripts and the hostile-input tests use it. It never corrects what a test says.

pub mod say;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

use super::wait::PATIENCE;

/// A backend message as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse ('C' = SQLSTATE, 'M' = message, 'V' = severity, 'P' = position …).
    pub fn field(&self, code: u8) -> Option<String> {
        let mut fields = self.body.split(|byte| *byte == 0);
        fields.find(|field| field.first() == Some(&code)).map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    }

    /// The columns of a DataRow as text; NULL is `None`.
    pub fn columns(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, b'D', "a DataRow: {self:?}");
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        while !rest.is_empty() {
            let length = i32::from_be_bytes(rest[..4].try_into().expect("four bytes"));
            rest = &rest[4..];
            if length < 0 {
                columns.push(None);
                continue;
            }
            columns.push(Some(String::from_utf8_lossy(&rest[..length as usize]).into_owned()));
            rest = &rest[length as usize..];
        }
        columns
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(300)];
        write!(f, "{}[{}] {}", self.tag as char, self.body.len(), shown.escape_ascii())
    }
}

/// What one session said and heard so far.
pub struct RawSession {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// ParameterStatus of the greeting and later.
    pub parameters: Vec<(String, String)>,
    pub pid: u32,
    pub secret: Vec<u8>,
}

impl RawSession {
    /// Connects and says nothing.
    pub fn connect(port: u16) -> RawSession {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the port answers");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        RawSession { stream, buffer: Vec::new(), parameters: Vec::new(), pid: 0, secret: Vec::new() }
    }

    /// A session of this user in database `app`, logged in.
    pub fn log_in(port: u16, user: &str) -> RawSession {
        RawSession::log_in_with(port, (3, 0), &[("user", user), ("database", "app")], "secret")
            .expect("the login succeeds")
            .0
    }

    /// Logs in with these startup parameters. The messages up to ReadyForQuery, or the ErrorResponse.
    pub fn log_in_with(
        port: u16,
        version: (u16, u16),
        parameters: &[(&str, &str)],
        password: &str,
    ) -> Result<(RawSession, Vec<Message>), Message> {
        let mut session = RawSession::connect(port);
        session.send(&say::startup(version, parameters));
        let mut heard = Vec::new();
        let mut scram = None;
        loop {
            let message = session.read().expect("the login goes on");
            match message.tag {
                b'E' => return Err(message),
                b'R' => session.answer_authentication(&message, password, &mut scram),
                b'K' => {
                    session.pid = u32::from_be_bytes(message.body[..4].try_into().expect("four bytes"));
                    session.secret = message.body[4..].to_vec();
                }
                _ => {}
            }
            let ready = message.tag == b'Z';
            heard.push(message);
            if ready {
                return Ok((session, heard));
            }
        }
    }

    fn answer_authentication(&mut self, message: &Message, password: &str, scram: &mut Option<ScramSha256>) {
        match u32::from_be_bytes(message.body[..4].try_into().expect("four bytes")) {
            0 => {}
            3 => self.send(&say::message(b'p', &say::zero_ended(password))),
            10 => {
                let client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                let mut body = say::zero_ended(SCRAM_SHA_256);
                body.extend((client.message().len() as u32).to_be_bytes());
                body.extend(client.message());
                self.send(&say::message(b'p', &body));
                *scram = Some(client);
            }
            11 => {
                let client = scram.as_mut().expect("SASL has begun");
                client.update(&message.body[4..]).expect("a valid server-first message");
                let answer = client.message().to_vec();
                self.send(&say::message(b'p', &answer));
            }
            12 => scram
                .as_mut()
                .expect("SASL has begun")
                .finish(&message.body[4..])
                .expect("the server knows the password too"),
            other => panic!("authentication request {other}"),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the other side still listens");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Every byte in a segment of its own, as far as the kernel lets us.
    pub fn send_byte_by_byte(&mut self, bytes: &[u8]) {
        bytes.chunks(1).for_each(|byte| self.send(byte));
    }

    /// The next message; `None` at the end of the stream.
    pub fn read(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.cut() {
                if message.tag == b'S' {
                    self.note_parameter(&message);
                }
                return Some(message);
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert!(
                        self.buffer.is_empty(),
                        "the stream ended within a message: {:?}",
                        self.buffer.escape_ascii().to_string()
                    );
                    return None;
                }
                Ok(count) => self.buffer.extend(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The caller sees an answer that ends too early, and says of what.
                    eprintln!("no answer came in time");
                    return None;
                }
                Err(error) => panic!("no answer came: {error}"),
            }
        }
    }

    fn cut(&mut self) -> Option<Message> {
        let length = u32::from_be_bytes(self.buffer.get(1..5)?.try_into().expect("four bytes")) as usize;
        let end = 1 + length;
        if self.buffer.len() < end {
            return None;
        }
        let message = Message { tag: self.buffer[0], body: self.buffer[5..end].to_vec() };
        self.buffer.drain(..end);
        Some(message)
    }

    fn note_parameter(&mut self, message: &Message) {
        let mut fields = message.body.split(|byte| *byte == 0).map(|field| String::from_utf8_lossy(field).into_owned());
        let (Some(name), Some(value)) = (fields.next(), fields.next()) else {
            panic!("a ParameterStatus: {message:?}")
        };
        self.parameters.retain(|(known, _)| *known != name);
        self.parameters.push((name, value));
    }

    /// Messages up to and with the first of this tag.
    pub fn read_until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let Some(message) = self.read() else {
                // Seen by whoever compares: no node sends such a message.
                messages.push(Message { tag: b'?', body: format!("no {:?} came", tag as char).into_bytes() });
                return messages;
            };
            let found = message.tag == tag;
            messages.push(message);
            if found {
                return messages;
            }
        }
    }

    /// Messages up to the end of the stream.
    pub fn read_to_end(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.read()).collect()
    }

    /// Everything up to the end of the stream, whatever it is.
    pub fn read_bytes_to_end(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.buffer);
        if let Err(error) = self.stream.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        }
        bytes
    }

    /// One byte that is no message (the answer to SSLRequest).
    pub fn read_byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("one byte");
        byte[0]
    }

    /// A simple query's answer up to ReadyForQuery.
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&say::query(sql));
        self.read_until(b'Z')
    }

    /// The first column of the first row of a simple query.
    pub fn value(&mut self, sql: &str) -> String {
        let answer = self.query(sql);
        let row = answer.iter().find(|message| message.tag == b'D');
        row.unwrap_or_else(|| panic!("{sql}: {answer:?}")).columns()[0].clone().unwrap_or_default()
    }

    /// No more is said, but answers are still read; the other side may have hung up already.
    pub fn half_close_if_open(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }
}

/// The SQLSTATE of the first ErrorResponse among these.
pub fn sqlstate(messages: &[Message]) -> Option<String> {
    messages.iter().find(|message| message.tag == b'E').and_then(|message| message.field(b'C'))
}

/// The tags alone, as a word: `1 2 D C Z` is "12DCZ".
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| message.tag as char).collect()
}
