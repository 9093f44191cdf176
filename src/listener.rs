//! Accepts clients on TCP addresses and a Unix socket, caps their number, and hands each socket to the worker with the
//! fewest sessions. `proxy` binds and runs it on the control runtime. It reads nothing from clients, and no failed
//! accept may end it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use crate::config::ListenConfig;
use crate::stream::{Socket, Stream};
use crate::worker::WorkerHandle;

/// Connections that the kernel completes before we accept them; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Out of file descriptors or memory: so long we leave the queue alone.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// A refused client has so long to read why.
const FAREWELL: Duration = Duration::from_secs(1);
/// So many refused clients at once are given that time; the others see a reset.
const FAREWELLS: usize = 64;

/// Why we cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address}: {error}")]
    Tcp { address: SocketAddr, error: io::Error },
    #[error("cannot listen on {}: {error}", path.display())]
    Unix { path: PathBuf, error: io::Error },
    #[error("another server is listening on {}", path.display())]
    InUse { path: PathBuf },
}

/// What the listener shares with the admin side and a reload.
pub struct Door {
    pub workers: Vec<WorkerHandle>,
    /// `limits.clients`; a reload may store another value.
    pub limit: AtomicUsize,
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
}

/// The bound sockets, not yet accepting.
pub struct Listener {
    tcp: Vec<TcpListener>,
    unix: Option<UnixDoor>,
}

/// A Unix socket, whose file is ours to remove.
struct UnixDoor {
    listener: UnixListener,
    files: UnixFiles,
}

struct UnixFiles {
    socket: PathBuf,
    lock: PathBuf,
    /// Holds the lock for as long as the process lives, however it dies.
    _locked: File,
}

impl Drop for UnixFiles {
    fn drop(&mut self) {
        // Left-over files do no harm: the next start finds the lock free.
        let _ = std::fs::remove_file(&self.socket);
        let _ = std::fs::remove_file(&self.lock);
    }
}

impl Door {
    pub fn new(workers: Vec<WorkerHandle>, limit: usize) -> Arc<Door> {
        Arc::new(Door { workers, limit: limit.into(), accepted: 0.into(), refused: 0.into() })
    }

    /// Clients connected now.
    pub fn clients(&self) -> usize {
        self.workers.iter().map(WorkerHandle::load).sum()
    }

    /// `false`: the door is full.
    fn is_open(&self) -> bool {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let open = self.clients() < self.limit.load(Ordering::Relaxed);
        if !open {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        open
    }

    fn hand_over(&self, socket: Socket, peer: String) {
        if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load()) {
            worker.serve(socket, peer);
        }
    }
}

impl Listener {
    /// Binds all addresses; must be called inside the runtime that will run it.
    pub fn bind(config: &ListenConfig) -> Result<Listener, ListenError> {
        let tcp = config
            .addresses
            .iter()
            .map(|&address| bind_tcp(address).map_err(|error| ListenError::Tcp { address, error }))
            .collect::<Result<Vec<_>, _>>()?;
        let port = match tcp.first() {
            // The real one, should the configuration have asked for any free port.
            Some(first) => first.local_addr().map_or(0, |address| address.port()),
            None => 5432,
        };
        let unix = match &config.unix_socket_dir {
            Some(dir) => Some(bind_unix(dir, port)?),
            None => None,
        };
        Ok(Listener { tcp, unix })
    }

    /// The TCP addresses, with the ports that the kernel chose where the configuration said 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Accepts until `stop` says true. Then the sockets are closed, so that connecting is refused at once.
    pub async fn run(self, door: Arc<Door>, mut stop: watch::Receiver<bool>) {
        let farewells = Arc::new(Semaphore::new(FAREWELLS));
        let mut tasks = tokio::task::JoinSet::new();
        for listener in self.tcp {
            tasks.spawn(accept_tcp(listener, Arc::clone(&door), Arc::clone(&farewells)));
        }
        if let Some(unix) = self.unix {
            tasks.spawn(accept_unix(unix, door, farewells));
        }
        // An error means that whoever could say stop is gone.
        let _ = stop.wait_for(|stop| *stop).await;
        tasks.shutdown().await;
    }
}

async fn accept_tcp(listener: TcpListener, door: Arc<Door>, farewells: Arc<Semaphore>) {
    loop {
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                after_failure(&error).await;
                continue;
            }
        };
        if let Err(error) = Stream::tune(&tcp) {
            // The client is gone already, most likely.
            tracing::debug!(%error, "a client's socket could not be tuned");
        }
        if !door.is_open() {
            refuse(Stream::Tcp(tcp), &farewells);
        } else if let Ok(socket) = tcp.into_std() {
            door.hand_over(Socket::Tcp(socket), address.to_string());
        }
    }
}

async fn accept_unix(unix: UnixDoor, door: Arc<Door>, farewells: Arc<Semaphore>) {
    let UnixDoor { listener, files } = unix;
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                after_failure(&error).await;
                continue;
            }
        };
        if !door.is_open() {
            refuse(Stream::Unix(socket), &farewells);
        } else if let Ok(socket) = socket.into_std() {
            door.hand_over(Socket::Unix(socket), format!("local:{}", files.socket.display()));
        }
    }
}

