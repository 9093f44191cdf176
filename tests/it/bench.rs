//! `make bench` in its small form, against the binary under test: nobody looks at its figures, but every part of it must
//! still run and come to a figure.

use std::path::Path;

use pgweir::cli::demo::servers::postgres_bin;
use serde_json::Value;
use tokio::process::Command;

use crate::clients::run;
use crate::harness::front;
use crate::harness::scratch::Scratch;

#[tokio::test]
async fn its_small_form_measures_everything() {
    if front::direct() {
        return;
    }
    let out = Scratch::new("bench");
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/bench.py"));
    command.env("BENCH_SMALL", "1").env("BENCH_BINARY", env!("CARGO_BIN_EXE_pgweir")).env("BENCH_OUT", out.path());
    command.env("PGWEIR_POSTGRES_BIN", postgres_bin().expect("PostgreSQL's programs"));
    let said = run(&mut command).await;
    assert!(said.contains("| 9 reads : 1 update, 16 | pgweir |"), "{said}");

    let text = std::fs::read_to_string(out.path().join("bench.json")).expect("the samples");
    let result: Value = serde_json::from_str(&text).expect("JSON");
    let samples = result["samples"].as_array().expect("samples");
    for case in ["prepared", "mix", "churn", "large"] {
        for front in ["direct", "pgweir"] {
            let sample = samples.iter().find(|sample| sample["case"] == case && sample["front"] == front);
            let sample = sample.unwrap_or_else(|| panic!("{front} ran {case}"));
            assert_eq!(sample["error"], Value::Null, "{front}, {case}");
            assert!(sample["tps"].as_f64().expect("a rate") > 0.0, "{sample}");
        }
    }
    assert!(
        result["idle"]["pgweir"]["kib"].is_number() && result["logins"]["pgweir"]["during"].is_number(),
        "{result}"
    );

    let ages = result["splitting"]["staleness"].as_array().expect("ages");
    assert_eq!(ages.len(), 15, "five levels, with no, one and two replicas that lag");
    for row in ages {
        assert!(row["reads"].as_u64().expect("reads") > 0, "{row}");
        // The one figure that is a promise, however slow the machine.
        assert!(row["level"] == "eventual" || row["own_missed"] == 0, "{row}");
        assert!(row["level"] != "strict" || row["age"]["max"] == 0.0, "{row}");
    }
    let events = result["splitting"]["events"].as_array().expect("events");
    assert_eq!(events.len(), 2);
    for event in events {
        assert!(event["reads"]["done"].as_u64().expect("reads") > 0, "{event}");
    }
    let chart = std::fs::read_to_string(out.path().join("chart.svg")).expect("the chart");
    assert!(chart.starts_with("<svg") && chart.contains(">pgweir<"), "{chart}");
}
