//! Where a configuration comes from: a file, then the environment, then flags, each over the one before. `run`, `check`
//! and `explain` load it; the reload loads it again from the same `ConfigSource`, and keeps the old one on an error.

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::error::{ConfigError, Origin};
use super::raw::Raw;
use super::schema::{self, Wrong};
use super::validate::{Fault, Outside, UrlDatabases, validate};
use super::{Config, overrides};

/// One key set by a flag or a variable.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// The flag or the variable, for error texts.
    pub origin: String,
    /// Dotted: `pool.size`.
    pub key: String,
    pub value: String,
}

/// All that the operator said, so that a reload can read it again.
#[derive(Clone, Default, PartialEq)]
pub struct ConfigSource {
    pub file: Option<PathBuf>,
    /// URLs of `--node`; if any, they stand instead of the file's nodes. They may hold passwords: never print them.
    pub nodes: Vec<String>,
    /// Later ones win.
    pub overrides: Vec<Override>,
}

impl std::fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ConfigSource {{ file: {:?}, {} nodes, {} overrides }}",
            self.file,
            self.nodes.len(),
            self.overrides.len()
        )
    }
}

/// The file's text with the places of its keys.
struct Written {
    file: PathBuf,
    text: String,
}

impl ConfigSource {
    /// Reads everything anew, with the process's environment.
    pub fn load(&self) -> Result<Config, ConfigError> {
        self.load_with(&|name| std::env::var(name).ok(), &std::env::vars().map(|(name, _)| name).collect::<Vec<_>>())
    }

    /// Like `load`, with another environment: `outside` answers for a variable, `names` are those that are set.
    pub fn load_with(&self, outside: Outside<'_>, names: &[String]) -> Result<Config, ConfigError> {
        let written = self.read()?;
        let mut table = match &written {
            Some(written) => written.parse()?,
            None => Table::new(),
        };
        let changes = self.changes(outside, names)?;
        for change in &changes {
            overrides::apply(&mut table, change)?;
        }
        if !self.nodes.is_empty() {
            let urls = self.nodes.iter().cloned().map(Value::String).collect();
            table.insert("nodes".to_owned(), Value::Array(urls));
        }
        let raw: Raw = serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| ConfigError::Invalid {
            origin: written.as_ref().map_or(Origin::Nowhere, |written| Origin::Whole(written.file.clone())),
            key: error.path().to_string(),
            why: format!("cannot be read: {}", error.inner().message()),
        })?;
        let urls = if self.file.is_none() { UrlDatabases::Limit } else { UrlDatabases::Ignore };
        let config = validate(raw, urls, outside).map_err(|fault| self.locate(fault, written.as_ref(), &changes))?;
        if config.nodes.is_empty() {
            let origin = written.map_or(Origin::Nowhere, |written| Origin::Whole(written.file));
            let why = "names no PostgreSQL server; give --node postgres://user:password@host:5432/database, or a file \
                       with nodes by --config";
            return Err(ConfigError::Invalid { origin, key: "nodes".to_owned(), why: why.to_owned() });
        }
        Ok(config)
    }

    fn read(&self) -> Result<Option<Written>, ConfigError> {
        let Some(file) = self.file.clone() else { return Ok(None) };
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Some(Written { file, text })),
            Err(error) => Err(ConfigError::Unreadable { file, why: error.to_string() }),
        }
    }

    /// The environment's keys, then the flags'.
    fn changes(&self, outside: Outside<'_>, names: &[String]) -> Result<Vec<Override>, ConfigError> {
        let mut changes = Vec::new();
        for key in overrides::settable() {
            let origin = overrides::variable(key);
            if let Some(value) = outside(&origin) {
                changes.push(Override { origin, key: key.to_owned(), value });
            }
        }
        for name in names.iter().filter(|name| name.starts_with("PGWEIR_")) {
            refuse_near_miss(name)?;
        }
        changes.extend(self.overrides.iter().cloned());
        Ok(changes)
    }

    /// Finds where the key of a fault was written.
    fn locate(&self, fault: Fault, written: Option<&Written>, changes: &[Override]) -> ConfigError {
        let dotted: Vec<&str> =
            fault.path.iter().map(String::as_str).filter(|part| part.parse::<usize>().is_err()).collect();
        let dotted = dotted.join(".");
        let flag =
            changes.iter().rev().find(|change| dotted == change.key || dotted.starts_with(&format!("{}.", change.key)));
        let origin = if dotted.starts_with("nodes") && !self.nodes.is_empty() {
            Origin::Flag("--node".to_owned())
        } else if let Some(change) = flag {
            Origin::Flag(change.origin.clone())
        } else {
            written.map_or(Origin::Nowhere, |written| written.place(&fault.path))
        };
        ConfigError::Invalid { origin, key: shown(&fault.path), why: fault.why }
    }
}

