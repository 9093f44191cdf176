//! `pgweir health [--admin ADDR]`: asks a running pgweir's admin port whether it is alive, for container health checks
//! in images without curl. The command line calls `health`; it starts no runtime and must end within its timeout.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The running pgweir did not say that it is well.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    #[error("no answer from the admin port {address}: {error}")]
    Unreachable { address: SocketAddr, error: io::Error },
    #[error("the admin port {address} answered: {answer}")]
    Unwell { address: SocketAddr, answer: String },
}

/// Asks GET `path` (`/healthz` or `/readyz`) of the admin port at `address`; an answer of 200 is well.
pub fn health(address: SocketAddr, path: &str, timeout: Duration) -> Result<(), HealthError> {
    let answer = ask(address, path, timeout).map_err(|error| HealthError::Unreachable { address, error })?;
    if answer.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let told = format!("{} {}", head.lines().next().unwrap_or(""), body.trim().replace('\n', "; "));
    Err(HealthError::Unwell { address, answer: told.trim().to_owned() })
}

fn ask(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    // The answer is a line or two; whatever listens there instead must not fill our memory.
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn answered(answer: &'static str) -> Result<(), HealthError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let outcome = health(address, "/readyz", SOON);
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        outcome
    }

    #[test]
    fn well_is_200_and_only_that() {
        answered("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n").unwrap();
        let error =
            answered("HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: no primary is known\nnode db1: refused\n");
        let told = error.unwrap_err().to_string();
        assert!(
            told.ends_with("HTTP/1.1 503 Service Unavailable not ready: no primary is known; node db1: refused"),
            "{told}"
        );
        assert!(answered("").is_err());
        assert!(answered("SSH-2.0-OpenSSH_9.2 200\r\n").is_err(), "something else listens there");
    }

    #[test]
    fn nobody_there_is_told_with_the_address() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let told = health(address, "/healthz", SOON).unwrap_err().to_string();
        assert!(told.contains(&address.to_string()), "{told}");
    }
}
