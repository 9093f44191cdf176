//! A directory whose servers never outlive us: a small shell script waits for the end of a pipe, which comes when we let
//! go of it and also when we are killed, stops every server that works in the directory, and removes it. `pgweir demo`
//! and the tests use it. It must never touch a process whose working directory is elsewhere.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// First the polite way (the postmaster's pid file), then, for whoever is left, the other one. A stopped process is
/// continued, or it would not hear.
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
    /// Makes the directory, which must not exist yet. Whatever is to be cleaned up must run with its working directory
    /// there; a server's own directory is one below.
    pub fn new(path: PathBuf) -> io::Result<Scratch> {
        fs::create_dir(&path)?;
        let reaper = Command::new("sh")
            .args(["-c", REAPER, "pgweir-reaper"])
            .arg(&path)
            // Not in our process group: Ctrl-C must reach us and not the one who cleans up after us.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Scratch { path, reaper })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    /// Waits until everything is stopped and gone.
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_in_it_ends_with_it() {
        let path = std::env::temp_dir().join(format!("pgweir-scratch-{}", std::process::id()));
        let scratch = Scratch::new(path.clone()).unwrap();
        let mut inside = Command::new("sleep").arg("600").current_dir(scratch.path()).spawn().unwrap();
        let mut outside = Command::new("sleep").arg("600").current_dir("/").spawn().unwrap();
        // Our child stays a zombie until it is waited for; a zombie has no working directory any more.
        drop(scratch);
        assert!(inside.try_wait().unwrap().is_some(), "it was stopped");
        assert!(outside.try_wait().unwrap().is_none(), "it was left alone");
        outside.kill().unwrap();
        outside.wait().unwrap();
        assert!(!path.exists());
    }
}
