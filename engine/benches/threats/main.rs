//! What hostile rules cost the honest ones: the engine's rows of the threat table, with their figures.
//!
//! `cargo bench -p tocsin-engine --bench threats [-- COUNT]` measures the dearest patterns of code, each within its budget,
//! runs 10,000 hostile rules, or so many, and fails where a bound does not hold. The tests run the same with fewer.

mod dear;
mod run;

/// Hostile rules, where no number is given.
const RULES: usize = 10_000;

fn main() {
    let count = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(RULES);
    let rows = dear::measure();
    println!("an evaluation, and a call of as many as one call may burn; CPU time in us\n{}", dear::Row::HEAD);
    rows.iter().for_each(|row| println!("{row}"));
    println!();
    let report = run::run(count);
    println!("{report}");
    report.check_times();
    rows.iter().for_each(dear::Row::check);
}
