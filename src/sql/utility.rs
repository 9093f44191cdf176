//! Pure: utility statements → where they run and what they leave behind. Each is listed by name; one that is not goes to
//! the primary with every act that it could have. Called by `statement`.

use super::findings::Findings;
use super::names::Name;
use super::parse::{Tree, node};
use super::proof::body;
use super::{Act, Pin, Reason, statement};
use crate::catalog::{Catalog, Conduct};

pub(super) fn read(tree: &Tree, catalog: &Catalog, findings: &mut Findings) {
    match tree {
        Tree::DiscardStmt(discard) => discard_statement(discard, findings),
        Tree::DeallocateStmt(deallocate) => {
            findings.act(if deallocate.isall {
                Act::DeallocateAll
            } else {
                Act::Deallocate { name: deallocate.name.clone() }
            });
            findings.follow(Reason::SessionState("a prepared statement".to_owned()));
        }
        Tree::FetchStmt(_) => findings.follow(Reason::SessionState("a cursor".to_owned())),
        Tree::ClosePortalStmt(_) => {
            findings.act(Act::Audit);
            findings.follow(Reason::SessionState("a cursor".to_owned()));
        }
        Tree::ConstraintsSetStmt(_) => findings.follow(Reason::TransactionControl),
        Tree::PrepareStmt(_) | Tree::ExecuteStmt(_) => {
            // What EXECUTE runs was written elsewhere: anything may have happened.
            findings.act(Act::Audit);
            if let Tree::ExecuteStmt(_) = tree {
                findings.act(Act::Sequence);
            }
            findings.forbid(Reason::SessionState("a prepared statement".to_owned()));
        }
        Tree::ListenStmt(_) | Tree::UnlistenStmt(_) => {
            findings.act(Act::Audit);
            findings.forbid(Reason::SessionState("LISTEN".to_owned()));
        }
        Tree::LoadStmt(_) => {
            findings.act(Act::Pin(Pin::Load));
            findings.forbid(Reason::SessionState("a loaded library".to_owned()));
        }
        Tree::NotifyStmt(_) => forbid("NOTIFY", findings),
        Tree::CheckPointStmt(_) => forbid("CHECKPOINT", findings),
        Tree::LockStmt(_) => forbid("LOCK", findings),
        Tree::AlterSystemStmt(_) => forbid("ALTER SYSTEM", findings),
        Tree::VacuumStmt(_) | Tree::ClusterStmt(_) | Tree::ReindexStmt(_) => {
            forbid("VACUUM, ANALYZE, CLUSTER or REINDEX", findings)
        }
        Tree::CommentStmt(_) | Tree::SecLabelStmt(_) => forbid("COMMENT", findings),
        Tree::DoStmt(block) => do_block(block, findings),
        Tree::CallStmt(call) => call_statement(call, catalog, findings),
        Tree::TruncateStmt(truncate) => truncate_statement(truncate, catalog, findings),
        Tree::RefreshMatViewStmt(_) => {
            findings.act(Act::Audit);
            forbid("REFRESH MATERIALIZED VIEW", findings);
        }
        _ => definition(tree, catalog, findings),
    }
}

fn forbid(command: &str, findings: &mut Findings) {
    findings.forbid(Reason::Utility(command.to_owned()));
}

fn discard_statement(discard: &node::DiscardStmt, findings: &mut Findings) {
    use node::DiscardMode as Mode;
    match discard.target() {
        Mode::DiscardAll => findings.act(Act::DiscardAll),
        // Cached plans are no state that anybody can see.
        Mode::DiscardPlans => {}
        Mode::DiscardSequences | Mode::DiscardTemp | Mode::Undefined => findings.act(Act::Audit),
    }
    findings.follow(Reason::SessionState("DISCARD".to_owned()));
}

fn do_block(block: &node::DoStmt, findings: &mut Findings) {
    let mut conduct = Conduct::AUDIT.and(Conduct::SEQUENCE);
    for argument in &block.args {
        if let Some(Tree::DefElem(option)) = argument.node.as_ref()
            && let Some(text) = option.arg.as_deref().and_then(super::names::string)
        {
            findings.looked_at_literal();
            conduct = conduct.and(body::read(text).conduct);
        }
    }
    findings.conduct(conduct);
    forbid("DO", findings);
}

