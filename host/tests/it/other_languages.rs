//! docs/other-languages.md is followed: each of its commands builds a rule, and all of them evaluate recorded trades alike,
//! as the definition says.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tocsin_engine::cost::Metering;
use tocsin_engine::domain::{AlertId, BindingId, Conditions, Lifecycle, Position, Repeat, Symbol, Tenant, Tick};
use tocsin_engine::{Arming, Engine, EvaluationOptions, Event, Rule, Shard, Waking};
use tocsin_testdata::Trade;
use tocsin_testdata::reference::{Fired, volume_above};

use crate::docs::{commands, repository, section, target_folder};
use crate::server::BINARY;

const DOC: &str = include_str!("../../../docs/other-languages.md");

/// A language, as the doc's heading has it.
struct Language {
    heading: &'static str,
    /// The source's ending.
    ending: &'static str,
    /// What must be on the PATH.
    tools: &'static [&'static str],
    /// How that gets there.
    install: &'static str,
}

const LANGUAGES: [Language; 4] = [
    Language { heading: "C", ending: "c", tools: &["clang", "wasm-ld"], install: "apt-get install clang lld" },
    Language { heading: "Zig", ending: "zig", tools: &["zig"], install: "pip install ziglang, as `zig` on the PATH" },
    Language {
        heading: "AssemblyScript",
        ending: "ts",
        tools: &["node", "asc"],
        install: "npm install --global assemblyscript",
    },
    Language { heading: "WebAssembly text", ending: "wat", tools: &[], install: "" },
];

/// The PATH of who follows the doc: the binary under test is `tocsin`, and what `cargo xtask test` installed is there.
fn path() -> OsString {
    let own = [Path::new(BINARY).parent().expect("a folder").to_owned(), target_folder().join("tools/bin")];
    let theirs = env::var_os("PATH").unwrap_or_default();
    env::join_paths(own.into_iter().chain(env::split_paths(&theirs))).unwrap()
}

