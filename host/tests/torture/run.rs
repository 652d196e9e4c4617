//! A run, from the curtain to the verdict.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::cast::Actor;
use crate::compare::{self, Findings};
use crate::db::Db;
use crate::load::Load;
use crate::plan::{Action, ROLES, failpoints_of, plan};
use crate::reference;
use crate::scene::{Scene, await_ready};
use crate::stack::Stack;
use crate::topics::Topic;
use crate::visitors::{Visitors, Visits};

/// How long a process is held still: longer than a session, a lease and a lock, the longest of which is 10 s.
const PAUSE: Duration = Duration::from_secs(13);

/// How long a part of the stack is away.
const PART_AWAY: Duration = Duration::from_secs(3);

/// After so many steps evaluation must have come as far as the topic was: kills must meet work, not ruins.
const STEPS_A_BREATH: usize = 32;

/// How long anything that must happen may take, and a number that must move may stand still.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How long a process waits for its failpoint before the others of its role make room for it.
const DOOM_PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const POLL: Duration = Duration::from_millis(100);

/// Runs with so many kills; whether nothing was lost, doubled or different.
pub(crate) fn run(kills: usize, seed: u64) -> anyhow::Result<bool> {
    let stack = Stack::find()?;
    let steps = plan(kills, seed, cfg!(feature = "failpoints"), stack.own_brokers());
    let scene = Scene::make(stack)?;
    scene.set()?;
    let mut tortured = Tortured::begin(&scene, seed)?;
    let load = Load::start(&scene, seed)?;
    let api = tortured.actors.iter().find(|actor| actor.role == "api").context("there is an API")?;
    let visitors = Visitors::start(&scene, api.log(), seed)?;
    for (step, (action, wait_ms)) in steps.iter().enumerate() {
        tortured.act(action).with_context(|| format!("{action:?}"))?;
        tortured.wait(Duration::from_millis(*wait_ms))?;
        if (step + 1) % STEPS_A_BREATH == 0 {
            tortured.breathe()?;
            tortured.tell()?;
        }
    }
    tortured.await_dooms()?;
    tortured.tell()?;
    let visits = visitors.stop()?;
    let mut findings = tortured.end(load)?;
    let missed: Vec<_> =
        failpoints_of(&steps).into_iter().filter(|name| !tortured.died_at.contains_key(name)).collect();
    ensure!(missed.is_empty(), "nobody died at {missed:?}");
    println!("torture: died at failpoints: {:?}", tortured.died_at);
    drop(tortured);
    tell_of(&visits);
    compare::created(&scene, &visits, &mut findings)?;
    reference::run(&scene)?;
    compare::databases(&scene, &mut findings)?;
    compare::told(&scene, &mut findings)?;
    if findings.are_none() {
        scene.strike()?;
    } else {
        println!("torture: the logs are in {}", scene.folder.display());
    }
    Ok(findings.are_none())
}

struct Tortured<'a> {
    scene: &'a Scene,
    actors: Vec<Actor>,
    ticks: Topic,
    /// For what depends on how things went.
    rng: StdRng,
    killed: usize,
    died_at: BTreeMap<&'static str, usize>,
    others: usize,
    begun: Instant,
}

impl<'a> Tortured<'a> {
    fn begin(scene: &'a Scene, seed: u64) -> anyhow::Result<Self> {
        let ticks = Topic::new(&scene.stack.brokers, scene.ticks_topic())?;
        let mut actors = Vec::new();
        for (role, many) in ROLES {
            for number in 0..many {
                let mut actor = Actor::new(scene, role, number)?;
                actor.start(scene, None)?;
                actors.push(actor);
            }
        }
        actors.iter().try_for_each(|actor| await_ready(actor).map(drop))?;
        let rng = StdRng::seed_from_u64(!seed);
        let begun = Instant::now();
        Ok(Self { scene, actors, ticks, rng, killed: 0, died_at: BTreeMap::new(), others: 0, begun })
    }

