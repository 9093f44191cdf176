//! A directory of this test process, and what sees to it that nothing in it outlives the process: a small shell script
//! that waits for the end of a pipe. It ends when we let go of it and also when we are killed, and then stops every
//! server of the directory and removes it. It must never touch a process whose working directory is elsewhere.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::{env, fs, net, process};

const REAPER: &str = r#"
cat >/dev/null
cd /
for file in "$1"/*/postmaster.pid; do
  [ -f "$file" ] || continue
  read -r pid <"$file" || continue
  [ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$file")" ] || continue
  kill -CONT "$pid"; kill -QUIT "$pid"
done
round=0
while [ $round -lt 50 ]; do
  found=
  for process in /proc/[0-9]*; do
    case "$(readlink "$process/cwd" 2>/dev/null)" in
      "$1"|"$1"/*) found=1; [ $round -lt 15 ] || kill -KILL "${process#/proc/}" ;;
    esac
  done
  [ -n "$found" ] || break
  round=$((round + 1)); sleep 0.1
done
rm -rf "$1"
"#;

/// A directory that goes away with its processes.
pub struct Scratch {
    path: PathBuf,
    reaper: Child,
}

impl Scratch {
    /// `name` tells the curious what it is for.
    pub fn new(name: &str) -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("pgweir-it-{}-{number}-{name}", process::id()));
        fs::create_dir_all(&path).expect("a directory for the servers");
        let reaper = Command::new("sh")
            .args(["-c", REAPER, "pgweir-it-reaper"])
            .arg(&path)
            // Not in our process group: Ctrl-C must reach us and not the one who cleans up after us.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the reaper starts");
        Scratch { path, reaper }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if env::var_os("PGWEIR_IT_KEEP").is_some() && std::thread::panicking() {
            let kept = self.path.with_extension("kept");
            let _ = Command::new("cp").arg("-a").arg(&self.path).arg(&kept).status();
            eprintln!("kept for a look: {}", kept.display());
        }
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
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