/// Builds the rule by the one line of the doc, in a copy of the folder.
fn build(language: &Language) -> Vec<u8> {
    let Language { heading, ending, tools, install } = language;
    let is_there = |tool: &&str| env::split_paths(&path()).any(|folder| folder.join(tool).is_file());
    if let Some(tool) = tools.iter().find(|tool| !is_there(tool)) {
        panic!("no {tool}, which builds the rule in {heading}: {install} (`cargo xtask test` does)");
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("other-languages").join(ending);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["volume-above.json".to_owned(), format!("volume-above.{ending}")] {
        std::fs::copy(sources().join(&file), folder.join(&file)).unwrap();
    }
    let lines = commands(section(DOC, heading));
    let [line] = lines.try_into().unwrap_or_else(|lines| panic!("{heading}: one line builds it, not {lines:?}"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).current_dir(&folder).env("PATH", path());
    // The copy is outside of the repository, where the alias is not known.
    let manifest = repository().join("Cargo.toml").display().to_string();
    shell.env("CARGO_ALIAS_XTASK", format!("run --quiet --manifest-path {manifest} --package xtask --"));
    shell.env("CARGO_TARGET_DIR", target_folder()).env("CARGO_NET_OFFLINE", "true");
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(folder.join("volume-above.wasm")).unwrap()
}

fn sources() -> PathBuf {
    repository().join("example-rules/other-languages")
}

/// What a test compares of a binding: its firings, by the index of their trades.
#[derive(Debug, PartialEq)]
struct Story {
    fired: Fired,
    state: Vec<u8>,
}

/// Evaluates trades with all rules side by side; one story for each rule and alert, and how many evaluations it took.
fn evaluate(rules: &[Rule], waking: Waking, trades: &[&Trade], alerts: &[(f64, f64)]) -> (Vec<Story>, u64) {
    let symbol = Symbol::parse(&trades[0].symbol).unwrap();
    let mut shard = Shard::new(EvaluationOptions { waking, audit_every_calls: 1_000, ..EvaluationOptions::default() });
    let cases: Vec<_> = rules.iter().flat_map(|rule| alerts.iter().map(move |alert| (rule, *alert))).collect();
    for (id, (rule, (price, volume))) in (0..).zip(&cases) {
        let params = rule.manifest().params.pack(&json!({ "price": price, "volume": volume })).unwrap().packed;
        let (binding, alert, lifecycle) = (BindingId(id), AlertId(id), Lifecycle { repeat: Repeat::Every });
        let (tenant, symbol, rule) = (Tenant::standard(), symbol.clone(), (*rule).clone());
        shard.arm(Arming { binding, alert, tenant, symbol, rule, params, lifecycle, saved: None }).unwrap();
    }
    let mut fired = vec![Fired::new(); cases.len()];
    for (at, trade) in trades.iter().enumerate() {
        let conditions = Conditions::default();
        let tick = Tick::new(symbol.clone(), trade.price, trade.volume, trade.time_ms, conditions).unwrap();
        let mut events = Vec::new();
        shard.evaluate(&tick, Position { partition: 0, offset: at as u64 }, &mut events).unwrap();
        for event in events {
            let Event::Fired { firing, .. } = event else { panic!("{event:?}") };
            fired[firing.binding.0 as usize].push((at, firing.evidence.iter().map(|(_, number)| *number).collect()));
        }
    }
    let state = |id: usize| shard.saved(BindingId(id as i64)).unwrap().state;
    let stories = fired.into_iter().enumerate().map(|(id, fired)| Story { fired, state: state(id) }).collect();
    (stories, shard.evaluations())
}

#[test]
fn a_rule_in_four_languages_fires_by_its_definition() {
    let engine = Engine::new().unwrap();
    let rules = LANGUAGES.map(|language| engine.load(&build(&language)).unwrap());
    let wakings = [Waking::Naive, Waking::Checked, Waking::Indexed];
    let (mut firings, mut evaluations) = (0, [0; 3]);
    for recording in tocsin_testdata::recordings() {
        for (symbol, trades) in recording.by_symbol() {
            let feed: Vec<(f64, f64)> = trades.iter().map(|trade| (trade.price, trade.volume)).collect();
            let alerts = alerts(&feed);
            let expected = alerts.map(|(price, volume)| volume_above(&feed, price, volume));
            firings += expected.iter().map(Vec::len).sum::<usize>();
            for (waking, evaluations) in wakings.into_iter().zip(&mut evaluations) {
                let (stories, taken) = evaluate(&rules, waking, &trades, &alerts);
                *evaluations += taken;
                let (of_first, of_others) = stories.split_at(alerts.len());
                for (story, expected) in of_first.iter().zip(&expected) {
                    assert!(story.fired == *expected, "{} {symbol}: not as defined", recording.name);
                }
                for (language, stories) in LANGUAGES[1..].iter().zip(of_others.chunks(alerts.len())) {
                    assert!(stories == of_first, "{} {symbol}: {} differs", recording.name, language.heading);
                }
            }
        }
    }
    assert!(firings > 1_000, "too few firings to compare: {firings}");
    let [naive, checked, indexed] = evaluations;
    assert!(naive == checked && indexed < naive * 3 / 4, "they hardly sleep: {indexed} of {naive} evaluations");
    let certified = rules.iter().all(|rule| matches!(rule.metering(), Metering::Certified { .. }));
    assert!(certified, "no loop in any of them");
}

/// Prices in the middle and near the top of what was traded, and the volume of some hundred trades.
fn alerts(feed: &[(f64, f64)]) -> [(f64, f64); 3] {
    let mut prices: Vec<f64> = feed.iter().map(|(price, _)| *price).collect();
    prices.sort_by(f64::total_cmp);
    let volume = feed.iter().map(|(_, volume)| volume).sum::<f64>() / feed.len() as f64 * 100.0;
    [0.0, 0.5, 0.95].map(|part| (prices[(prices.len() as f64 * part) as usize], volume.max(1.0)))
}
