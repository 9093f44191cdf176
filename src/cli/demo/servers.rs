//! PostgreSQL's programs on this machine: where they are, and how to run them when we are root (PostgreSQL refuses to).
//! `pgweir demo` starts its throw-away servers through this file, and so do the tests. It must never touch a server that
//! it did not start, nor a directory that it was not given.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, bail};

/// The folder of `initdb` and `postgres`: `PGWEIR_POSTGRES_BIN`, else the newest of Debian's, else what pg_config says.
pub fn postgres_bin() -> anyhow::Result<PathBuf> {
    if let Some(dir) = env::var_os("PGWEIR_POSTGRES_BIN") {
        return given_bin(PathBuf::from(dir));
    }
    newest_installed().or_else(from_pg_config).context(
        "PostgreSQL's servers were not found: install the package postgresql, or set PGWEIR_POSTGRES_BIN to the folder \
         of initdb and postgres",
    )
}

/// A folder that somebody named; it must be right.
pub fn given_bin(dir: PathBuf) -> anyhow::Result<PathBuf> {
    if !has_servers(&dir) {
        bail!("{} holds no initdb and postgres", dir.display());
    }
    Ok(dir)
}

fn has_servers(dir: &Path) -> bool {
    dir.join("initdb").is_file() && dir.join("postgres").is_file()
}

fn newest_installed() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let major = path.file_name()?.to_str()?.parse().ok()?;
            let bin = path.join("bin");
            has_servers(&bin).then_some((major, bin))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

fn from_pg_config() -> Option<PathBuf> {
    let answer = Command::new("pg_config").arg("--bindir").output().ok()?;
    let dir = PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim());
    has_servers(&dir).then_some(dir)
}

/// Whom the servers run as: nobody special unless we are root, and then a user who is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerUser {
    /// We are not root: the servers are ours.
    Ourselves,
    /// We are root: the servers run as this user, who must own their directories.
    Other { uid: u32, gid: u32 },
}

impl ServerUser {
    /// Finds out, by the effective user of this process and /etc/passwd (`postgres`, else `nobody`).
    pub fn find() -> anyhow::Result<ServerUser> {
        let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
        let effective =
            status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().nth(1));
        if effective != Some("0") {
            return Ok(ServerUser::Ourselves);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| find_user(&passwd, name))
            .context("started as root, and neither postgres nor nobody exists to run PostgreSQL's servers as")
    }

    /// `program`, to be run as this user.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let ServerUser::Other { uid, gid } = self {
            command.uid(*uid).gid(*gid);
        }
        // A server must not depend on who started it, nor where.
        for name in ["PGDATA", "PGPORT", "PGHOST", "PGUSER", "PGDATABASE", "PGOPTIONS", "PGPASSWORD", "LC_ALL"] {
            command.env_remove(name);
        }
        command
    }

    /// Gives a directory that we made to this user.
    pub fn give(&self, dir: &Path) -> std::io::Result<()> {
        match self {
            ServerUser::Ourselves => Ok(()),
            ServerUser::Other { uid, gid } => std::os::unix::fs::chown(dir, Some(*uid), Some(*gid)),
        }
    }
}

/// The ids of a user in the text of /etc/passwd (name:password:uid:gid:…).
fn find_user(passwd: &str, name: &str) -> Option<ServerUser> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(ServerUser::Other { uid, gid })
    })
}

/// Runs a command to its end; an error carries what it said.
pub fn run_to_end(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_a_user_are_read_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533:nobody:/:/usr/sbin/nologin\n";
        assert_eq!(find_user(passwd, "nobody"), Some(ServerUser::Other { uid: 65534, gid: 65533 }));
        assert_eq!(find_user(passwd, "postgres"), None);
        assert_eq!(find_user("nobody:x:abc:1::", "nobody"), None);
    }

    #[test]
    fn a_program_that_fails_is_reported_with_what_it_said() {
        let error = run_to_end(Command::new("sh").args(["-c", "echo the disk is full >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh failed") && text.contains("3") && text.contains("the disk is full"), "{text}");
    }
}
