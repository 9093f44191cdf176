//! Pure: the `options` startup parameter, PostgreSQL's command line for one session: `-c name=value`, `--name=value`.
//! Split as pg_split_opts does. Other switches are refused with PostgreSQL's own text.

use super::super::refusal::Refusal;

/// Splits at white space; a backslash takes the next byte as it is.
fn split(text: &str) -> Vec<String> {
    let space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}');
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| space(*c)).is_some() {}
        if chars.peek().is_none() {
            return words;
        }
        let mut word = String::new();
        while let Some(c) = chars.next_if(|c| !space(*c)) {
            match c {
                '\\' => word.extend(chars.next()),
                c => word.push(c),
            }
        }
        words.push(word);
    }
}

fn invalid(word: &str) -> Refusal {
    Refusal::new("42601", format!("invalid command-line argument for server process: {word}"))
        .hint("Try \"postgres --help\" for more information.")
}

/// `name=value`; dashes in a name mean underscores.
fn setting(text: &str, shown: &str) -> Result<(String, String), Refusal> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| Refusal::new("42601", format!("{shown}{text} requires a value")))?;
    Ok((name.replace('-', "_"), value.to_owned()))
}

/// The settings in the order in which they stand.
pub fn settings(text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut settings = Vec::new();
    let mut words = split(text).into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            // The end of the switches: nothing may follow it.
            match words.next() {
                Some(rest) => return Err(invalid(&rest)),
                None => break,
            }
        } else if let Some(long) = word.strip_prefix("--") {
            settings.push(setting(long, "--")?);
        } else if word == "-c" {
            let value = words.next().ok_or_else(|| invalid(&word))?;
            settings.push(setting(&value, "-c ")?);
        } else if let Some(attached) = word.strip_prefix("-c") {
            settings.push(setting(attached, "-c ")?);
        } else {
            return Err(invalid(&word));
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let check = |text: &str, expect: &[(&str, &str)]| {
            let found = settings(text).unwrap();
            let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, expect, "{text:?}");
        };
        check("", &[]);
        check("  \t", &[]);
        check("-c a=b", &[("a", "b")]);
        check("-ca=b --c=d  -c\te=f", &[("a", "b"), ("c", "d"), ("e", "f")]);
        check("--default-transaction-isolation=serializable", &[("default_transaction_isolation", "serializable")]);
        check(r"-c search_path=a\ b,c\\d", &[("search_path", r"a b,c\d")]);
        check(r"-c a=b\", &[("a", "b")]);
        check("-c a=", &[("a", "")]);
        check("-c a=b=c", &[("a", "b=c")]);
        check("-c a=1 -c a=2", &[("a", "1"), ("a", "2")]);
        check("-c pgweir.consistency=strict --", &[("pgweir.consistency", "strict")]);
        check("-c a=ü\\ é", &[("a", "ü é")]);
    }

    #[test]
    fn refusals() {
        for (text, expect) in [
            ("-x", "invalid command-line argument for server process: -x"),
            ("-c a=b foo", "invalid command-line argument for server process: foo"),
            ("-c", "invalid command-line argument for server process: -c"),
            ("-- a", "invalid command-line argument for server process: a"),
            ("-c work_mem", "-c work_mem requires a value"),
            ("--work_mem", "--work_mem requires a value"),
            ("-", "invalid command-line argument for server process: -"),
        ] {
            let error = settings(text).unwrap_err();
            assert_eq!((error.sqlstate, error.message.as_str()), ("42601", expect), "{text}");
        }
    }
}