    fn act(&mut self, action: &Action) -> anyhow::Result<()> {
        match action {
            Action::Kill(chosen) => {
                let chosen = self.near(*chosen, |actor| !actor.is_absent() && actor.doom().is_none());
                self.actors[chosen].kill()?;
                self.actors[chosen].start(self.scene, None)?;
                self.killed += 1;
            }
            Action::FailAt(role, name, passes) => {
                let first = self.actors.iter().position(|actor| actor.role == *role).context("a role has actors")?;
                let many = self.actors.iter().filter(|actor| actor.role == *role).count();
                let chosen = first + self.rng.random_range(0..many);
                let chosen = self.near(chosen, |actor| actor.role == *role && actor.doom().is_none());
                self.actors[chosen].stop()?;
                self.actors[chosen].start(self.scene, Some((name, *passes)))?;
            }
            Action::Pause(chosen) => {
                let chosen = self.near(*chosen, Actor::is_running);
                self.actors[chosen].pause(PAUSE)?;
            }
            Action::Stop(chosen) => {
                let chosen = self.near(*chosen, Actor::is_running);
                self.actors[chosen].stop()?;
                self.actors[chosen].start(self.scene, None)?;
            }
            Action::JoinOrLeave => {
                let guest = self.actors.iter().rposition(|actor| actor.role == "evaluate").context("evaluators")?;
                if self.actors[guest].is_running() {
                    self.actors[guest].stop()?;
                } else if self.actors[guest].is_absent() {
                    self.actors[guest].start(self.scene, None)?;
                }
            }
            Action::Part(action, part) => {
                self.scene.stack.change(action, part)?;
                self.wait(PART_AWAY)?;
                self.scene.stack.change("start", part)?;
            }
        }
        self.others += usize::from(!matches!(action, Action::Kill(_) | Action::FailAt(..)));
        Ok(())
    }

    /// The chosen actor, or the next one that will do, or else the chosen.
    fn near(&self, chosen: usize, will_do: impl Fn(&Actor) -> bool) -> usize {
        let round = (0..self.actors.len()).map(|i| (chosen + i) % self.actors.len());
        round.into_iter().find(|i| will_do(&self.actors[*i])).unwrap_or(chosen)
    }

