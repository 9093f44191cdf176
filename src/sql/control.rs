//! Pure: SET, RESET, SHOW and transaction control → acts. The session's machine relies on the acts being exact: what it
//! cannot be told exactly becomes an `Audit`. Called by `statement`.

use super::findings::Findings;
use super::parse::{Tree, node};
use super::setting;
use super::{Act, Isolation, Reason, TransactionModes};

pub(super) fn transaction(statement: &node::TransactionStmt, findings: &mut Findings) {
    use node::TransactionStmtKind as Kind;
    let chain = statement.chain;
    match statement.kind() {
        Kind::TransStmtBegin | Kind::TransStmtStart => findings.act(Act::Begin(modes(&statement.options))),
        Kind::TransStmtCommit => findings.act(Act::Commit { chain }),
        Kind::TransStmtRollback => findings.act(Act::Rollback { chain }),
        Kind::TransStmtSavepoint | Kind::TransStmtRelease | Kind::TransStmtRollbackTo => {}
        Kind::TransStmtPrepare => {
            findings.act(Act::PrepareTransaction);
            findings.forbid(Reason::Utility("PREPARE TRANSACTION".to_owned()));
        }
        Kind::TransStmtCommitPrepared | Kind::TransStmtRollbackPrepared => {
            // What was prepared is unknown here: it may have been DDL.
            findings.act(Act::Ddl);
            findings.forbid(Reason::Utility("COMMIT PREPARED".to_owned()));
        }
        Kind::Undefined => {
            findings.act(Act::Audit);
            findings.forbid(Reason::Unparsed("transaction control of an unknown kind".to_owned()));
        }
    }
    findings.follow(Reason::TransactionControl);
}

pub(super) fn modes(options: &[node::Node]) -> TransactionModes {
    let mut modes = TransactionModes::default();
    for option in options {
        let Some(Tree::DefElem(option)) = option.node.as_ref() else { continue };
        let argument = option.arg.as_deref().and_then(constant);
        match (option.defname.as_str(), argument) {
            ("transaction_isolation", Some(Constant::Text(level))) => modes.isolation = isolation(level),
            ("transaction_read_only", Some(Constant::Number(n))) => modes.read_only = Some(n != 0),
            ("transaction_deferrable", Some(Constant::Number(n))) => modes.deferrable = Some(n != 0),
            _ => {}
        }
    }
    modes
}

enum Constant<'a> {
    Text(&'a str),
    Number(i32),
}

fn constant(node: &node::Node) -> Option<Constant<'_>> {
    use node::a_const::Val;
    match node.node.as_ref()? {
        Tree::AConst(constant) => match constant.val.as_ref()? {
            Val::Sval(s) => Some(Constant::Text(&s.sval)),
            Val::Ival(i) => Some(Constant::Number(i.ival)),
            Val::Boolval(b) => Some(Constant::Number(i32::from(b.boolval))),
            _ => None,
        },
        Tree::String(s) => Some(Constant::Text(&s.sval)),
        Tree::Integer(i) => Some(Constant::Number(i.ival)),
        Tree::Boolean(b) => Some(Constant::Number(i32::from(b.boolval))),
        _ => None,
    }
}

fn isolation(level: &str) -> Option<Isolation> {
    match level.to_ascii_lowercase().as_str() {
        "read uncommitted" => Some(Isolation::ReadUncommitted),
        "read committed" => Some(Isolation::ReadCommitted),
        "repeatable read" => Some(Isolation::RepeatableRead),
        "serializable" => Some(Isolation::Serializable),
        _ => None,
    }
}

pub(super) fn show(name: &str, findings: &mut Findings) {
    if !setting::is_alike_everywhere(name) {
        findings.forbid(Reason::UnsafeSetting(name.to_owned()));
    }
}