fn call_statement(call: &node::CallStmt, catalog: &Catalog, findings: &mut Findings) {
    findings.act(Act::Audit);
    findings.act(Act::Sequence);
    if let Some(function) = &call.funccall {
        let wrapped = Tree::FuncCall(function.clone());
        let mut inner = Findings::default();
        statement::query(&wrapped, catalog, &mut inner);
        for act in inner.into_parts().2 {
            findings.act(act);
        }
    }
    forbid("CALL", findings);
}

fn truncate_statement(truncate: &node::TruncateStmt, catalog: &Catalog, findings: &mut Findings) {
    for relation in &truncate.relations {
        if let Some(Tree::RangeVar(range)) = relation.node.as_ref() {
            let name = Name::of_relation(range);
            for relation in catalog.relations_of(name.schema, name.name) {
                // TRUNCATE fires triggers, but takes no defaults.
                if relation.write_conduct.has(Conduct::AUDIT) {
                    findings.act(Act::Audit);
                }
            }
        }
    }
    findings.forbid(Reason::Write("TRUNCATE".to_owned()));
}

/// Where the object that a CREATE makes will live.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lives {
    Temporary,
    Permanent,
    /// An unqualified name follows search_path, which may begin with pg_temp.
    Unclear,
}

fn lives(range: Option<&node::RangeVar>) -> Lives {
    let Some(range) = range else { return Lives::Unclear };
    let name = Name::of_relation(range);
    if range.relpersistence == "t" || name.is_temporary() {
        return Lives::Temporary;
    }
    if name.schema.is_some() { Lives::Permanent } else { Lives::Unclear }
}

fn lives_by_list(list: &[node::Node]) -> Lives {
    match Name::from_list(list) {
        Some(name) if name.is_temporary() => Lives::Temporary,
        Some(Name { schema: Some(_), .. }) => Lives::Permanent,
        _ => Lives::Unclear,
    }
}

fn created(lives: Lives, command: &str, findings: &mut Findings) {
    if lives != Lives::Temporary {
        findings.act(Act::Ddl);
    }
    if lives != Lives::Permanent {
        findings.act(Act::Audit);
    }
    findings.forbid(Reason::Utility(command.to_owned()));
}

/// CREATE, ALTER, DROP, GRANT and their kin.
fn definition(tree: &Tree, catalog: &Catalog, findings: &mut Findings) {
    match tree {
        Tree::CreateStmt(create) => create_table(create, findings),
        Tree::CreateTableAsStmt(create) => {
            if let Some(inner) = create.query.as_ref().and_then(|q| q.node.as_ref()) {
                for act in statement::read(inner, catalog).into_parts().2 {
                    findings.act(act);
                }
            }
            created(lives(create.into.as_ref().and_then(|i| i.rel.as_ref())), "CREATE TABLE AS", findings);
        }
        Tree::ViewStmt(view) => created(lives(view.view.as_ref()), "CREATE VIEW", findings),
        Tree::CreateSeqStmt(sequence) => created(lives(sequence.sequence.as_ref()), "CREATE SEQUENCE", findings),
        Tree::CreateFunctionStmt(function) => created(lives_by_list(&function.funcname), "CREATE FUNCTION", findings),
        Tree::CompositeTypeStmt(composite) => created(lives(composite.typevar.as_ref()), "CREATE TYPE", findings),
        Tree::CreateEnumStmt(of) => created(lives_by_list(&of.type_name), "CREATE TYPE", findings),
        Tree::CreateRangeStmt(of) => created(lives_by_list(&of.type_name), "CREATE TYPE", findings),
        Tree::CreateDomainStmt(domain) => created(lives_by_list(&domain.domainname), "CREATE DOMAIN", findings),
        Tree::DefineStmt(define) => created(lives_by_list(&define.defnames), "CREATE", findings),
        Tree::DropStmt(_) => created(Lives::Unclear, "DROP", findings),
        Tree::DropOwnedStmt(_) => created(Lives::Unclear, "DROP OWNED", findings),
        Tree::AlterObjectSchemaStmt(_) => created(Lives::Unclear, "ALTER … SET SCHEMA", findings),
        // An expression in an index or a new column's default runs at once.
        Tree::IndexStmt(_) => created(Lives::Unclear, "CREATE INDEX", findings),
        Tree::AlterTableStmt(_) => created(Lives::Unclear, "ALTER TABLE", findings),
        Tree::CreateSchemaStmt(_) | Tree::CreateExtensionStmt(_) => created(Lives::Unclear, "CREATE", findings),
        _ => permanent_definition(tree, findings),
    }
}

