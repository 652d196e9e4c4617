//! The engine against something simpler that must agree with it: a naive evaluator of ABOVE and BELOW, what params
//! are by their definition, and the meter against the static price of the same code.
#![allow(clippy::unwrap_used)] // the helpers belong to the tests

use std::collections::BTreeMap;
use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use tocsin_engine::cost::Metering;
use tocsin_engine::domain::{AlertId, BindingId, Conditions, Lifecycle, Position, Repeat, Symbol, Tenant, Tick};
use tocsin_engine::limits::FUEL_PER_EVALUATION;
use tocsin_engine::{Arming, Engine, Event, Fault, GroupSnapshot, Rule, Shard, builtin};

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().unwrap())
}

fn built_in() -> &'static [Rule; 2] {
    static RULES: OnceLock<[Rule; 2]> = OnceLock::new();
    RULES.get_or_init(|| [builtin::ABOVE, builtin::BELOW].map(|module| engine().load(module).unwrap()))
}

/// A rule of the given manifest members and fields; `evaluate` is among the fields.
fn rule(members: &str, fields: &str) -> Rule {
    let manifest = format!(r#"{{"abi":1,"name":"test","version":"1.0.0"{members}}}"#);
    let manifest: String = manifest.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(r#"(module (memory (export "memory") 1) {fields} (@custom "tocsin.manifest" "{manifest}"))"#);
    engine().load(&wat::parse_str(text).unwrap()).unwrap()
}

fn tick(symbol: u8, price: f64) -> Tick {
    let symbol = Symbol::parse(&format!("S{symbol}")).unwrap();
    Tick::new(symbol, price, 1.0, 1_000, Conditions::default()).unwrap()
}

fn arming(id: i64, symbol: u8, rule: &Rule, params: &[u8], repeat: Repeat) -> Arming {
    Arming {
        binding: BindingId(id),
        alert: AlertId(id),
        tenant: Tenant::standard(),
        symbol: Symbol::parse(&format!("S{symbol}")).unwrap(),
        rule: rule.clone(),
        params: params.to_vec(),
        lifecycle: Lifecycle { repeat },
        saved: None,
    }
}

/// One step of a random history. Prices and targets are small integers, so that they often meet exactly.
#[derive(Clone, Debug)]
enum Step {
    Arm {
        symbol: u8,
        below: bool,
        target: i8,
        once: bool,
    },
    /// Disarms the binding that was armed at this place in the history, if it is still there.
    Disarm(prop::sample::Index),
    Tick {
        symbol: u8,
        price: i8,
    },
    /// Goes on with a shard made of the old one's snapshots and the naive list.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let arm = (0..3_u8, any::<bool>(), -20..20_i8, any::<bool>());
    prop_oneof![
        4 => arm.prop_map(|(symbol, below, target, once)| Step::Arm { symbol, below, target, once }),
        1 => any::<prop::sample::Index>().prop_map(Step::Disarm),
        6 => (0..3_u8, -25..25_i8).prop_map(|(symbol, price)| Step::Tick { symbol, price }),
        1 => Just(Step::Restart),
    ]
}

/// A binding as the naive evaluator keeps it.
#[derive(Clone, Debug)]
struct Naive {
    id: i64,
    symbol: u8,
    below: bool,
    target: i8,
    once: bool,
}

impl Naive {
    fn arming(&self) -> Arming {
        let repeat = if self.once { Repeat::Once } else { Repeat::Every };
        let rule = &built_in()[usize::from(self.below)];
        arming(self.id, self.symbol, rule, &f64::from(self.target).to_le_bytes(), repeat)
    }
}

/// What fired: the binding, its evidence, and whether it was the last time.
type Firings = Vec<(i64, f64, bool)>;

fn evaluate(shard: &mut Shard, tick: &Tick, offset: u64) -> Firings {
    let mut events = Vec::new();
    shard.evaluate(tick, Position { partition: 0, offset }, &mut events).unwrap();
    let fired = events.into_iter().map(|event| match event {
        Event::Fired { firing, last } => (firing.binding.0, firing.evidence[0].1, last),
        _ => panic!("{event:?}"),
    });
    let mut fired: Vec<_> = fired.collect();
    fired.sort_by_key(|(id, ..)| *id);
    fired
}

fn evaluate_naively(bindings: &mut Vec<Naive>, symbol: u8, price: i8) -> Firings {
    let mut fired = Vec::new();
    bindings.retain(|binding| {
        let met = if binding.below { price <= binding.target } else { price >= binding.target };
        let fires = binding.symbol == symbol && met;
        if fires {
            fired.push((binding.id, f64::from(binding.target), binding.once));
        }
        !(fires && binding.once)
    });
    fired
}

/// A shard as a new process would make it, from what was stored.
fn restarted(shard: &mut Shard, bindings: &[Naive]) -> Shard {
    let stored = shard.take_changed().into_iter().flat_map(|group| GroupSnapshot::unpack(&group.bytes).unwrap());
    let stored: BTreeMap<i64, _> = stored.map(|saved| (saved.binding.0, saved)).collect();
    let mut fresh = Shard::default();
    for binding in bindings {
        fresh.arm(Arming { saved: stored.get(&binding.id).cloned(), ..binding.arming() }).unwrap();
    }
    fresh
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn above_and_below_fire_as_a_loop_over_a_list_would(steps in prop::collection::vec(step(), 1..120)) {
        let (mut shard, mut bindings) = (Shard::default(), Vec::<Naive>::new());
        let mut next_id = 1;
        for (offset, step) in steps.into_iter().enumerate() {
            match step {
                Step::Arm { symbol, below, target, once } => {
                    bindings.push(Naive { id: next_id, symbol, below, target, once });
                    shard.arm(bindings[bindings.len() - 1].arming()).unwrap();
                    next_id += 1;
                }
                Step::Disarm(place) => {
                    let id = place.index(next_id as usize) as i64;
                    let armed = bindings.iter().any(|binding| binding.id == id);
                    bindings.retain(|binding| binding.id != id);
                    prop_assert_eq!(shard.disarm(BindingId(id)), armed);
                }
                Step::Tick { symbol, price } => {
                    let fired = evaluate(&mut shard, &tick(symbol, price.into()), offset as u64);
                    prop_assert_eq!(fired, evaluate_naively(&mut bindings, symbol, price));
                }
                Step::Restart => shard = restarted(&mut shard, &bindings),
            }
            prop_assert_eq!(shard.len(), bindings.len());
        }
    }

    /// A rule with state: the sum of all prices since it was armed, which fires at every multiple of its param.
    #[test]
    fn states_survive_moves_and_snapshots(
        steps in prop::collection::vec((0..10_u8, 1..6_i8, any::<prop::sample::Index>()), 1..80)
    ) {
        static SUM: OnceLock<Rule> = OnceLock::new();
        let sum = SUM.get_or_init(|| rule(
            r#","state":{"size":8},"evidence":["sum"],"params":{"schema":{"properties":{"of":{"type":"integer"}},
               "required":["of"]},"layout":[{"name":"of","type":"i64","offset":0}],"size":8}"#,
            r#"(func (export "evaluate") (param i32 i32 i32 i32) (result i32)
                 (i64.store (local.get 2)
                   (i64.add (i64.load (local.get 2)) (i64.trunc_sat_f64_s (f64.load (local.get 0)))))
                 (f64.store (local.get 3) (f64.convert_i64_s (i64.load (local.get 2))))
                 (i64.eqz (i64.rem_s (i64.load (local.get 2)) (i64.load (local.get 1)))))"#,
        ));
        let arming = |id: i64| arming(id, 0, sum, &(id % 7 + 2).to_le_bytes(), Repeat::Every);
        let (mut shard, mut sums) = (Shard::default(), BTreeMap::<i64, i64>::new());
        let mut stored = BTreeMap::new();
        for (offset, (action, price, place)) in steps.into_iter().enumerate() {
            match action {
                0..3 => {
                    sums.insert(offset as i64, 0);
                    shard.arm(arming(offset as i64)).unwrap();
                }
                3 if !sums.is_empty() => {
                    let id = *sums.keys().nth(place.index(sums.len())).unwrap();
                    sums.remove(&id);
                    prop_assert!(shard.disarm(BindingId(id)));
                }
                // Only groups that changed are stored; what a later snapshot does not name is still the last one's.
                4 => {
                    for group in shard.take_changed() {
                        stored = GroupSnapshot::unpack(&group.bytes).unwrap().into_iter().map(|s| (s.binding.0, s)).collect();
                    }
                    shard = Shard::default();
                    for id in sums.keys() {
                        shard.arm(Arming { saved: stored.get(id).cloned(), ..arming(*id) }).unwrap();
                    }
                    let again = shard.take_changed();
                    prop_assert_eq!(again.is_empty(), sums.is_empty());
                    for group in again {
                        stored = GroupSnapshot::unpack(&group.bytes).unwrap().into_iter().map(|s| (s.binding.0, s)).collect();
                    }
                }
                5 => {
                    let mut moved = Shard::default();
                    assert!(moved.absorb(&shard, &mut Vec::new()).is_empty());
                    shard = moved;
                }
                _ => {
                    let fired = evaluate(&mut shard, &tick(0, price.into()), offset as u64);
                    let mut expect = Vec::new();
                    for (id, sum) in &mut sums {
                        *sum += i64::from(price);
                        if *sum % (id % 7 + 2) == 0 {
                            expect.push((*id, *sum as f64, false));
                        }
                    }
                    prop_assert_eq!(fired, expect);
                }
            }
        }
    }
}

