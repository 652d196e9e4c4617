//! Rules run natively: what they remember, what they answer, and what `Run` refuses.

use tocsin_rules_sdk::testing::Run;
use tocsin_rules_sdk::{abi, evaluate, prelude::*};

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

#[test]
fn a_run_remembers() {
    let mut run = Run::<counter::every_second>::new(());
    assert_eq!(run.fires([1.0, 1.0, 1.0].map(tick)), [(1, vec![2.0])]);
    assert_eq!(run.judge(&tick(1.0)), Verdict::fire().evidence([4.0]));
    assert_eq!(*run.state(), 4);
}

#[test]
fn the_export_answers_as_the_abi_says() {
    let mut out = abi::Verdict::default();
    let params = sleeper::Target { price: 10.0 };
    let mut judge = |price| evaluate::<sleeper::at_least>(&tick(price), &params, &mut (), &mut out);
    assert_eq!((judge(10.0), judge(9.0)), (abi::FIRE, abi::HOLD | abi::ASLEEP));
    assert_eq!((out.wake_low, out.wake_high, out.wake_until_ms), (f64::NEG_INFINITY, 10.0, i64::MAX));
}

#[test]
#[should_panic(expected = "1 evidence numbers")]
fn evidence_without_a_name_fails_the_test() {
    Run::<careless::careless>::new(()).judge(&tick(1.0));
}

#[test]
#[should_panic(expected = "#[rule(sleeps)]")]
fn sleep_without_a_word_fails_the_test() {
    Run::<careless::careless>::new(()).judge(&tick(-1.0));
}