fn create_table(create: &node::CreateStmt, findings: &mut Findings) {
    let lives = lives(create.relation.as_ref());
    if lives != Lives::Temporary {
        // A READ ONLY transaction refuses it before it looks at anything (PreventCommandIfReadOnly).
        findings.refuse(Reason::Utility("CREATE TABLE".to_owned()));
        findings.act(Act::Ddl);
        if lives == Lives::Unclear {
            findings.act(Act::Audit);
        }
        return;
    }
    created(lives, "CREATE TABLE", findings);
}

fn permanent_definition(tree: &Tree, findings: &mut Findings) {
    let command = match tree {
        Tree::GrantStmt(_) | Tree::GrantRoleStmt(_) | Tree::AlterDefaultPrivilegesStmt(_) => "GRANT or REVOKE",
        Tree::CreateRoleStmt(_) | Tree::AlterRoleStmt(_) | Tree::AlterRoleSetStmt(_) | Tree::DropRoleStmt(_) => {
            "a role's definition"
        }
        Tree::CreatePolicyStmt(_) | Tree::AlterPolicyStmt(_) => "a policy's definition",
        Tree::RuleStmt(_) | Tree::CreateTrigStmt(_) | Tree::CreateEventTrigStmt(_) | Tree::AlterEventTrigStmt(_) => {
            "a trigger's definition"
        }
        Tree::AlterFunctionStmt(_) | Tree::AlterOperatorStmt(_) | Tree::AlterTypeStmt(_) | Tree::AlterDomainStmt(_) => {
            "ALTER"
        }
        Tree::AlterEnumStmt(_) | Tree::AlterSeqStmt(_) | Tree::AlterCollationStmt(_) | Tree::AlterStatsStmt(_) => {
            "ALTER"
        }
        Tree::RenameStmt(_)
        | Tree::AlterOwnerStmt(_)
        | Tree::AlterObjectDependsStmt(_)
        | Tree::ReassignOwnedStmt(_) => "ALTER",
        Tree::CreateCastStmt(_)
        | Tree::CreateTransformStmt(_)
        | Tree::CreateConversionStmt(_)
        | Tree::CreatePlangStmt(_) => "CREATE",
        Tree::CreateOpClassStmt(_)
        | Tree::CreateOpFamilyStmt(_)
        | Tree::AlterOpFamilyStmt(_)
        | Tree::CreateAmStmt(_) => "CREATE",
        Tree::CreateStatsStmt(_) | Tree::AlterExtensionStmt(_) | Tree::AlterExtensionContentsStmt(_) => "CREATE",
        Tree::CreateFdwStmt(_) | Tree::AlterFdwStmt(_) | Tree::CreateForeignServerStmt(_) => {
            "a foreign server's definition"
        }
        Tree::AlterForeignServerStmt(_) | Tree::CreateForeignTableStmt(_) | Tree::ImportForeignSchemaStmt(_) => {
            "a foreign table's definition"
        }
        Tree::CreateUserMappingStmt(_) | Tree::AlterUserMappingStmt(_) | Tree::DropUserMappingStmt(_) => {
            "a user mapping"
        }
        Tree::AlterTsdictionaryStmt(_) | Tree::AlterTsconfigurationStmt(_) => "a text search definition",
        Tree::CreatePublicationStmt(_) | Tree::AlterPublicationStmt(_) => "a publication's definition",
        Tree::CreateSubscriptionStmt(_) | Tree::AlterSubscriptionStmt(_) | Tree::DropSubscriptionStmt(_) => {
            "a subscription's definition"
        }
        Tree::CreatedbStmt(_) | Tree::DropdbStmt(_) | Tree::AlterDatabaseStmt(_) => "a database's definition",
        Tree::AlterDatabaseSetStmt(_) | Tree::AlterDatabaseRefreshCollStmt(_) => "a database's definition",
        Tree::CreateTableSpaceStmt(_) | Tree::DropTableSpaceStmt(_) | Tree::AlterTableSpaceOptionsStmt(_) => {
            "a tablespace's definition"
        }
        Tree::AlterTableMoveAllStmt(_) => "a tablespace's definition",
        _ => {
            findings.act(Act::Audit);
            findings.act(Act::Sequence);
            "a statement that is not known here"
        }
    };
    findings.act(Act::Ddl);
    findings.forbid(Reason::Utility(command.to_owned()));
}
