//! Hostile rules among honest alerts change nothing for the honest. `cargo bench --bench threats` runs more of them, and
//! holds the times too.

#[path = "../benches/threats/run.rs"]
mod run;

#[test]
fn honest_alerts_fire_among_hostile_rules_as_they_do_alone() {
    let report = run::run(220);
    println!("{report}");
    let (faults, impure) = report.caught();
    assert!(faults > 1_000 && impure >= 3, "{faults} faults, {impure} impure");
}
