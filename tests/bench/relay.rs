//! A relay that understands nothing: the floor that `make bench` measures pgweir against. Each client gets a connection to
//! the one server, and bytes are copied both ways. Usage: relay LISTEN SERVER. It must never grow a feature.

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

const BUFFER: usize = 64 * 1024;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(server)) = (arguments.next(), arguments.next()) else {
        return Err(std::io::Error::other("usage: relay LISTEN SERVER"));
    };
    // One thread, as one of pgweir's workers.
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        tokio::task::LocalSet::new()
            .run_until(async {
                loop {
                    let (client, _) = listener.accept().await?;
                    tokio::task::spawn_local(relay(client, server.clone()));
                }
            })
            .await
    })
}

async fn relay(mut client: TcpStream, server: String) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await?;
    Ok(())
}
