//! The published snapshots: one `DatabaseCatalog` for each database that a client asked for. Sessions read the newest
//! snapshot and tell of DDL that they forward; the loader publishes. Nobody waits here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use super::Catalog;
use super::loader::{self, Primary};
use crate::config::RoutingConfig;

/// All databases of this process.
pub struct Catalogs {
    /// The next database's.
    ids: AtomicU32,
    databases: Mutex<HashMap<Box<str>, Arc<DatabaseCatalog>>>,
    primary: Arc<dyn Primary>,
    config: Arc<RoutingConfig>,
    prove: loader::Prove,
    /// The control runtime: loading never runs on a worker.
    runtime: tokio::runtime::Handle,
}

impl Catalogs {
    pub fn new(
        primary: Arc<dyn Primary>,
        config: RoutingConfig,
        prove: loader::Prove,
        runtime: tokio::runtime::Handle,
    ) -> Arc<Catalogs> {
        Arc::new(Catalogs {
            databases: Mutex::default(),
            ids: AtomicU32::new(0),
            primary,
            prove,
            config: Arc::new(config),
            runtime,
        })
    }

    /// The catalog of a database; the first call starts loading it. Called at login, not for each statement.
    pub fn database(&self, name: &str) -> Arc<DatabaseCatalog> {
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = databases.get(name) {
            return Arc::clone(known);
        }
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let database = Arc::new(DatabaseCatalog::new(id, name));
        databases.insert(name.into(), Arc::clone(&database));
        self.runtime.spawn(loader::run(
            Arc::clone(&database),
            Arc::clone(&self.primary),
            Arc::clone(&self.config),
            self.prove,
        ));
        database
    }

    /// Nobody may be connected to a database that is dropped, renamed or copied: its connection is closed, and a later
    /// login starts anew.
    pub fn forget(&self, name: &str) {
        if let Some(database) = self.databases.lock().unwrap_or_else(PoisonError::into_inner).remove(name) {
            database.forget();
        }
    }

    /// Gives up the connections to databases that somebody wants for himself and no session uses; returns their names.
    pub fn give_up_wanted(&self) -> Vec<Box<str>> {
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        // A login that comes now waits for the lock on the map.
        let given_up: Vec<_> =
            databases.extract_if(|_, database| database.is_wanted() && database.is_unused()).collect();
        given_up.iter().for_each(|(_, database)| database.forget());
        given_up.into_iter().map(|(name, _)| name).collect()
    }

    /// For the console.
    pub fn all(&self) -> Vec<Arc<DatabaseCatalog>> {
        self.databases.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }
}

/// One database's newest snapshot, and whether it is current.
pub struct DatabaseCatalog {
    pub id: u32,
    pub name: Box<str>,
    snapshot: ArcSwap<Catalog>,
    /// DDL statements that were forwarded, and those of them whose end was seen.
    started: AtomicU64,
    ended: AtomicU64,
    /// `ended` as it was before the newest snapshot was read. Only if it equals `started` has that snapshot seen all DDL
    /// of ours; a statement that is still under way keeps `started` above it.
    covered: AtomicU64,
    /// Readings that failed, for metrics.
    failures: AtomicU64,
    forgotten: AtomicBool,
    /// Another session drops, renames or copies the database, for which nobody may be connected to it.
    wanted: AtomicBool,
    dirty: Notify,
    loaded: Notify,
}

impl DatabaseCatalog {
    /// With an empty snapshot of version 0.
    pub fn new(id: u32, name: &str) -> DatabaseCatalog {
        DatabaseCatalog {
            id,
            name: name.into(),
            snapshot: ArcSwap::from_pointee(Catalog { id, ..Catalog::default() }),
            started: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            covered: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            forgotten: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            dirty: Notify::new(),
            loaded: Notify::new(),
        }
    }

    pub fn snapshot(&self) -> Guard<Arc<Catalog>> {
        self.snapshot.load()
    }

    /// False from `ddl_started()` until a snapshot is there that was read after the matching `ddl_ended()`.
    pub fn is_current(&self) -> bool {
        // `covered` first: it may only grow, and a DDL that starts in between must be seen.
        let covered = self.covered.load(Ordering::SeqCst);
        covered == self.started.load(Ordering::SeqCst)
    }

    /// Nobody follows this catalog any more.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::SeqCst)
    }

    fn forget(&self) {
        self.forgotten.store(true, Ordering::SeqCst);
        self.dirty.notify_one();
    }

    /// Only the map of catalogs and the loader hold it: no session does.
    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) <= 2
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// The loader's: whether somebody wants the database for himself.
    pub(super) fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::SeqCst);
    }

    /// Before DDL is forwarded.
    pub fn ddl_started(&self) {
        self.started.fetch_add(1, Ordering::SeqCst);
    }

    /// When its transaction has ended, whatever the outcome; exactly once for each `ddl_started()`.
    pub fn ddl_ended(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
        self.dirty.notify_one();
    }

    /// Until there is a snapshot and it is current.
    pub async fn loaded(&self) {
        loop {
            let loaded = self.loaded.notified();
            tokio::pin!(loaded);
            loaded.as_mut().enable();
            if self.snapshot.load().is_loaded() && self.is_current() {
                return;
            }
            loaded.await;
        }
    }

    /// So often the catalog could not be read.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The loader's: what a snapshot that begins now will have seen.
    pub(super) fn ended_so_far(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// The loader's: whether DDL of ours ended that no snapshot has seen.
    pub(super) fn is_dirty(&self) -> bool {
        self.ended.load(Ordering::SeqCst) != self.covered.load(Ordering::SeqCst)
    }

    pub(super) async fn until_dirty(&self) {
        self.dirty.notified().await;
    }

    /// The loader's: a snapshot read when `ended_so_far()` was `covered`.
    pub(super) fn publish(&self, mut catalog: Catalog, covered: u64) {
        catalog.id = self.id;
        catalog.version = self.snapshot.load().version + 1;
        self.snapshot.store(Arc::new(catalog));
        self.covered.store(covered, Ordering::SeqCst);
        self.loaded.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_current_only_if_it_saw_all_ddl() {
        let database = DatabaseCatalog::new(3, "app");
        database.publish(Catalog::default(), database.ended_so_far());
        assert!(database.is_current());
        database.ddl_started();
        assert!(!database.is_current());
        // A snapshot in the middle of the DDL saw nothing of it.
        database.publish(Catalog::default(), database.ended_so_far());
        assert!(!database.is_current());
        database.ddl_started();
        database.ddl_ended();
        database.publish(Catalog::default(), database.ended_so_far());
        assert!(!database.is_current(), "another one is still under way");
        database.ddl_ended();
        assert!(!database.is_current() && database.is_dirty());
        database.publish(Catalog::default(), database.ended_so_far());
        assert!(database.is_current());
        assert_eq!((database.snapshot().id, database.snapshot().version), (3, 4));
    }
}