pub(super) fn set(statement: &node::VariableSetStmt, findings: &mut Findings) {
    use node::VariableSetKind as Kind;
    findings.looked_at_literal();
    let name = statement.name.to_ascii_lowercase();
    let reason = Reason::SessionState(format!("SET {}", statement.name));
    match statement.kind() {
        Kind::VarSetMulti => return set_multi(statement, reason, findings),
        Kind::VarResetAll => findings.act(Act::ResetAll),
        Kind::VarSetValue if name.starts_with("transaction_") => {
            return set_transaction_setting(&name, statement, reason, findings);
        }
        Kind::VarSetDefault | Kind::VarReset if name.starts_with("transaction_") => {
            findings.act(Act::Audit);
            findings.forbid(reason);
            return;
        }
        _ if statement.is_local => {}
        Kind::VarSetValue => match setting::value(&name, &statement.args) {
            Some(value) => findings.act(Act::Set { name, value }),
            None => {
                findings.act(Act::Audit);
                findings.forbid(reason);
                return;
            }
        },
        Kind::VarSetDefault | Kind::VarReset => findings.act(Act::Reset { name }),
        Kind::VarSetCurrent | Kind::Undefined => {
            findings.act(Act::Audit);
            findings.forbid(reason);
            return;
        }
    }
    findings.follow(reason);
}

fn set_multi(statement: &node::VariableSetStmt, reason: Reason, findings: &mut Findings) {
    match statement.name.as_str() {
        "TRANSACTION" => {
            findings.act(Act::SetTransaction(modes(&statement.args)));
            findings.follow(Reason::TransactionControl);
        }
        "SESSION CHARACTERISTICS" => {
            for (name, value) in characteristics(modes(&statement.args)) {
                findings.act(Act::Set { name: name.to_owned(), value: value.to_owned() });
            }
            findings.follow(reason);
        }
        _ => {
            // SET TRANSACTION SNAPSHOT: the snapshot lies in a file of the primary.
            findings.forbid(Reason::SessionState("an imported snapshot".to_owned()));
        }
    }
}

fn characteristics(modes: TransactionModes) -> impl Iterator<Item = (&'static str, &'static str)> {
    let on_off = |on| if on { "on" } else { "off" };
    let isolation = modes.isolation.map(|level| match level {
        Isolation::ReadUncommitted => "read uncommitted",
        Isolation::ReadCommitted => "read committed",
        Isolation::RepeatableRead => "repeatable read",
        Isolation::Serializable => "serializable",
    });
    [
        isolation.map(|value| ("default_transaction_isolation", value)),
        modes.read_only.map(|on| ("default_transaction_read_only", on_off(on))),
        modes.deferrable.map(|on| ("default_transaction_deferrable", on_off(on))),
    ]
    .into_iter()
    .flatten()
}

/// `SET transaction_read_only = off` and its kind say what SET TRANSACTION says, with or without LOCAL.
fn set_transaction_setting(name: &str, statement: &node::VariableSetStmt, reason: Reason, findings: &mut Findings) {
    let value = setting::value(name, &statement.args).unwrap_or_default().to_ascii_lowercase();
    let flag = match value.as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    };
    let modes = match name {
        "transaction_isolation" => TransactionModes { isolation: isolation(&value), ..Default::default() },
        "transaction_read_only" => TransactionModes { read_only: flag, ..Default::default() },
        "transaction_deferrable" => TransactionModes { deferrable: flag, ..Default::default() },
        _ => TransactionModes::default(),
    };
    if modes == TransactionModes::default() {
        // transaction_timeout and the like are plain settings.
        match (name, statement.is_local) {
            ("transaction_timeout", true) => findings.follow(reason),
            ("transaction_timeout", false) => {
                findings.act(Act::Set { name: name.to_owned(), value });
                findings.follow(reason);
            }
            _ => {
                findings.act(Act::Audit);
                findings.forbid(reason);
            }
        }
        return;
    }
    findings.act(Act::SetTransaction(modes));
    findings.follow(Reason::TransactionControl);
}