    /// Waits, and looks after everybody meanwhile.
    fn wait(&mut self, duration: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            self.look_after_all()?;
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(POLL));
        }
        Ok(())
    }

    fn look_after_all(&mut self) -> anyhow::Result<()> {
        for actor in &mut self.actors {
            if let Some(name) = actor.look_after()? {
                *self.died_at.entry(name).or_default() += 1;
                actor.start(self.scene, None)?;
            }
        }
        Ok(())
    }

    /// Waits until evaluation has come to where the topic ends now.
    fn breathe(&mut self) -> anyhow::Result<()> {
        self.wait_for(is_at)
    }

    fn wait_for(&mut self, is_there: fn(&Db, &[i64]) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let ends = self.ticks.ends()?;
        let mut progress = Progress::default();
        while !is_there(&self.scene.db, &ends)? {
            let moves = progress.is_made(judged(&self.scene.db)?);
            ensure!(moves, "evaluation does not come to {ends:?}; see {}", self.logs());
            self.wait(POLL)?;
        }
        Ok(())
    }

    /// Waits until everybody has died who is to die, for which others of their role may have to make room.
    fn await_dooms(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while let Some(doomed) = self.actors.iter().find(|actor| actor.doom().is_some()) {
            let (role, name) = (doomed.role, doomed.doom());
            self.wait(POLL)?;
            if begun.elapsed() > DOOM_PATIENCE {
                let mut others = self.actors.iter_mut().filter(|actor| actor.role == role && actor.doom().is_none());
                others.try_for_each(Actor::stop)?;
            }
            ensure!(begun.elapsed() < DOOM_PATIENCE + PATIENCE, "nobody came to {name:?}");
        }
        for actor in self.actors.iter_mut().filter(|actor| actor.is_absent()) {
            actor.start(self.scene, None)?;
        }
        Ok(())
    }

    fn tell(&self) -> anyhow::Result<()> {
        let firings = self.scene.db.number("SELECT count(*) FROM firings")?;
        let untold = self.scene.db.number("SELECT count(*) FROM outbox")?;
        let epochs = self.scene.db.number("SELECT sum(epoch)::bigint FROM partitions")?;
        println!(
            "torture: {} s: {} killed, {} died at failpoints, {} other acts; {} ticks, {firings} firings, {untold} to be \
             told, {epochs} claims",
            self.begun.elapsed().as_secs(),
            self.killed,
            self.died_at.values().sum::<usize>(),
            self.others,
            self.ticks.ends()?.iter().sum::<i64>()
        );
        Ok(())
    }

    /// No more ticks; everything is judged, told and projected; everybody ends in order.
    fn end(&mut self, load: Load) -> anyhow::Result<Findings> {
        for actor in self.actors.iter_mut().filter(|actor| actor.role == "ingest") {
            actor.stop()?;
        }
        load.stop()?;
        self.wait_for(is_done)?;
        let mut progress = Progress::default();
        loop {
            let untold = self.scene.db.number("SELECT count(*) FROM outbox")?;
            if untold == 0 {
                break;
            }
            ensure!(progress.is_made(untold), "{untold} firings are not told; see {}", self.logs());
            self.wait(POLL)?;
        }
        let api = self.actors.iter().find(|actor| actor.role == "api").context("there is an API")?;
        let url = await_ready(api)?;
        let begun = Instant::now();
        let findings = loop {
            let findings = compare::prices(self.scene, &url)?;
            if findings.are_none() || begun.elapsed() > PATIENCE {
                break findings;
            }
            self.wait(Duration::from_secs(2))?;
        };
        for actor in &mut self.actors {
            actor.stop()?;
        }
        Ok(findings)
    }

    fn logs(&self) -> String {
        self.scene.folder.display().to_string()
    }
}

fn tell_of(visits: &Visits) {
    let Visits { created, deleted, version, again } = visits;
    println!(
        "torture: meanwhile {} alerts were created, {deleted} of them deleted, and a rule promoted {} times; {again} requests \
         were made again",
        created.len(),
        version - 1
    );
}

/// How many ticks are judged in checkpoints.
pub(crate) fn judged(db: &Db) -> anyhow::Result<i64> {
    db.number("SELECT coalesce(sum(next_offset), 0)::bigint FROM partitions")
}

/// Whether a number moves: a busy machine is slow, and only what stands still is stuck.
#[derive(Default)]
pub(crate) struct Progress(Option<(i64, Instant)>);

impl Progress {
    /// False once the number is what it was [`PATIENCE`] ago.
    pub(crate) fn is_made(&mut self, number: i64) -> bool {
        match self.0 {
            Some((before, since)) if before == number => since.elapsed() < PATIENCE,
            _ => {
                self.0 = Some((number, Instant::now()));
                true
            }
        }
    }
}

/// Whether checkpoints have come to these ends.
pub(crate) fn is_at(db: &Db, ends: &[i64]) -> anyhow::Result<bool> {
    let rows = db.texts(r#"SELECT "partition" || ' ' || next_offset FROM partitions"#)?;
    let mut at = BTreeMap::new();
    for row in &rows {
        let (partition, offset) = row.split_once(' ').context("a row has two numbers")?;
        at.insert(partition.parse::<usize>()?, offset.parse::<i64>()?);
    }
    Ok(ends.iter().enumerate().all(|(partition, end)| at.get(&partition).is_some_and(|offset| offset >= end)))
}

/// Whether they know of every change as well: an alert that was heard of behind its first tick has caught up. Where symbols
/// are at home is known by the time that checkpoints have come to the ends, and not before.
pub(crate) fn is_done(db: &Db, ends: &[i64]) -> anyhow::Result<bool> {
    let behind = "SELECT count(*) FROM partitions WHERE revision < (SELECT newest FROM revisions)";
    Ok(is_at(db, ends)? && db.number(behind)? == 0)
}
