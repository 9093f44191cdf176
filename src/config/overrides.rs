//! Pure: one key from a flag or an environment variable, as text, put onto the file's table before it is read as a whole.

use toml::{Table, Value};

use super::error::{ConfigError, Origin};
use super::load::Override;
use super::schema::{self, Kind, Wrong};

/// Puts one key onto the table, checked by itself so that an error names the flag.
pub fn apply(table: &mut Table, change: &Override) -> Result<(), ConfigError> {
    let origin = Origin::Flag(change.origin.clone());
    let Some(kind) = schema::kind(&change.key).filter(|_| !of_a_list(&change.key)) else {
        let nearest = schema::nearest(&change.key).filter(|key| !of_a_list(key));
        return Err(ConfigError::UnknownKey { origin, key: change.key.clone(), nearest });
    };
    let value = read(kind, &change.value);
    let mut alone = Table::new();
    put(&mut alone, &change.key, value.clone());
    schema::check(&alone).map_err(|finding| match finding.wrong {
        Wrong::Unknown => {
            let key = finding.path.join(".");
            ConfigError::UnknownKey { origin: origin.clone(), nearest: schema::nearest(&key), key }
        }
        Wrong::Value { found, expected } => {
            ConfigError::WrongValue { origin: origin.clone(), key: finding.path.join("."), found, expected }
        }
    })?;
    put(table, &change.key, value);
    Ok(())
}

/// Keys of a list's tables have no position by which a flag could name them.
fn of_a_list(key: &str) -> bool {
    ["nodes.", "pool_overrides.", "auth.users."].iter().any(|list| key.starts_with(list))
}

/// Every key that a flag or a variable may set.
pub fn settable() -> impl Iterator<Item = &'static str> {
    schema::KEYS.iter().map(|(key, _)| *key).filter(|key| !of_a_list(key))
}

/// The environment variable of a key: `pool.size` → `PGWEIR_POOL_SIZE`.
pub fn variable(key: &str) -> String {
    format!("PGWEIR_{}", key.replace('.', "_").to_uppercase())
}

/// Text → value, by the key's kind: `5` is a number for a count and a text for a password.
fn read(kind: Kind, text: &str) -> Value {
    let parsed = || format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let texts = || Value::Array(text.split(',').map(|part| Value::String(part.trim().to_owned())).collect());
    match kind {
        Kind::Count | Kind::Positive | Kind::Port | Kind::Workers | Kind::Size => {
            text.trim().parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer)
        }
        Kind::Texts | Kind::Addresses | Kind::Nodes if !text.trim_start().starts_with('[') => texts(),
        Kind::Texts | Kind::Addresses | Kind::Nodes | Kind::Tables => {
            parsed().unwrap_or_else(|| Value::String(text.to_owned()))
        }
        _ => Value::String(text.to_owned()),
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            // The file was checked before: a section is a table.
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}
