//! Directories of this test process, which go away with their servers even when we are killed (the demo's Scratch sees
//! to that), and ports for those servers.

use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::{env, net, process};

use pgweir::cli::demo::scratch::Scratch as OwnScratch;

/// A directory of a test's servers. PGWEIR_IT_KEEP=1 keeps a copy when the test fails.
pub struct Scratch(OwnScratch);

impl Scratch {
    /// `name` tells the curious what it is for.
    pub fn new(name: &str) -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("pgweir-it-{}-{number}-{name}", process::id()));
        Scratch(OwnScratch::new(path).expect("a directory for the servers"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if env::var_os("PGWEIR_IT_KEEP").is_some() && std::thread::panicking() {
            let kept = self.path().with_extension("kept");
            let _ = process::Command::new("cp").arg("-a").arg(self.path()).arg(&kept).status();
            eprintln!("kept for a look: {}", kept.display());
        }
    }
}

/// A port that is free now. Below the range of outgoing connections, so that none of those takes it while its server is
/// down; each process starts elsewhere, so that test runs side by side seldom meet.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (process::id() % 1000) as u16 * 20;
    for _ in 0..20_000 {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000) % 20_000;
        if net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 12000 and 32000");
}
