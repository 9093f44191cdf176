//! What can be wrong with a configuration, and where. Each error is one line for the person who typed the value:
//! the file with line and column (or the flag or variable), the key, and what was expected.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A place in the file.
    File { file: PathBuf, line: usize, column: usize },
    /// The whole file, or a key that it lacks.
    Whole(PathBuf),
    /// A flag or an environment variable, by its name.
    Flag(String),
    /// Nothing that was written: a value is missing.
    Nowhere,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { file, line, column } => write!(f, "{}:{line}:{column}: ", file.display()),
            Origin::Whole(file) => write!(f, "{}: ", file.display()),
            Origin::Flag(name) => write!(f, "{name}: "),
            Origin::Nowhere => Ok(()),
        }
    }
}

/// Why there is no configuration. The operator's fault, always.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {why}", file.display())]
    Unreadable { file: PathBuf, why: String },
    #[error("{origin}not TOML: {why}")]
    Syntax { origin: Origin, why: String },
    #[error("{origin}unknown key `{key}`{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey { origin: Origin, key: String, nearest: Option<String> },
    #[error("{origin}`{key}` is {found}, expected {expected}")]
    WrongValue { origin: Origin, key: String, found: String, expected: String },
    /// Values that do not go together, or one that is missing.
    #[error("{origin}`{key}` {why}")]
    Invalid { origin: Origin, key: String, why: String },
}
