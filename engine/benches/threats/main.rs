//! What hostile rules cost other rules: measures the engine's rows of the threat table.
//!
//! `cargo bench -p tocsin-engine --bench threats [-- COUNT]` measures the costliest patterns of code, each within its budget,
//! runs COUNT hostile rules, 10,000 by default, and fails if a limit is exceeded. The tests run the same with fewer rules.

mod costly;
mod run;

/// The number of hostile rules without an argument.
const RULES: usize = 10_000;

fn main() {
    let count = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(RULES);
    let rows = costly::measure();
    println!("an evaluation, and a call of as many as one call may burn; CPU time in us\n{}", costly::Row::HEAD);
    rows.iter().for_each(|row| println!("{row}"));
    println!();
    let report = run::run(count);
    println!("{report}");
    report.check_times();
    rows.iter().for_each(costly::Row::check);
}
