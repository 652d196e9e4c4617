//! The rule against its definition, written again over whole lists in [`reference`], on recorded trades.

use ::ema_cross::{Direction, EmaCross, ema_cross};
use tocsin_rules_sdk::Tick;
use tocsin_rules_sdk::testing::Run;
use tocsin_testdata::reference::{self, Fired};

fn by_definition(prices: &[f64], fast: u32, slow: u32, direction: Direction) -> Fired {
    let direction = match direction {
        Direction::Up => reference::Direction::Up,
        Direction::Down => reference::Direction::Down,
        Direction::Either => reference::Direction::Either,
    };
    reference::ema_cross(prices, fast, slow, direction)
}

fn by_rule(prices: &[f64], fast: u32, slow: u32, direction: Direction) -> Fired {
    let ticks = prices.iter().map(|&price| Tick { price, volume: 1.0, time_ms: 0, conditions: 0 });
    Run::<ema_cross>::new(EmaCross { fast, slow, direction }).fires(ticks)
}

#[test]
fn recorded_trades_fire_as_the_definition_says() {
    let mut firings = 0;
    for recording in tocsin_testdata::recordings() {
        for (symbol, trades) in recording.by_symbol() {
            let prices: Vec<f64> = trades.iter().map(|t| t.price).collect();
            for (fast, slow) in [(1, 2), (12, 26), (50, 200), (100, 10_000), (26, 12), (9, 9)] {
                for direction in [Direction::Up, Direction::Down, Direction::Either] {
                    let fired = by_rule(&prices, fast, slow, direction);
                    let expect = by_definition(&prices, fast, slow, direction);
                    let case = format!("{} {symbol}: {fast} and {slow}, {direction:?}", recording.name);
                    assert!(fired == expect, "{case}: {} firings, not {}", fired.len(), expect.len());
                    firings += fired.len();
                }
            }
        }
    }
    assert!(firings > 10_000, "too few firings to compare: {firings}");
}

/// Checks which ticks fire with periods 1 (the price itself) and 3.
fn check(prices: &[f64], direction: Direction, expect: &[usize]) {
    let fired: Vec<usize> = by_rule(prices, 1, 3, direction).iter().map(|(index, _)| *index).collect();
    assert_eq!(fired, expect, "{prices:?}");
}

#[test]
fn only_a_change_of_side_after_the_warm_up_fires() {
    // Up at tick 1, down at 2 (still warming up), up at 3.
    check(&[10.0, 11.0, 9.0, 12.0], Direction::Either, &[3]);
    // The first side is no crossing, however late it comes.
    check(&[10.0, 10.0, 10.0, 10.0, 11.0], Direction::Either, &[]);
    check(&[10.0, 11.0, 9.0, 12.0, 8.0, 13.0], Direction::Up, &[3, 5]);
    check(&[10.0, 11.0, 9.0, 12.0, 8.0, 13.0], Direction::Down, &[4]);
}

#[test]
fn where_the_averages_meet_the_side_stays() {
    // The slow average is 10, 11, 11, 11.5: at tick 2 both are 11.
    check(&[10.0, 12.0, 11.0, 12.0], Direction::Either, &[]);
    // With a tick in between at which they are equal, the side still turns once.
    check(&[10.0, 12.0, 13.0, 12.0, 12.0, 8.0], Direction::Either, &[5]);
}

#[test]
fn a_flat_market_does_not_cross() {
    check(&[0.1; 1_000], Direction::Either, &[]);
}
