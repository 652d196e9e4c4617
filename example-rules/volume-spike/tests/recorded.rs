//! The rule against its definition, written again over slices of one list in [`reference`], on recorded trades.

use ::volume_spike::{VolumeSpike, volume_spike};
use tocsin_rules_sdk::Tick;
use tocsin_rules_sdk::testing::Run;
use tocsin_testdata::reference::{self, Fired};

fn by_rule(volumes: &[f64], trades: usize, z_score: f64) -> Fired {
    let ticks = volumes.iter().map(|&volume| Tick { price: 1.0, volume, time_ms: 0, conditions: 0 });
    let trades = trades.try_into().expect("a short window");
    Run::<volume_spike>::new(VolumeSpike { z_score, trades }).fires(ticks)
}

#[test]
fn recorded_trades_fire_as_the_definition_says() {
    let mut firings = 0;
    for recording in tocsin_testdata::recordings() {
        for (symbol, trades) in recording.by_symbol() {
            let volumes: Vec<f64> = trades.iter().map(|t| t.volume).collect();
            for (window, z_score) in [(8, 0.1), (8, 5.0), (100, 4.0), (256, 3.0)] {
                let fired = by_rule(&volumes, window, z_score);
                let expect = reference::volume_spike(&volumes, window, z_score);
                let case = format!("{} {symbol}: {window} trades, z {z_score}", recording.name);
                assert!(fired == expect, "{case}: {} firings, not {}", fired.len(), expect.len());
                firings += fired.len();
            }
        }
    }
    assert!(firings > 10_000, "too few firings to compare: {firings}");
}

/// Checks which ticks fire with a window of 8 and a z-score of 2.
fn check(volumes: &[f64], expect: &[usize]) {
    let fired: Vec<usize> = by_rule(volumes, 8, 2.0).iter().map(|(index, _)| *index).collect();
    assert_eq!(fired, expect, "{volumes:?}");
}

#[test]
fn it_holds_until_the_window_is_full() {
    let usual = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0];
    let with = |more: &[f64]| [&usual, more].concat();
    // The mean is 1.5 and the deviation 0.5.
    check(&with(&[2.5]), &[8]);
    check(&with(&[2.49]), &[]);
    check(&with(&[0.01]), &[]);
    check(&[&usual[1..], &[100.0]].concat(), &[]);
}

#[test]
fn price_updates_are_no_trades() {
    check(&[1.0, 2.0, 0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 1.0, 2.0, 0.0, 2.5], &[11]);
    check(&[0.0; 20], &[]);
}

#[test]
fn equal_volumes_have_no_z_score() {
    // Nine times 0.1: the deviation is not quite 0.
    check(&[0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 5.0], &[]);
}
