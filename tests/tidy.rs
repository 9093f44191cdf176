//! The house rules as tests: arrows between modules, purity, sizes, names, file docs. They read the files of this
//! repository and build nothing. Each finding names file, line and rule. `tidy/scan.rs` reads, `tidy/rules.rs` judges,
//! and the second half here shows each rule failing on bad input.

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/scan.rs"]
mod scan;
#[path = "tidy/selftest.rs"]
mod selftest;

use std::fs;
use std::path::{Path, PathBuf};

use pgweir::metrics::labels::{PINS, REASONS};
use rules::Finding;
use scan::Source;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder`, sorted; without what is built.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            open.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("node_modules")));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/")
}

fn sources(folder: &str) -> Vec<Source> {
    let rust = files(folder).into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    rust.map(|path| Source::new(&relative(&path), &fs::read_to_string(&path).unwrap())).collect()
}

/// The modules of src/, by name.
fn modules() -> Vec<String> {
    let mut names: Vec<_> = sources("src").iter().map(|source| rules::module(&source.path).to_owned()).collect();
    names.dedup();
    names.retain(|name| name != "lib" && name != "main");
    names
}

fn assert_none(findings: impl IntoIterator<Item = Finding>) {
    let told: Vec<_> = findings.into_iter().map(|finding| finding.to_string()).collect();
    assert!(told.is_empty(), "{} against the house rules:\n{}", told.len(), told.join("\n"));
}

fn over_src(rule: fn(&Source) -> Vec<Finding>) {
    let sources = sources("src");
    assert!(sources.len() > 5, "where is src/?");
    assert_none(sources.iter().flat_map(rule));
}

fn over_everything(rule: fn(&Source) -> Vec<Finding>) {
    assert_none(["src", "tests"].into_iter().flat_map(sources).flat_map(|source| rule(&source)));
}

#[test]
fn every_file_opens_with_its_purpose() {
    over_everything(rules::opens_with_its_purpose);
}

#[test]
fn files_are_short() {
    over_src(rules::is_short);
}

#[test]
fn functions_are_short() {
    over_src(rules::functions_are_short);
}

#[test]
fn functions_are_flat() {
    over_src(rules::functions_are_flat);
}

#[test]
fn structs_have_few_bools() {
    over_src(rules::structs_have_few_bools);
}

#[test]
fn there_are_no_statics() {
    over_src(rules::has_no_statics);
}

#[test]
fn there_are_no_shortcuts() {
    over_everything(rules::has_no_shortcuts);
}

#[test]
fn integration_tests_wait_for_conditions() {
    assert_none(sources("tests/it").iter().flat_map(rules::does_not_sleep));
}

#[test]
fn names_say_something() {
    over_everything(rules::names_say_something);
}

#[test]
fn pure_files_are_pure() {
    over_src(rules::keeps_its_purity);
}

#[test]
fn modules_follow_the_arrows() {
    let (sources, modules) = (sources("src"), modules());
    assert_none(sources.iter().flat_map(|source| rules::follows_the_arrows(source, &modules)));
}

#[test]
fn no_two_modules_import_each_other() {
    assert_eq!(rules::both_ways(&sources("src"), &modules()), Vec::<String>::new());
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let folders = ["src", "tests", "config", ".ci"].into_iter().filter(|folder| root().join(folder).is_dir());
    let single =
        ["Cargo.toml", "Makefile", "README.md", "CHANGELOG.md", "Dockerfile", "docker-compose.yml", "deny.toml"];
    let single = single.iter().map(|name| root().join(name)).filter(|path| path.is_file());
    let texts = folders.flat_map(files).chain(single);
    assert_none(texts.flat_map(|path| {
        let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap();
        rules::names_no_machine(&relative(&path), &text)
    }));
}

/// A figure to look at, no rule: 15 to 25 % is usual here.
#[test]
fn comments_are_counted() {
    let lines = sources("src").iter().map(Source::comment_lines).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    println!("comments: {} of {} lines, {:.1} %", lines.0, lines.1, 100.0 * lines.0 as f64 / lines.1 as f64);
}

/// Labels in `Kind::Variant … => "label"` lines below a folder.
fn labels_of(kind: &str, folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for source in sources(folder) {
        for line in source.text.lines().filter(|line| line.trim_start().starts_with(&format!("{kind}::"))) {
            let Some((_, label)) = line.trim_end_matches(',').split_once("=> \"") else { continue };
            let label = label.trim_end_matches('"');
            if label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                found.push((source.path.clone(), label.to_owned()));
            }
        }
    }
    found
}

/// A label that the metrics' table does not know would be counted as "other".
#[test]
fn every_reason_and_pin_has_a_cell_in_the_metrics() {
    let reasons = [labels_of("Reason", "src/sql"), labels_of("Reason", "src/routing")].concat();
    assert!(reasons.len() >= 20, "the labels are no longer found where they were: {reasons:?}");
    for (path, label) in reasons {
        assert!(REASONS.names().contains(&label.as_str()), "{path}: add \"{label}\" to metrics::labels::REASONS");
    }
    for (path, label) in labels_of("Pin", "src/sql") {
        assert!(PINS.names().contains(&label.as_str()), "{path}: add \"{label}\" to metrics::labels::PINS");
    }
}

/// Alert rules and dashboards that name a metric which does not exist never fire.
#[test]
fn alerts_and_boards_name_metrics_that_exist() {
    let families = fs::read_to_string(root().join("src/metrics/families.rs")).unwrap();
    let known = |name: &str| families.contains(&format!("\"{name}\""));
    let mut named = 0;
    for path in ["config/prometheus", "config/grafana"].into_iter().flat_map(files) {
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("pgweir_") {
            let name: String = text[at..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            assert!(known(&name) || known(base), "{}: no metric is called {name}", relative(&path));
            named += 1;
        }
    }
    assert!(named > 20, "the alert rules are not where they were");
}
