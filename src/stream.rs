//! A client's or a node's byte stream: TCP, Unix or TLS. Sessions, logins and server connections read and write
//! through it; it decides nothing and knows no protocol.
//!
//! Reads go into the caller's buffer (a worker's scratch). Tokio clears a socket's readiness when a read fills less
//! than the buffer, so one message costs one `recv` and no EAGAIN: hand in a buffer larger than what arrives, poll, and
//! never ask for readiness first.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A silent peer is asked for a sign of life after this long …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// … then so often …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// … and given up after so many unanswered ones.
const KEEPALIVE_RETRIES: u32 = 3;

/// One connected socket.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TLS that we accepted from a client.
    ClientTls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// TLS that we opened to a node.
    NodeTls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// A plain socket that belongs to no reactor yet; the listener hands these to workers.
#[derive(Debug)]
pub enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::ClientTls($stream) => $call,
            Stream::NodeTls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl Stream {
    /// Registers a socket with the reactor of the calling worker.
    pub fn from_socket(socket: Socket) -> io::Result<Stream> {
        match socket {
            Socket::Tcp(tcp) => {
                tcp.set_nonblocking(true)?;
                TcpStream::from_std(tcp).map(Stream::Tcp)
            }
            Socket::Unix(unix) => {
                unix.set_nonblocking(true)?;
                UnixStream::from_std(unix).map(Stream::Unix)
            }
        }
    }

    /// Leaves the reactor; works from any thread. `None` for TLS, whose session state has no socket of its own: use
    /// [`Stream::rehome`].
    pub fn into_socket(self) -> io::Result<Option<Socket>> {
        match self {
            Stream::Tcp(tcp) => tcp.into_std().map(|tcp| Some(Socket::Tcp(tcp))),
            Stream::Unix(unix) => unix.into_std().map(|unix| Some(Socket::Unix(unix))),
            Stream::ClientTls(_) | Stream::NodeTls(_) => Ok(None),
        }
    }

    /// Moves the stream from whichever reactor it was registered with to the calling worker's. Nobody may be polling it.
    pub fn rehome(self) -> io::Result<Stream> {
        match self {
            Stream::Tcp(tcp) => Ok(Stream::Tcp(TcpStream::from_std(tcp.into_std()?)?)),
            Stream::Unix(unix) => Ok(Stream::Unix(UnixStream::from_std(unix.into_std()?)?)),
            Stream::ClientTls(mut tls) => {
                rehome_below_tls(tls.get_mut().0)?;
                Ok(Stream::ClientTls(tls))
            }
            Stream::NodeTls(mut tls) => {
                rehome_below_tls(tls.get_mut().0)?;
                Ok(Stream::NodeTls(tls))
            }
        }
    }

    /// Reads what is there into `buf`. `Ok(0)` is the peer's end of stream (`buf` must not be empty).
    pub fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buf);
        match Pin::new(self).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(read.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes what fits now. `Pending` wakes the task when more fits. After the last byte of a burst call
    /// [`Stream::poll_flush_out`]: a TLS record may be left half sent otherwise.
    pub fn poll_write_from(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }

    /// Nothing to do, and no system call, on TCP and Unix sockets.
    pub fn poll_flush_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::ClientTls(_) | Stream::NodeTls(_) => Pin::new(self).poll_flush(cx),
        }
    }

    /// Whether data or the end arrived since the last read, as far as the reactor saw: no system call, and no waker is
    /// disturbed. `true` may be wrong (then a read finds nothing), `false` may be a moment old.
    pub fn has_input(&mut self) -> bool {
        let ready = |tcp: &TcpStream| tcp.try_io(Interest::READABLE, || Ok(())).is_ok();
        match self {
            Stream::Tcp(tcp) => ready(tcp),
            Stream::Unix(unix) => unix.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Stream::ClientTls(tls) => {
                let (tcp, session) = tls.get_mut();
                ready(tcp) || session.process_new_packets().map_or(true, |state| state.plaintext_bytes_to_read() > 0)
            }
            Stream::NodeTls(tls) => {
                let (tcp, session) = tls.get_mut();
                ready(tcp) || session.process_new_packets().map_or(true, |state| state.plaintext_bytes_to_read() > 0)
            }
        }
    }

    /// Reads without a task to wake: for idle connections that nobody polls. `WouldBlock` when nothing is there.
    pub fn read_now(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.try_read(buf),
            Stream::Unix(unix) => unix.try_read(buf),
            tls => match tls.poll_read_into(&mut Context::from_waker(Waker::noop()), buf) {
                Poll::Ready(result) => result,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }

    /// Writes what fits, without a task to wake: last words on a socket that is about to be closed.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.poll_write_from(&mut cx, bytes) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Sends small messages at once, and notices a peer that vanished. Called once for each new TCP socket.
    pub fn tune(tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        SockRef::from(tcp).set_tcp_keepalive(&keepalive)
    }

    /// The other side, for logs: `address:port`, or `local` for a Unix socket.
    pub fn peer(&self) -> String {
        let tcp = match self {
            Stream::Tcp(tcp) => tcp,
            Stream::Unix(_) => return "local".to_owned(),
            Stream::ClientTls(tls) => tls.get_ref().0,
            Stream::NodeTls(tls) => tls.get_ref().0,
        };
        tcp.peer_addr().map_or_else(|_| "gone".to_owned(), |address| address.to_string())
    }

    /// Whether bytes are encrypted on the way.
    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::ClientTls(_) | Stream::NodeTls(_))
    }
}

/// A TLS session cannot give its socket away, so the socket is duplicated: the copy registers with this reactor, then
/// the original deregisters from the other one and closes.
fn rehome_below_tls(tcp: &mut TcpStream) -> io::Result<()> {
    let copy = std::net::TcpStream::from(tcp.as_fd().try_clone_to_owned()?);
    *tcp = TcpStream::from_std(copy)?;
    Ok(())
}
