//! What is done to which process, chosen by a seed before anything begins.

use std::ops::Range;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// The roles, and how many processes each has. The last evaluator is one that joins and leaves.
pub(crate) const ROLES: [(&str, usize); 5] =
    [("ingest", 2), ("evaluate", 4), ("deliver", 2), ("project", 1), ("api", 1)];

/// Named points in the code, each with the role that passes it, and how often at most it passes before it dies there.
const FAILPOINTS: [(&str, &str, u32); 9] = [
    ("evaluate", "before-commit", 20),
    ("evaluate", "after-commit", 20),
    ("evaluate", "after-claim", 2),
    ("evaluate", "before-checkpoint", 20),
    ("evaluate", "after-checkpoint", 20),
    ("deliver", "after-lease", 10),
    ("deliver", "after-publish-before-ack", 10),
    ("ingest", "after-publish", 50),
    ("project", "after-apply", 20),
];

/// One of so many kills is at a failpoint, where there are more kills than failpoints.
const KILLS_A_FAILPOINT: usize = 5;

/// Beside so many kills a process is held still for longer than its session, lock or lease.
const KILLS_A_PAUSE: usize = 5;

/// Beside so many kills a process is stopped in order and started again, and an evaluator joins or leaves.
const KILLS_A_STOP: usize = 8;

/// After so many kills a part of the stack is killed or held still, where it may be.
const KILLS_A_PART: usize = 6;

/// Beside so many kills alerts are created and deleted around the first ticks of fresh symbols.
const KILLS_A_FIRST_TICK: usize = 3;

/// Beside so many kills an evaluator's notifications are held back.
const KILLS_A_HOLD: usize = 5;

/// For how long, milliseconds: some for longer than it takes an evaluator to notice that its connection is stuck, 10 s.
const HOLD_MS: Range<u64> = 2_000..14_000;

/// Beside so many kills a partition halts, until an operator's command.
const KILLS_A_HALT: usize = 20;

/// One of so many promotions is cancelled, if it has not ended by then.
const PROMOTIONS_A_CANCELLATION: usize = 3;

/// Acts that go on in the background are followed by the next after at most so long, milliseconds.
const MAX_BACKGROUND_WAIT_MS: u64 = 300;

/// One of so many acts on an evaluator has a promotion requested beside it, where there is a version left to promote to.
const EVALUATOR_ACTS_A_PROMOTION: usize = 3;

/// The longest time between a promotion and the act on an evaluator beside it, milliseconds: longer than a hand-off takes.
const MAX_PROMOTION_LEAD_MS: u64 = 300;

/// What is done to which part of the stack, in turn; `kafka` stands for one of the brokers.
const PARTS: [(&str, &str); 6] = [
    ("kill", "postgres"),
    ("kill", "kafka"),
    ("pause", "redis"),
    ("pause", "postgres"),
    ("pause", "kafka"),
    ("kill", "redis"),
];

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// SIGKILL and a new process.
    Kill(usize),
    /// A new process that dies at a failpoint.
    FailAt(&'static str, &'static str, u32),
    Pause(usize),
    Stop(usize),
    /// The evaluator that is there at times comes, or goes.
    JoinOrLeave,
    /// A part of the stack goes away and comes back.
    Part(&'static str, String),
    /// Alerts on symbols without ticks are created and deleted around their first ticks, in an order that this seed chooses.
    FirstTicks(u64),
    /// A client requests a promotion.
    Promote,
    /// An evaluator hears of no change for so many milliseconds, unless it looks.
    HoldNotifications(usize, u64),
    /// The promotion under way is cancelled.
    CancelPromotion,
    /// A partition with promoted alerts, the one of this number among them, halts until an operator's command.
    HaltPartition(usize),
}

impl Action {
    /// Whether it goes on by itself, beside the next acts.
    fn is_in_background(&self) -> bool {
        matches!(self, Self::FirstTicks(_) | Self::Promote | Self::HoldNotifications(..) | Self::CancelPromotion)
    }

    /// Whether it moves partitions between evaluators, or holds up one of them.
    fn is_on_evaluator(&self, evaluators: &Range<usize>) -> bool {
        match self {
            Self::Kill(chosen) | Self::Pause(chosen) | Self::Stop(chosen) | Self::HoldNotifications(chosen, _) => {
                evaluators.contains(chosen)
            }
            Self::FailAt(role, ..) => *role == "evaluate",
            Self::JoinOrLeave => true,
            Self::Part(..) | Self::FirstTicks(_) | Self::Promote | Self::CancelPromotion | Self::HaltPartition(_) => {
                false
            }
        }
    }
}

/// One action, and the wait behind it, milliseconds.
pub(crate) type Step = (Action, u64);

