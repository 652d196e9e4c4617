//! The rule against its definition, written again the slow and obvious way in [`reference`], over recorded trades.

use ::percent_move::{Direction, PercentMove, percent_move};
use tocsin_rules_sdk::Tick;
use tocsin_rules_sdk::testing::Run;
use tocsin_testdata::reference::{self, Fired};

/// What the definition fires on, for (price, event time) pairs.
fn by_definition(feed: &[(f64, i64)], percent: f64, window_ms: i64, direction: Direction) -> Fired {
    let direction = match direction {
        Direction::Up => reference::Direction::Up,
        Direction::Down => reference::Direction::Down,
        Direction::Either => reference::Direction::Either,
    };
    reference::percent_move(feed, percent, window_ms, direction)
}

fn by_rule(feed: &[(f64, i64)], percent: f64, window_ms: i64, direction: Direction) -> Fired {
    let ticks = feed.iter().map(|&(price, time_ms)| Tick { price, volume: 1.0, time_ms, conditions: 0 });
    let window_ms = window_ms.try_into().expect("a window of at most a day");
    Run::<percent_move>::new(PercentMove { percent, window_ms, direction }).fires(ticks)
}

#[test]
fn recorded_trades_fire_as_the_definition_says() {
    let (mut up, mut down) = (0, 0);
    for recording in tocsin_testdata::recordings() {
        for (symbol, trades) in recording.by_symbol() {
            let feed: Vec<(f64, i64)> = trades.iter().map(|t| (t.price, t.time_ms)).collect();
            for (percent, window_ms, direction) in [
                (0.01, 1_000, Direction::Up),
                (0.01, 10_000, Direction::Down),
                (0.03, 10_000, Direction::Either),
                (0.05, 30_001, Direction::Either),
            ] {
                let fired = by_rule(&feed, percent, window_ms, direction);
                let expect = by_definition(&feed, percent, window_ms, direction);
                let case = format!("{} {symbol}: {percent}% in {window_ms} ms, {direction:?}", recording.name);
                assert!(fired == expect, "{case}: {} firings, not {}", fired.len(), expect.len());
                up += fired.iter().filter(|(_, evidence)| evidence[0] > 0.0).count();
                down += fired.iter().filter(|(_, evidence)| evidence[0] < 0.0).count();
            }
        }
    }
    assert!(up > 10_000 && down > 10_000, "too few firings to compare: {up} up, {down} down");
}

/// Feeds (price, event time) pairs to a rule of 10 % in 32 s, in buckets of 1 s.
fn check(feed: &[(f64, i64)], direction: Direction, expect: &[(usize, f64, f64)]) {
    let expect: Fired = expect.iter().map(|&(index, change, reference)| (index, vec![change, reference])).collect();
    assert_eq!(by_rule(feed, 10.0, 32_000, direction), expect, "{feed:?}");
    assert_eq!(by_definition(feed, 10.0, 32_000, direction), expect, "the definition's own words: {feed:?}");
}

#[test]
fn the_window_holds_this_bucket_and_the_31_before() {
    let (up, t0) = (Direction::Up, 1_700_000_000_000);
    check(&[(100.0, t0), (110.0, t0 + 31_999)], up, &[(1, 10.0, 100.0)]);
    check(&[(100.0, t0), (110.0, t0 + 32_000)], up, &[]);
    check(&[(100.0, t0 + 999), (110.0, t0 + 32_000)], up, &[]);
    // A silence of days, and the first ticks after the epoch.
    check(&[(100.0, t0), (110.0, t0 + 300_000_000), (121.0, t0 + 300_000_001)], up, &[(2, 10.0, 110.0)]);
    check(&[(100.0, 0), (110.0, 1)], up, &[(1, 10.0, 100.0)]);
}

#[test]
fn a_move_of_exactly_the_percentage_fires() {
    check(&[(100.0, 0), (110.0, 0)], Direction::Up, &[(1, 10.0, 100.0)]);
    check(&[(100.0, 0), (90.0, 0)], Direction::Down, &[(1, -10.0, 100.0)]);
    check(&[(100.0, 0), (90.5, 0), (99.0, 0)], Direction::Either, &[]);
}

#[test]
fn a_late_tick_counts_now() {
    let t0 = 1_700_000_000_000;
    // The late 100 stays in the window for as long as if it had come in time.
    let feed = [(105.0, t0), (100.0, t0 - 60_000), (110.0, t0 + 31_000), (110.0, t0 + 32_000)];
    check(&feed, Direction::Up, &[(2, 10.0, 100.0)]);
}

#[test]
fn no_percentage_is_taken_of_zero_or_less() {
    let either = Direction::Either;
    check(&[(0.0, 0), (5.0, 0), (-2.5, 0), (1.0, 0)], either, &[(2, -150.0, 5.0), (3, -80.0, 5.0)]);
    check(&[(-10.0, 0), (-20.0, 0), (-1.0, 0)], either, &[]);
    // A negative low does not hide the fall from a positive high, nor does `Up` look at it.
    check(&[(100.0, 0), (-50.0, 0)], Direction::Up, &[]);
    check(&[(100.0, 0), (-50.0, 0)], either, &[(1, -150.0, 100.0)]);
}

#[test]
fn evidence_is_finite_at_the_ends_of_f64() {
    let tick = |price| Tick { price, volume: 1.0, time_ms: 0, conditions: 0 };
    let fired = Run::<percent_move>::new(PercentMove { percent: 10.0, window_ms: 1_000, direction: Direction::Either })
        .fires([5e-324, 1.7e308, -1.7e308].map(tick));
    assert_eq!(fired, [(1, vec![f64::MAX, 5e-324]), (2, vec![f64::MIN, 1.7e308])]);
}
