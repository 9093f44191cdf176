//! Pure: text → PostgreSQL's own parse tree. The only file that names the parser crate; `classify` and the catalog's
//! fixpoint call it. It never interprets what it parsed.

pub use pg_query::NodeEnum as Tree;
pub use pg_query::NodeRef;
pub use pg_query::protobuf as node;

use super::weight::{self, Excess};

/// The text is no SQL to us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("{0}")]
    Syntax(String),
    #[error("it contains a zero byte")]
    ZeroByte,
    #[error("{0}")]
    TooMuch(Excess),
    #[error("a statement without content")]
    Hollow,
}

/// A text's statements, in order.
pub struct Parsed {
    tree: node::ParseResult,
}

impl Parsed {
    /// The statements' trees. A statement that the parser returned without content is an error, not nothing.
    pub fn statements(&self) -> Result<Vec<&Tree>, ParseError> {
        self.tree
            .stmts
            .iter()
            .map(|raw| raw.stmt.as_ref().and_then(|n| n.node.as_ref()).ok_or(ParseError::Hollow))
            .collect()
    }
}

/// Parses under standard_conforming_strings = on; a session with another lexis never comes here.
pub fn parse(sql: &str) -> Result<Parsed, ParseError> {
    if sql.as_bytes().contains(&0) {
        return Err(ParseError::ZeroByte);
    }
    if let Some(excess) = weight::excess(sql.as_bytes()) {
        return Err(ParseError::TooMuch(excess));
    }
    match pg_query::parse(sql, 0) {
        Ok(result) => Ok(Parsed { tree: result.protobuf }),
        Err(error) => Err(ParseError::Syntax(error.to_string())),
    }
}

/// The bytes of all tokens that are neither literals nor comments: the oracle of the lexer's test.
#[cfg(test)]
pub(super) fn tokens_without_literals(sql: &str) -> Option<String> {
    use node::Token;
    let literal = [
        Token::Iconst,
        Token::Fconst,
        Token::Sconst,
        Token::Usconst,
        Token::Bconst,
        Token::Xconst,
        Token::SqlComment,
        Token::CComment,
    ];
    let scanned = pg_query::scan(sql).ok()?;
    let kept = scanned.tokens.iter().filter(|t| !literal.contains(&t.token()));
    Some(kept.map(|t| &sql[t.start as usize..t.end as usize]).collect())
}
