//! Rules that run natively: their states and verdicts, and the mistakes that `Run` finds.

use tocsin_rules_sdk::testing::Run;
use tocsin_rules_sdk::{OldState, abi, evaluate, migrate, prelude::*};

fn tick(price: f64) -> Tick {
    Tick { price, volume: 1.0, time_ms: 0, conditions: 0 }
}

mod counter {
    use super::*;

    /// Fires on every second tick.
    #[rule(evidence("count"))]
    pub(super) fn every_second(_tick: &Tick, count: &mut u64) -> Verdict {
        *count += 1;
        Verdict::fire_if(count.is_multiple_of(2)).evidence([*count as f64])
    }
}

mod sleeper {
    use super::*;

    #[derive(Params)]
    #[repr(C)]
    pub(super) struct Target {
        pub(super) price: f64,
    }

    /// Fires at or above a price, and sleeps below it.
    #[rule(sleeps)]
    pub(super) fn at_least(tick: &Tick, params: &Target) -> Verdict {
        if tick.price >= params.price {
            Verdict::fire()
        } else {
            Verdict::hold().asleep_between(f64::NEG_INFINITY, params.price)
        }
    }
}

mod careless {
    use super::*;

    /// Gives evidence without a name, and sleeps without saying so.
    #[rule]
    pub(super) fn careless(tick: &Tick) -> Verdict {
        if tick.price > 0.0 { Verdict::fire().evidence([1.0]) } else { Verdict::hold().until(1) }
    }
}

mod newer {
    use super::*;

    #[derive(State)]
    #[repr(C)]
    pub(super) struct Old {
        pub(super) count: u32,
        pub(super) spare: u32,
    }

    #[derive(Params)]
    #[repr(C)]
    pub(super) struct Factor {
        pub(super) factor: u32,
    }

    /// Counts in steps that older versions did not know.
    #[rule(migrates("0.0.1" | "0.0.2" => from_first, "0.0.3" => from_nothing), evidence("count"))]
    pub(super) fn newer(_tick: &Tick, params: &Factor, count: &mut u64) -> Verdict {
        *count += u64::from(params.factor);
        Verdict::fire().evidence([*count as f64])
    }

    fn from_first(old: &Old, params: &Factor, count: &mut u64) -> bool {
        *count = u64::from(old.count * params.factor);
        old.spare == 0
    }

    fn from_nothing(_old: &(), _params: &Factor, count: &mut u64) -> bool {
        *count = 100;
        true
    }
}

/// Returns the next count of a binding that is migrated with factor 7, or `None` if it is refused.
fn migrated<O: State>(version: &str, old: &O) -> Option<Vec<f64>> {
    let mut run = Run::<newer::newer>::migrated(version, old, newer::Factor { factor: 7 })?;
    Some(run.evaluate(&tick(1.0)).evidence_numbers().to_vec())
}

#[test]
fn a_binding_is_migrated_with_its_state_or_refused() {
    let old = |count, spare| newer::Old { count, spare };
    assert_eq!(migrated("0.0.1", &old(2, 0)), Some(vec![21.0]));
    assert_eq!(migrated("0.0.2", &old(3, 0)), Some(vec![28.0]));
    assert_eq!(migrated("0.0.2", &old(3, 1)), None);
    assert_eq!(migrated("0.0.3", &()), Some(vec![107.0]));
}

#[test]
fn the_migration_returns_the_codes_of_the_abi() {
    let answer = |spare| {
        let (old, mut state) = (newer::Old { count: 2, spare }, 0);
        let answer = migrate::<newer::newer>(1, OldState::of(&old), &newer::Factor { factor: 7 }, &mut state);
        (answer == abi::MIGRATED, state)
    };
    assert_eq!(answer(0), (true, 14));
    assert!(!answer(1).0);
    let mut state = 0;
    let beyond = migrate::<newer::newer>(3, OldState::of(&()), &newer::Factor { factor: 7 }, &mut state);
    assert_ne!(beyond, abi::MIGRATED);
}

#[test]
#[should_panic(expected = "does not migrate from 0.0.9")]
fn a_version_without_a_path_fails_the_test() {
    migrated("0.0.9", &());
}

#[test]
#[should_panic(expected = "takes a `it::running::newer::Old`, the test gives a `u64`")]
fn a_state_of_another_type_fails_the_test() {
    migrated("0.0.1", &5_u64);
}

#[test]
fn a_run_keeps_its_state() {
    let mut run = Run::<counter::every_second>::new(());
    assert_eq!(run.fires([1.0, 1.0, 1.0].map(tick)), [(1, vec![2.0])]);
    assert_eq!(run.evaluate(&tick(1.0)), Verdict::fire().evidence([4.0]));
    assert_eq!(*run.state(), 4);
}

#[test]
fn the_export_returns_the_codes_of_the_abi() {
    let mut out = abi::Verdict::default();
    let params = sleeper::Target { price: 10.0 };
    let mut answer = |price| evaluate::<sleeper::at_least>(&tick(price), &params, &mut (), &mut out);
    assert_eq!((answer(10.0), answer(9.0)), (abi::FIRE, abi::HOLD | abi::ASLEEP));
    assert_eq!((out.wake_low, out.wake_high, out.wake_until_ms), (f64::NEG_INFINITY, 10.0, i64::MAX));
}

#[test]
#[should_panic(expected = "1 evidence numbers")]
fn evidence_without_a_name_fails_the_test() {
    Run::<careless::careless>::new(()).evaluate(&tick(1.0));
}

#[test]
#[should_panic(expected = "#[rule(sleeps)]")]
fn sleep_without_the_option_fails_the_test() {
    Run::<careless::careless>::new(()).evaluate(&tick(-1.0));
}