/// The steps of a run with so many kills, failpoints included; all failpoints if there are as many kills. `brokers` is their
/// number where the parts of the stack may be killed, too.
pub(crate) fn plan(kills: usize, seed: u64, failpoints: bool, brokers: Option<usize>) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let processes: usize = ROLES.iter().map(|(_, many)| many).sum();
    let first = ROLES.iter().take_while(|(role, _)| *role != "evaluate").map(|(_, many)| many).sum::<usize>();
    let evaluators = first..first + ROLES.iter().find(|(role, _)| *role == "evaluate").map_or(0, |(_, many)| *many);
    let at_failpoints = if failpoints { (kills / KILLS_A_FAILPOINT).max(FAILPOINTS.len()).min(kills) } else { 0 };
    let mut actions = Vec::new();
    for i in 0..at_failpoints {
        let (role, name, passes) = FAILPOINTS[i % FAILPOINTS.len()];
        actions.push(Action::FailAt(role, name, rng.random_range(0..=passes)));
    }
    actions.extend((at_failpoints..kills).map(|_| Action::Kill(rng.random_range(0..processes))));
    for i in 0..kills.div_ceil(KILLS_A_PAUSE) {
        // Every other one is an evaluator: a zombie among them does the most harm.
        let chosen = if i % 2 == 0 { evaluators.clone() } else { 0..processes };
        actions.push(Action::Pause(rng.random_range(chosen)));
    }
    actions.extend((0..kills.div_ceil(KILLS_A_STOP)).map(|_| Action::Stop(rng.random_range(0..processes))));
    actions.extend((0..kills.div_ceil(KILLS_A_STOP)).map(|_| Action::JoinOrLeave));
    actions.extend((0..kills.div_ceil(KILLS_A_FIRST_TICK)).map(|_| Action::FirstTicks(rng.random())));
    actions.extend(
        (0..kills.div_ceil(KILLS_A_HOLD))
            .map(|_| Action::HoldNotifications(rng.random_range(evaluators.clone()), rng.random_range(HOLD_MS))),
    );
    actions.extend((0..kills / KILLS_A_HALT).map(|_| Action::HaltPartition(rng.random_range(0..usize::MAX))));
    let mut broker = (1..=brokers.unwrap_or_default()).cycle();
    for (action, part) in PARTS.iter().cycle().take(brokers.map_or(0, |_| kills / KILLS_A_PART)) {
        let number = if *part == "kafka" { broker.next() } else { None };
        let part = number.map_or_else(|| (*part).to_owned(), |number| format!("{part}-{number}"));
        actions.push(Action::Part(action, part));
    }
    actions.shuffle(&mut rng);
    let wait_ms = |action: &Action, rng: &mut StdRng| match action.is_in_background() {
        true => rng.random_range(0..=MAX_BACKGROUND_WAIT_MS),
        false => rng.random_range(100..1500),
    };
    let steps = actions.into_iter().map(|action| (action.clone(), wait_ms(&action, &mut rng))).collect();
    with_promotions(steps, &evaluators, &mut rng)
}

/// Adds promotions, each right before or right after an act on an evaluator, and cancels some behind both.
fn with_promotions(steps: Vec<Step>, evaluators: &Range<usize>, rng: &mut StdRng) -> Vec<Step> {
    let (mut all, mut on_evaluators) = (Vec::new(), 0);
    for (action, wait_ms) in steps {
        let is_on_evaluator = action.is_on_evaluator(evaluators);
        on_evaluators += usize::from(is_on_evaluator);
        if !is_on_evaluator || on_evaluators % EVALUATOR_ACTS_A_PROMOTION != 0 {
            all.push((action, wait_ms));
            continue;
        }
        let lead_ms = rng.random_range(0..=MAX_PROMOTION_LEAD_MS);
        let [mut first, mut second] = [action, Action::Promote];
        if rng.random() {
            std::mem::swap(&mut first, &mut second);
        }
        all.push((first, lead_ms));
        if on_evaluators % (EVALUATOR_ACTS_A_PROMOTION * PROMOTIONS_A_CANCELLATION) == 0 {
            all.push((second, rng.random_range(0..=MAX_PROMOTION_LEAD_MS)));
            all.push((Action::CancelPromotion, wait_ms));
        } else {
            all.push((second, wait_ms));
        }
    }
    all
}

/// How many promotions a plan asks for.
pub(crate) fn promotions_of(plan: &[Step]) -> usize {
    plan.iter().filter(|(action, _)| *action == Action::Promote).count()
}

/// The failpoints that a plan asks for.
pub(crate) fn failpoints_of(plan: &[Step]) -> Vec<&'static str> {
    let mut names: Vec<_> = plan
        .iter()
        .filter_map(|(action, _)| if let Action::FailAt(_, name, _) = action { Some(*name) } else { None })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}