/// A client that left while it queued is no reason to wait; running out of descriptors is, or we would spin.
async fn after_failure(error: &io::Error) {
    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    if error.raw_os_error().is_some_and(|code| exhausted.contains(&code)) {
        tracing::warn!(%error, "cannot accept clients");
        tokio::time::sleep(EXHAUSTED_PAUSE).await;
    }
}

/// Says why and closes. Closing with the client's startup message unread would reset the connection and could take our
/// words with it, so some clients get a moment to close first.
fn refuse(mut stream: Stream, farewells: &Arc<Semaphore>) {
    let Ok(_) = stream.write_now(&too_many_clients()) else { return };
    let Ok(permit) = Arc::clone(farewells).try_acquire_owned() else { return };
    tokio::spawn(async move {
        let close = async {
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await?;
            let mut unread = [0; 1024];
            while stream.read(&mut unread).await? > 0 {}
            io::Result::Ok(())
        };
        // However it went, the stream is closed now.
        let _ = tokio::time::timeout(FAREWELL, close).await;
        drop(permit);
    });
}

/// The words of PostgreSQL itself, so that drivers recognise them (manual: "Message Formats", ErrorResponse).
fn too_many_clients() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0";
    let mut message = vec![b'E'];
    message.extend_from_slice(&(fields.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(fields);
    message
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // As PostgreSQL does: `::` and `0.0.0.0` can be listened on beside each other.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// PostgreSQL guards its socket by a lock file with its process's number in it, and so do we, in the same place: neither
/// takes the other's socket away. The number alone could be a stranger's after a crash; the lock cannot.
fn bind_unix(dir: &Path, port: u16) -> Result<UnixDoor, ListenError> {
    let path = dir.join(format!(".s.PGSQL.{port}"));
    let lock = dir.join(format!(".s.PGSQL.{port}.lock"));
    let failed = |error| ListenError::Unix { path: path.clone(), error };
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return Err(ListenError::InUse { path });
    }
    let mut locked =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&lock).map_err(failed)?;
    if locked.try_lock().is_err() {
        return Err(ListenError::InUse { path });
    }
    locked.set_len(0).map_err(failed)?;
    writeln!(locked, "{}", std::process::id()).map_err(failed)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    // Who may connect is decided by login, as with PostgreSQL's default permissions.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
    Ok(UnixDoor { listener, files: UnixFiles { socket: path, lock, _locked: locked } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Workers;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    fn config(dir: Option<PathBuf>) -> ListenConfig {
        ListenConfig { addresses: vec!["127.0.0.1:0".parse().unwrap()], unix_socket_dir: dir, workers: 2 }
    }

    fn workers() -> Workers {
        let echo = |_worker, mut stream: Stream, _peer| async move {
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte).await {
                stream.write_all(&byte).await.unwrap();
            }
        };
        Workers::start(2, crate::worker::tests::fittings, |_| (), echo).unwrap()
    }

    async fn echoes(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn clients_are_spread_and_the_one_too_many_is_told_so() {
        let workers = workers();
        let door = Door::new(workers.handles.clone(), 4);
        let listener = Listener::bind(&config(None)).unwrap();
        let address = listener.addresses()[0];
        let (stop, stopped) = watch::channel(false);
        let run = tokio::spawn(listener.run(Arc::clone(&door), stopped));
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = TcpStream::connect(address).await.unwrap();
            echoes(&mut client).await;
            clients.push(client);
        }
        assert_eq!(workers.handles.iter().map(WorkerHandle::load).collect::<Vec<_>>(), [2, 2]);

        let mut refused = TcpStream::connect(address).await.unwrap();
        refused.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
        let mut words = Vec::new();
        refused.read_to_end(&mut words).await.unwrap();
        assert_eq!(words[0], b'E');
        assert_eq!(words.len(), 1 + u32::from_be_bytes(words[1..5].try_into().unwrap()) as usize);
        let text = String::from_utf8(words).unwrap();
        assert!(text.contains("C53300\0Msorry, too many clients already\0"));
        assert_eq!(door.refused.load(Ordering::Relaxed), 1);

        stop.send(true).unwrap();
        run.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let dir = std::env::temp_dir().join(format!("pgweir-listener-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let workers = workers();
        let listener = Listener::bind(&config(Some(dir.clone()))).unwrap();
        let port = listener.addresses()[0].port();
        let path = dir.join(format!(".s.PGSQL.{port}"));
        assert!(matches!(bind_unix(&dir, port), Err(ListenError::InUse { .. })));
        let (stop, stopped) = watch::channel(false);
        let run = tokio::spawn(listener.run(Door::new(workers.handles.clone(), 10), stopped));
        let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
        echoes(&mut client).await;
        stop.send(true).unwrap();
        run.await.unwrap();
        assert!(!path.exists());

        // A crash leaves the socket's file behind, with nobody listening.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let again = bind_unix(&dir, port).unwrap();
        drop(again);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
