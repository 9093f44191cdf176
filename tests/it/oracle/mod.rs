//! The oracle: every statement of a corpus runs on the primary and on a caught-up replica, and the classifier is held
//! against the outcome. A statement that it lets go to a replica must answer there as on the primary, and write nothing.
//!
//! The corpus: cases.txt, what the tests of this repository send, every built-in function called with generated arguments,
//! and statements of a grammar. PGWEIR_IT_ORACLE says how many statements of the last two (`make oracle`: thousands),
//! PGWEIR_IT_ORACLE_SEED which. pgweir itself does not run here; the judge is the classifier of its library.

mod builtins;
mod dice;
mod expressions;
mod grammar;
mod judge;
mod written;

use judge::{Judge, Routed, Verdicts};

use crate::harness::{Cluster, front};
use dice::Dice;

/// Objects of every kind, harmless and hostile, made by the superuser.
const SCHEMA: &str = include_str!("schema.sql");

/// Where a statement of the corpus comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Cases,
    Tests,
    Builtins,
    Grammar,
}

/// One statement of the corpus.
struct Statement {
    source: Source,
    sql: String,
    /// What the case says; generated statements say nothing.
    expected: Option<Routed>,
    /// Whether it may run even if the classifier lets it only to the primary.
    may_run: bool,
}

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[tokio::test]
async fn what_goes_to_a_replica_answers_there_as_on_the_primary() {
    if front::direct() {
        return;
    }
    let size = number("PGWEIR_IT_ORACLE", 150);
    let seed = number("PGWEIR_IT_ORACLE_SEED", 1);
    let cluster = Cluster::start("oracle").await;
    cluster.primary.run_in("app", SCHEMA).await;
    let mut judge = Judge::new(&cluster).await;
    let mut dice = Dice::new(seed as u64);
    let mut corpus = written::cases(judge.version());
    corpus.extend(written::of_the_tests());
    corpus.extend(builtins::calls(&cluster.primary.superuser("app").await, size, &mut dice).await);
    corpus.extend((0..size).map(|_| grammar::statement(&mut dice)));
    let mut verdicts = Verdicts::default();
    for statement in &corpus {
        judge.hear(statement, &mut verdicts).await;
    }
    println!("oracle: seed {seed}\n{verdicts}");
    assert!(verdicts.wrong.is_empty(), "the classifier is wrong:\n{}", verdicts.wrong.join("\n"));
    // The rest are answers that are alike by luck (a sequence that nobody moved, a lock that nobody else wants).
    let share = verdicts.share();
    assert!(share >= 0.75, "of what replicas answer alike, {:.1} % may go there", share * 100.0);
}