/// A variable that is nearly one of ours is a typing error; others belong to somebody else (Kubernetes sets
/// `PGWEIR_SERVICE_HOST` and the like for a service of our name).
fn refuse_near_miss(name: &str) -> Result<(), ConfigError> {
    let known = overrides::settable().map(overrides::variable);
    let mut nearest: Option<(usize, String)> = None;
    for variable in known {
        let distance = strsim::damerau_levenshtein(name, &variable);
        if distance == 0 {
            return Ok(());
        }
        if distance <= 2 && nearest.as_ref().is_none_or(|(best, _)| distance < *best) {
            nearest = Some((distance, variable));
        }
    }
    // Flags have variables too; clap reads those.
    let flag = ["PGWEIR_CONFIG", "PGWEIR_LISTEN", "PGWEIR_ADMIN", "PGWEIR_NODE", "PGWEIR_SET"].contains(&name);
    match nearest {
        Some((_, nearest)) if !flag => Err(ConfigError::UnknownKey {
            origin: Origin::Flag("environment".to_owned()),
            key: name.to_owned(),
            nearest: Some(nearest),
        }),
        _ => Ok(()),
    }
}

/// `nodes`, `0`, `host` → `nodes[0].host`.
fn shown(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if part.parse::<usize>().is_ok() {
            text.push_str(&format!("[{part}]"));
        } else {
            text.push_str(if text.is_empty() { "" } else { "." });
            text.push_str(part);
        }
    }
    text
}

impl Written {
    fn parse(&self) -> Result<Table, ConfigError> {
        let table: Table = toml::from_str(&self.text).map_err(|error| ConfigError::Syntax {
            origin: self.at(error.span().map_or(0, |span| span.start)),
            why: error.message().trim().replace('\n', ", "),
        })?;
        schema::check(&table).map_err(|finding| {
            let key = shown(&finding.path);
            let origin = self.place(&finding.path);
            match finding.wrong {
                Wrong::Value { found, expected } => ConfigError::WrongValue { origin, key, found, expected },
                Wrong::Unknown => {
                    let plain: Vec<String> =
                        finding.path.iter().filter(|part| part.parse::<usize>().is_err()).cloned().collect();
                    ConfigError::UnknownKey { origin, key, nearest: schema::nearest(&plain.join(".")) }
                }
            }
        })?;
        Ok(table)
    }

    /// The line and column of a byte.
    fn at(&self, offset: usize) -> Origin {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        Origin::File { file: self.file.clone(), line, column }
    }

    /// Where the key at `path` stands, or the nearest thing around it that is written.
    fn place(&self, path: &[String]) -> Origin {
        let whole = Origin::Whole(self.file.clone());
        let Ok(root) = DeTable::parse(&self.text) else { return whole };
        let mut offset = None;
        let mut table = Some(root.get_ref());
        let mut list = None;
        for part in path {
            let value = match (table, list) {
                (Some(inside), _) => {
                    let Some((key, value)) = inside.iter().find(|(key, _)| key.get_ref() == part) else { break };
                    offset = Some(key.span().start);
                    value
                }
                (None, Some(items)) => {
                    let items: &toml::de::DeArray<'_> = items;
                    let Some(item) = part.parse::<usize>().ok().and_then(|i| items.get(i)) else { break };
                    offset = Some(item.span().start);
                    item
                }
                (None, None) => break,
            };
            (table, list) = match value.get_ref() {
                DeValue::Table(inner) => (Some(inner), None),
                DeValue::Array(items) => (None, Some(items)),
                _ => (None, None),
            };
        }
        offset.map_or(whole, |offset| self.at(offset))
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
