//! What the cache must keep apart, forget, and find again.

use super::*;
use crate::sql::classify::tests::fixture;

const LIMIT: usize = 64 << 10;

fn effect(cache: &mut VerdictCache, sql: &str, catalog: &Catalog) -> Effect {
    cache.verdict(sql.as_bytes(), catalog, Lexis::Standard).effect
}

#[test]
fn what_a_replica_refused_is_the_primarys_until_the_catalog_changes() {
    let mut catalog = fixture();
    let mut cache = VerdictCache::new(1 << 20, 1 << 16);
    for text in ["SELECT upper('1')", "SELECT current_setting('TimeZone')", "/* pgweir: replica */ SELECT 2"] {
        assert_eq!(effect(&mut cache, text, &catalog), Effect::Read);
        let edition = cache.edition(&catalog);
        cache.learn(text.as_bytes(), &catalog);
        assert_eq!(effect(&mut cache, text, &catalog), Effect::Primary, "{text}");
        assert_ne!(cache.edition(&catalog), edition, "sessions look their statements up anew");
    }
    assert_eq!(effect(&mut cache, "SELECT upper('7')", &catalog), Effect::Primary, "the same but for literals");
    assert_eq!(effect(&mut cache, "SELECT current_setting('DateStyle')", &catalog), Effect::Read, "another statement");
    let edition = cache.edition(&catalog);
    cache.learn(b"SELECT upper('1')", &catalog);
    cache.learn(b"DELETE FROM t", &catalog);
    assert_eq!(cache.edition(&catalog), edition, "nothing new");
    catalog.version += 1;
    assert_eq!(effect(&mut cache, "SELECT upper('1')", &catalog), Effect::Read);
}

#[test]
fn texts_that_differ_in_literals_share_a_verdict() {
    let (mut cache, catalog) = (VerdictCache::new(LIMIT, LIMIT), fixture());
    for id in 0..10 {
        assert_eq!(effect(&mut cache, &format!("SELECT * FROM t WHERE id = {id} -- {id}"), &catalog), Effect::Read);
    }
    assert_eq!(cache.stats(), Stats { hits: 9, misses: 1, parsed: 1, evicted: 0 });
}

#[test]
fn where_a_literal_matters_each_text_has_its_own() {
    let (mut cache, catalog) = (VerdictCache::new(LIMIT, LIMIT), fixture());
    for _ in 0..2 {
        assert_eq!(effect(&mut cache, "SELECT current_setting('TimeZone')", &catalog), Effect::Read);
        assert_eq!(effect(&mut cache, "SELECT current_setting('port')", &catalog), Effect::Primary);
        let set =
            |cache: &mut VerdictCache, sql: &str| cache.verdict(sql.as_bytes(), &catalog, Lexis::Standard).acts.clone();
        assert_ne!(set(&mut cache, "SET a.b = 'x'"), set(&mut cache, "SET a.b = 'y'"));
    }
}

#[test]
fn hints_are_part_of_the_key() {
    let (mut cache, catalog) = (VerdictCache::new(LIMIT, LIMIT), fixture());
    let mut hint = |sql: &str| cache.verdict(sql.as_bytes(), &catalog, Lexis::Standard).hint;
    assert_eq!(hint("SELECT 1"), None);
    assert_eq!(hint("/* pgweir: primary */ SELECT 1"), Some(super::super::Hint::Primary));
    assert_eq!(hint("/* pgweir: replica */ SELECT 1"), Some(super::super::Hint::Replica));
    assert_eq!(hint("/* trace=1 */ SELECT 1"), None);
}

#[test]
fn versions_and_databases_are_kept_apart() {
    let (mut cache, catalog) = (VerdictCache::new(LIMIT, LIMIT), fixture());
    assert_eq!(effect(&mut cache, "SELECT * FROM t", &catalog), Effect::Read);
    let other = Catalog { id: 7, version: 1, ..Catalog::default() };
    assert_eq!(effect(&mut cache, "SELECT * FROM t", &other), Effect::Primary);
    let mut newer = fixture();
    newer.version = 2;
    newer.relations.clear();
    assert_eq!(effect(&mut cache, "SELECT * FROM t", &newer), Effect::Primary);
    assert_eq!(effect(&mut cache, "SELECT * FROM t", &newer), Effect::Primary);
}

#[test]
fn an_unusual_lexis_is_never_read() {
    let (mut cache, catalog) = (VerdictCache::new(LIMIT, LIMIT), fixture());
    let verdict = cache.verdict(b"SELECT 'a\\' ; INSERT INTO t VALUES(1) --'", &catalog, Lexis::Unusual);
    assert_eq!(verdict.effect, Effect::Primary);
}

#[test]
fn a_text_over_the_limit_is_not_parsed() {
    let (mut cache, catalog) = (VerdictCache::new(LIMIT, 16), fixture());
    let verdict = cache.verdict(b"SELECT 1                    ", &catalog, Lexis::Standard);
    assert!(matches!(verdict.reason, Reason::Unparsed(_)));
    assert!(verdict.acts.contains(&Act::Audit));
}

#[test]
fn bytes_are_bounded_and_what_is_used_stays() {
    let (mut cache, catalog) = (VerdictCache::new(8 << 10, LIMIT), fixture());
    let used = "SELECT count(id) FROM t";
    effect(&mut cache, used, &catalog);
    for n in 0..500 {
        effect(&mut cache, &format!("SELECT id AS c{n} FROM t"), &catalog);
        let misses = cache.stats().misses;
        effect(&mut cache, used, &catalog);
        assert_eq!(cache.stats().misses, misses, "the text in use was evicted at {n}");
        assert!(cache.bytes() <= 8 << 10);
    }
    assert!(cache.stats().evicted > 400);
    // The index and the slots still agree.
    for n in 480..500 {
        assert_eq!(effect(&mut cache, &format!("SELECT id AS c{n} FROM t"), &catalog), Effect::Read);
    }
}