/// A rule with a param of each kind; `seven`, a number at least 1 and below 10, has a default.
fn typed() -> &'static Rule {
    static RULE: OnceLock<Rule> = OnceLock::new();
    RULE.get_or_init(|| {
        rule(
            r#","params":{"schema":{"properties":{
                "double":{"type":"number"},"single":{"type":"number"},"long":{"type":"integer"},
                "int":{"type":"integer"},"word":{"type":"integer"},"flag":{"type":"boolean"},
                "side":{"type":"string","enum":["up","down"]},
                "seven":{"type":"number","minimum":1,"exclusiveMaximum":10,"default":7}},
              "required":["double","single","long","int","word","flag","side"]},
              "layout":[{"name":"double","type":"f64","offset":0},{"name":"long","type":"i64","offset":8},
                {"name":"single","type":"f32","offset":16},{"name":"int","type":"i32","offset":20},
                {"name":"word","type":"u32","offset":24},{"name":"flag","type":"bool","offset":28},
                {"name":"side","type":"enum","offset":32},{"name":"seven","type":"f64","offset":40}],"size":48}"#,
            r#"(func (export "evaluate") (param i32 i32 i32 i32) (result i32) (i32.const 0))"#,
        )
    })
}

fn good_params() -> Value {
    json!({"double": 1.5, "single": 0.25, "long": -2, "int": -3, "word": 4, "flag": true, "side": "down"})
}

