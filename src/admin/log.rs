//! Where log lines go: standard error, one line for each event, as text or JSON, with RFC 3339 timestamps in UTC.
//! `cli` calls `init` once, before anything else runs. What may be in a line is up to whoever writes it; never a
//! password, a verifier or a bind value.

use std::io::{self, Write};

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{LogConfig, LogFormat};

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.level \"{level}\" is no level (error, warn, info, debug, trace) and no tracing filter: {error}")]
    Level { level: String, error: ParseError },
    #[error("logging is already set up: {0}")]
    Twice(#[from] TryInitError),
}

/// Sends the log lines of the whole process to standard error.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    Ok(subscriber(config, io::stderr)?.try_init()?)
}

fn subscriber<W>(config: &LogConfig, writer: W) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(&config.level);
    let filter = filter.map_err(|error| LogError::Level { level: config.level.clone(), error })?;
    let writer = OneLine(writer);
    let lines = fmt::Subscriber::builder().with_env_filter(filter).with_writer(writer).with_ansi(false);
    Ok(match config.format {
        LogFormat::Text => Box::new(lines.finish()),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_current_span(false).finish()),
    })
}

/// Keeps an event on one line whatever is in it: a node's error message has line ends, and a client's name may have
/// them on purpose, to forge a line of ours.
struct OneLine<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine(self.0.make_writer())
    }
}

impl<W: Write> Write for OneLine<W> {
    /// The formatter writes a whole event at once, with the line end as its last byte.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let body = event.strip_suffix(b"\n").unwrap_or(event);
        if !body.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return self.0.write(event);
        }
        let mut line = Vec::with_capacity(event.len() + 16);
        for byte in body {
            match byte {
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\r' => line.extend_from_slice(b"\\r"),
                other => line.push(*other),
            }
        }
        line.extend_from_slice(&event[body.len()..]);
        self.0.write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str, events: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let config = LogConfig { format, level: level.to_owned() };
        let subscriber = subscriber(&config, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// `2026-11-22T21:00:00.123456Z`, told apart by its punctuation.
    fn is_rfc3339_utc(text: &str) -> bool {
        let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        shape == "0000-00-00T00:00:00.000000Z"
    }

    #[test]
    fn text_is_one_line_for_each_event_even_when_a_field_has_line_ends() {
        let text = logged(LogFormat::Text, "info", || {
            tracing::info!(session = 7, detail = "two\nlines", error = %"three\r\nmore\nlines", "client\nconnected");
            tracing::debug!("not at this level");
            tracing::warn!("second");
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(is_rfc3339_utc(lines[0].split(' ').next().unwrap()), "{text}");
        assert!(lines[0].contains(r"client\nconnected") && lines[0].contains("session=7"), "{text}");
        assert!(lines[0].contains(r"error=three\r\nmore\nlines"), "{text}");
        assert!(!text.contains('\u{1b}'), "no colour codes in a log file: {text:?}");
    }

    #[test]
    fn json_is_one_object_for_each_event() {
        let text = logged(LogFormat::Json, "debug", || tracing::debug!(session = 7, node = "db1:5432", "probe failed"));
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["level"], "DEBUG");
        assert_eq!(line["message"], "probe failed");
        assert_eq!(line["session"], 7);
        assert_eq!(line["node"], "db1:5432");
        assert!(is_rfc3339_utc(line["timestamp"].as_str().unwrap()), "{text}");
    }

    #[test]
    fn a_filter_may_name_modules() {
        let text = logged(LogFormat::Text, "warn,pgweir::admin=debug", || {
            tracing::debug!(target: "pgweir::admin::http", "shown");
            tracing::debug!(target: "pgweir::pool", "hidden");
        });
        assert!(text.contains("shown") && !text.contains("hidden"), "{text}");
    }

    #[test]
    fn a_wrong_level_is_named() {
        let config = LogConfig { format: LogFormat::Text, level: "loud=very".to_owned() };
        let error = subscriber(&config, io::stderr).err().unwrap().to_string();
        assert!(error.contains("log.level \"loud=very\""), "{error}");
    }
}
