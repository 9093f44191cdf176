//! Placeholder of engineer C's file, trust only, so that the pool compiles alone: REPLACE with C's at the merge.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::auth::Credentials;

pub struct ServerStartup {
    pub user: String,
    pub database: String,
    pub parameters: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct Greeting {
    pub parameters: Vec<(String, String)>,
    pub pid: u32,
    pub secret: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("the node refused the login ({sqlstate})")]
    Refused { body: Vec<u8>, sqlstate: String, severity: String, message: String },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("unexpected message")]
    Protocol,
}

pub async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    startup: &ServerStartup,
    _credentials: &Credentials,
) -> Result<Greeting, LoginError> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    let own = [("user", startup.user.as_str()), ("database", startup.database.as_str())];
    let all = own.into_iter().chain(startup.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    for (name, value) in all {
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    stream.write_u32(body.len() as u32 + 4).await?;
    stream.write_all(&body).await?;
    let mut greeting = Greeting { parameters: Vec::new(), pid: 0, secret: Vec::new() };
    loop {
        let tag = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        let mut body = vec![0; length.saturating_sub(4) as usize];
        stream.read_exact(&mut body).await?;
        match tag {
            b'R' if body == [0; 4] => {}
            b'S' => {
                let mut words = body.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
                greeting.parameters.push((words.next().unwrap_or_default(), words.next().unwrap_or_default()));
            }
            b'K' if body.len() >= 8 => {
                greeting.pid = u32::from_be_bytes([body[0], body[1], body[2], body[3]]);
                greeting.secret = body[4..].to_vec();
            }
            b'E' => {
                let code = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&b'C'));
                let sqlstate = code.map_or(String::new(), |code| String::from_utf8_lossy(&code[1..]).into_owned());
                let (severity, message) = (String::new(), String::new());
                return Err(LoginError::Refused { body, sqlstate, severity, message });
            }
            b'N' => {}
            b'Z' => return Ok(greeting),
            _ => return Err(LoginError::Protocol),
        }
    }
}
