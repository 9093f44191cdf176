//! Roles, memberships and what sessions begin with belong to all databases: what one session changes of them, another sees as
//! soon as it would without pgweir, whatever it was that the pools had open before.

use crate::harness::front::{self, Front};
use crate::harness::raw::RawSession;
use crate::harness::{Session, wait};

/// One after the other on one cluster.
#[tokio::test]
async fn what_databases_share_changes_for_everyone_at_once() {
    let front = front::alone("shared", &[]).await;
    a_membership_revoked_in_another_database(&front).await;
    settings_of_roles_and_databases(&front).await;
}

async fn a_membership_revoked_in_another_database(front: &Front) {
    let primary = &front.cluster.primary;
    primary
        .run_in(
            "app",
            "CREATE TABLE ledger (a int); INSERT INTO ledger VALUES (1); REVOKE ALL ON ledger FROM PUBLIC;
             GRANT SELECT ON ledger TO auditor",
        )
        .await;
    let reader = front.connect("traced").await;
    if front.proxy().is_some() {
        wait::until("a replica is asked", || async {
            assert_eq!(reader.value("SELECT a FROM ledger /* shared */").await, "1");
            front.runs_of("/* shared */")[1..].iter().sum::<usize>() > 0
        })
        .await;
    }
    for replica in &front.cluster.replicas {
        replica.pause_replay().await;
    }
    let admin = Session::open(&front.url("admin").replace("/app", "/other")).await.expect("a login");
    admin.batch_execute("REVOKE auditor FROM app").await.expect("it is revoked");
    assert_eq!(reader.sqlstate("SELECT a FROM ledger").await, "42501", "no replica that has not heard of it is asked");
    for replica in &front.cluster.replicas {
        replica.resume_replay().await;
    }
    admin.batch_execute("GRANT auditor TO app").await.expect("it is granted");
    assert_eq!(reader.value("SELECT a FROM ledger").await, "1");
}

/// What a session hears of `TimeZone` at its login, and its `work_mem`.
fn begins_with(port: u16) -> (String, String) {
    let mut session = RawSession::log_in(port, "app");
    let zone = session.parameters.iter().find(|(name, _)| name == "TimeZone").map(|(_, value)| value.clone());
    assert_eq!(zone.as_deref(), Some(session.value("SHOW TimeZone").as_str()), "what it was told is true");
    (zone.unwrap_or_default(), session.value("SHOW work_mem"))
}

async fn settings_of_roles_and_databases(front: &Front) {
    let before = begins_with(front.port());
    assert_eq!(before, begins_with(front.cluster.primary.port));
    // Others come and go, and some stay.
    let passing: Vec<_> = (0..4).map(|_| RawSession::log_in(front.port(), "app")).collect();
    let mut old = RawSession::log_in(front.port(), "app");
    assert_eq!(old.value("SHOW work_mem"), before.1);
    drop(passing);
    let mut admin = RawSession::log_in(front.port(), "admin");
    admin.query("ALTER ROLE app SET work_mem = '77MB'; ALTER DATABASE app SET TimeZone = 'Asia/Tokyo'");
    let now = ("Asia/Tokyo".to_owned(), "77MB".to_owned());
    assert_eq!(begins_with(front.cluster.primary.port), now, "PostgreSQL's own answer");
    for _ in 0..6 {
        assert_eq!(begins_with(front.port()), now);
    }
    assert_eq!(old.value("SHOW work_mem"), before.1, "who was there before goes on as before");
    assert_eq!(old.value("SHOW TimeZone"), before.0);
    // In a block it counts from COMMIT on, and somebody else's change as soon as it is found.
    admin.query("BEGIN; ALTER ROLE app SET work_mem = '78MB'");
    assert_eq!(begins_with(front.port()).1, "77MB");
    admin.query("COMMIT");
    assert_eq!(begins_with(front.port()).1, "78MB");
    front.cluster.primary.run_in("postgres", "ALTER ROLE app SET work_mem = '79MB'").await;
    wait::until("it is found", || async { begins_with(front.port()).1 == "79MB" }).await;
    // A login may meet it before it is found. Once it is, who was there before is asked where it began.
    wait::until("it is found for the others, too", || {
        let as_before = old.value("SHOW work_mem") == before.1;
        async move { as_before }
    })
    .await;
    assert_eq!(old.value("SHOW TimeZone"), before.0);
}