/// Packs the good params with one member replaced; returns the record, or the errors as text.
fn pack_with(member: &str, value: Value) -> Result<Vec<u8>, Vec<String>> {
    let mut params = good_params();
    params[member] = value;
    pack(&params)
}

fn pack(params: &Value) -> Result<Vec<u8>, Vec<String>> {
    let packed = typed().manifest().params.pack(params);
    packed.map(|params| params.packed).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn params_are_packed_where_the_layout_says_with_defaults_filled_in() {
    let packed = typed().manifest().params.pack(&good_params()).unwrap();
    let expect = [
        1.5_f64.to_le_bytes().to_vec(),
        (-2_i64).to_le_bytes().to_vec(),
        0.25_f32.to_le_bytes().to_vec(),
        (-3_i32).to_le_bytes().to_vec(),
        4_u32.to_le_bytes().to_vec(),
        1_u32.to_le_bytes().to_vec(),
        1_u32.to_le_bytes().to_vec(),
        vec![0; 4],
        7_f64.to_le_bytes().to_vec(),
    ];
    assert_eq!(packed.packed, expect.concat());
    assert_eq!(serde_json::from_str::<Value>(&packed.json).unwrap()["seven"], 7);
}

#[test]
fn numbers_keep_their_value_up_to_the_limits_of_their_kind() {
    let cases = [
        ("long", json!(i64::MAX), 8, i64::MAX.to_le_bytes().to_vec()),
        ("long", json!(i64::MIN), 8, i64::MIN.to_le_bytes().to_vec()),
        ("long", json!(3.0), 8, 3_i64.to_le_bytes().to_vec()),
        ("int", json!(i32::MIN), 20, i32::MIN.to_le_bytes().to_vec()),
        ("int", json!(-1.0), 20, (-1_i32).to_le_bytes().to_vec()),
        ("word", json!(u32::MAX), 24, u32::MAX.to_le_bytes().to_vec()),
        ("word", json!(3e0), 24, 3_u32.to_le_bytes().to_vec()),
        ("double", json!(f64::MAX), 0, f64::MAX.to_le_bytes().to_vec()),
        ("double", json!(7), 0, 7_f64.to_le_bytes().to_vec()),
        ("double", json!(-0.0), 0, 0_f64.to_le_bytes().to_vec()),
        ("single", json!(1e-300), 16, 0_f32.to_le_bytes().to_vec()),
        ("flag", json!(false), 28, vec![0; 4]),
        ("side", json!("up"), 32, vec![0; 4]),
    ];
    for (member, value, at, expect) in cases {
        let record = pack_with(member, value.clone()).unwrap();
        assert_eq!(record[at..at + expect.len()], expect, "{member}: {value}");
    }
}

#[test]
fn a_bad_value_is_refused_by_its_name() {
    let cases = [
        ("double", json!("1.5"), "params.double: \"1.5\" is not of type \"number\""),
        ("double", json!(null), "params.double: null"),
        ("double", json!([1.5]), "params.double: [1.5]"),
        ("double", json!({"a": 1}), "params.double: {\"a\":1}"),
        ("double", json!(f64::NAN), "params.double: null"),
        ("single", json!(1e39), "params.single: 1e+39 is packed as the 32-bit float inf: give a number between"),
        ("single", json!(-1e-300), "params.single: -1e-300 is packed as the 32-bit float -0, and a zero has no sign"),
        ("long", json!(u64::MAX), "params.long: 18446744073709551615 does not fit a 64-bit integer"),
        ("long", json!(1e18), "params.long: 1e+18: from 9007199254740992 on"),
        ("long", json!(1.5), "params.long: 1.5 is not of type \"integer\""),
        ("int", json!(2_147_483_648_i64), "params.int: 2147483648 does not fit a 32-bit integer"),
        ("word", json!(-1), "params.word: -1 does not fit an unsigned 32-bit integer"),
        ("word", json!(4_294_967_296_i64), "params.word: 4294967296 does not fit"),
        ("flag", json!(1), "params.flag: 1 is not of type \"boolean\""),
        ("flag", json!("true"), "params.flag: \"true\""),
        ("side", json!("left"), "params.side: \"left\" is not one of"),
        ("side", json!(0), "params.side: 0"),
        ("seven", json!(0.5), "params.seven: 0.5 is below the minimum 1"),
        ("seven", json!(10), "params.seven: 10 is not less than 10"),
        ("colour", json!(1), "params.colour: this rule has no such param"),
    ];
    for (member, value, expect) in cases {
        let errors = pack_with(member, value.clone()).expect_err(member);
        assert!(errors.iter().all(|error| error.starts_with(&format!("params.{member}: "))), "{errors:?}");
        assert!(errors.iter().any(|error| error.starts_with(expect)), "{member} = {value}: {errors:?}");
    }
    for whole in [json!(null), json!([]), json!("x"), json!(1)] {
        assert_eq!(pack(&whole).unwrap_err(), [format!("params: {whole} is not a JSON object")]);
    }
    assert!(serde_json::from_str::<Value>(r#"{"double":NaN}"#).is_err(), "JSON has no NaN");
    assert!(serde_json::from_str::<Value>(r#"{"double":1e400}"#).is_err(), "nor what is out of range");
}

#[test]
fn all_bad_values_are_told_at_once() {
    let params = json!({"double": "x", "long": 0.5, "int": true, "seven": 99, "colour": 1, "shape": 2, "word": 3});
    let mut errors = pack(&params).unwrap_err();
    errors.sort();
    let paths: Vec<_> = errors.iter().map(|error| error.split(':').next().unwrap()).collect();
    let expect = ["colour", "double", "flag", "int", "long", "seven", "shape", "side", "single"];
    assert_eq!(paths, expect.map(|name| format!("params.{name}")), "{errors:#?}");
    let overflows =
        json!({"double": 1, "single": 1e39, "long": 1, "int": 1e10, "word": -5, "flag": false, "side": "up"});
    assert_eq!(pack(&overflows).unwrap_err().len(), 3);
}

const EVALUATE: &str = r#"(func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32)
    (param $verdict i32) (result i32)"#;

/// Evaluates one tick, and returns the fault if there was one.
fn fault_of(rule: &Rule) -> Option<Fault> {
    let mut shard = Shard::default();
    shard.arm(arming(1, 0, rule, &[], Repeat::Every)).unwrap();
    let mut events = Vec::new();
    shard.evaluate(&tick(0, 1.0), Position { partition: 0, offset: 0 }, &mut events).unwrap();
    events.into_iter().find_map(|event| match event {
        Event::Faulted { fault, .. } => Some(fault),
        _ => None,
    })
}

/// The loop costs 7 a turn, the function its 5 locals, its result and 3 operators, and each of the fillers 1.
#[test]
fn fuel_runs_out_at_the_very_operator_that_the_price_table_says() {
    const OUTSIDE: u64 = 5 + 1 + 3;
    const TURN: u64 = 7;
    let with = |turns: u64, fill: u64| {
        let fill = "(drop (i32.const 0))".repeat(fill as usize);
        rule(
            "",
            &format!(
                "{EVALUATE} (local $i i32)
                   (local.set $i (i32.const {turns}))
                   {fill}
                   (loop $again
                     (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1))))
                     (drop (i32.const 1)) (drop (i32.const 1)))
                   (i32.const 0))"
            ),
        )
    };
    let turns = (FUEL_PER_EVALUATION - OUTSIDE) / TURN;
    let exact = FUEL_PER_EVALUATION - OUTSIDE - turns * TURN;
    assert_eq!(fault_of(&with(turns, exact)), None, "all of the fuel may be burnt");
    assert_eq!(fault_of(&with(turns, exact - 1)), None, "one operator early");
    assert_eq!(fault_of(&with(turns, exact + 1)), Some(Fault::OutOfFuel), "one operator late");
    assert_eq!(fault_of(&with(turns + 1, exact)), Some(Fault::OutOfFuel), "one turn late");
}

/// Bulk operations are charged by their length: 16 bytes a unit.
#[test]
fn a_long_copy_costs_its_length() {
    let fills = |count: u32| {
        let one = "(memory.fill (i32.const 0) (i32.const 7) (i32.const 65536))";
        rule("", &format!("{EVALUATE} {} (i32.const 0))", one.repeat(count as usize)))
    };
    // By length, for the operator, and for its operands; the rest are 4 locals, a result and the answer.
    let price = 65_536 / 16 + 64 + 3;
    let fitting = ((FUEL_PER_EVALUATION - 6) / price) as u32;
    assert_eq!(fault_of(&fills(fitting)), None);
    assert_eq!(fault_of(&fills(fitting + 1)), Some(Fault::OutOfFuel));
}

/// Statements without loops, to be nested at random.
fn statement() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("(drop (i32.div_u (i32.const 7) (i32.const 3)))".to_owned()),
        Just("(local.set $x (f64.sqrt (f64.add (local.get $x) (f64.const 2))))".to_owned()),
        Just("(local.set $x (f64.div (local.get $x) (f64.const 3)))".to_owned()),
        Just("(f64.store offset=64 (i32.const 0) (local.get $x))".to_owned()),
        Just("(drop (call $helper (local.get $x)))".to_owned()),
        Just("(drop (i64.rem_s (i64.const 9) (i64.const 4)))".to_owned()),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..5).prop_map(|all| all.concat()),
            (inner.clone(), inner.clone())
                .prop_map(|(a, b)| { format!("(if (f64.gt (local.get $x) (f64.const 1)) (then {a}) (else {b}))") }),
            inner.prop_map(|a| format!("(block $out (br_if $out (i32.const 0)) {a})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// The same body certified, and on the meter in the company of a loop that burns all but so much: it never needs
    /// more than its certificate says.
    #[test]
    fn a_certificate_is_an_upper_bound_of_what_the_meter_takes(body in prop::collection::vec(statement(), 1..6)) {
        let body = body.concat();
        let fields = |before: &str| format!(
            "(func $helper (param f64) (result f64) (f64.mul (local.get 0) (f64.const 0.5)))
             {EVALUATE} (local $x f64) (local $i i32) {before} {body} (i32.const 0))"
        );
        let certified = rule("", &fields(""));
        let Metering::Certified { worst_fuel } = certified.metering() else { panic!("{:?}", certified.metering()) };
        prop_assert_eq!(fault_of(&certified), None);

        // A turn of the burner costs 5, all around it 2; the division leaves at most 4 unburnt.
        let burner = |turns: u64| rule("", &fields(&format!(
            "(local.set $i (i32.const {turns}))
             (loop $burn (br_if $burn (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))"
        )));
        let turns = (FUEL_PER_EVALUATION - 2 - worst_fuel) / 5;
        prop_assert_eq!(fault_of(&burner(turns)), None, "worst fuel {}", worst_fuel);
        prop_assert_eq!(fault_of(&burner((FUEL_PER_EVALUATION - 2) / 5 + 1)), Some(Fault::OutOfFuel));
    }
}

/// Some more of them than one call can answer for, and about as many as it can.
#[test]
fn all_that_fire_at_once_are_told() {
    let always = r#"(func (export "evaluate") (param i32 i32 i32 i32) (result i32) LOOP (i32.const 1))"#;
    let certified = rule("", &always.replace("LOOP", ""));
    let metered = rule("", &always.replace("LOOP", "(loop)"));
    assert!(certified.metering() != Metering::Metered && metered.metering() == Metering::Metered);
    for rule in [certified, metered] {
        for count in [1, 959, 960, 961, 1_023, 1_024, 1_025, 2_500] {
            let mut shard = Shard::default();
            (0..count).for_each(|id| shard.arm(arming(id, 0, &rule, &[], Repeat::Every)).unwrap());
            for offset in 0..2 {
                let mut events = Vec::new();
                let position = Position { partition: 0, offset };
                shard.evaluate(&tick(0, 1.0), position, &mut events).unwrap();
                let fired = events.iter().map(|event| match event {
                    Event::Fired { firing, .. } => firing.binding.0,
                    _ => panic!("{event:?}"),
                });
                let mut fired: Vec<i64> = fired.collect();
                fired.sort_unstable();
                assert!(fired.into_iter().eq(0..count), "{count} bindings");
            }
        }
    }
}

#[test]
fn all_sleepers_that_fire_at_once_are_told() {
    let [above, _] = built_in();
    let mut shard = Shard::default();
    for id in 0..4_000 {
        shard.arm(arming(id, 0, above, &(id as f64).to_le_bytes(), Repeat::Every)).unwrap();
    }
    for (offset, price) in [-1.0, 958.0, 959.0, 960.0, 1_024.0, 2_999.0, 0.0, -1.0].into_iter().enumerate() {
        let fired: Vec<i64> =
            evaluate(&mut shard, &tick(0, price), offset as u64).iter().map(|fired| fired.0).collect();
        assert!(fired.into_iter().eq(0..(price + 1.0) as i64), "at a price of {price}");
    }
}
