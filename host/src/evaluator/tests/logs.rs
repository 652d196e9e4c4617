//! Another log behind what is stored, and a log that has lost its end: nothing is skipped, and no offset is taken for
//! another one's.

use std::collections::HashSet;
use std::path::Path;

use tocsin_bus::{append, fresh_topic, remake_topic, remake_topic_with};
use tocsin_engine::domain::Firing;
use tocsin_store::Commit;

use super::*;
use crate::control::AcceptFrom;

on_each_backend!(
    offsets_of_firings_are_not_used_again_after_a_power_cut,
    offsets_of_new_alerts_are_not_used_again_after_a_power_cut,
    a_log_that_was_deleted_halts_evaluation_until_another_is_accepted,
    a_topic_made_anew_halts_evaluation_until_it_is_accepted,
    a_topic_made_anew_while_it_is_evaluated_is_noticed,
    a_symbol_whose_partition_is_gone_waits_for_its_first_tick,
    a_topic_that_lost_its_end_halts_its_partition,
    a_topic_that_is_evaluated_has_nothing_to_accept,
);

impl Rig {
    /// Puts another bus in the place of this one.
    fn change_bus(&mut self, bus: Bus) {
        self.control = Control::new(self.store.clone(), bus.clone(), self.library.clone(), self.clock.clone(), CAPS);
        self.bus = bus;
    }

    /// The embedded log's files are as they were when `copy` was made of them.
    fn restore_log(&mut self, copy: Option<&Path>) {
        // The folder has one user at a time.
        let nothing = tempfile::tempdir().unwrap();
        self.change_bus(open_bus(nothing.path()));
        let log = self._dir.path().join("log");
        std::fs::remove_dir_all(&log).unwrap();
        if let Some(copy) = copy {
            copy_folder(copy, &log);
        }
        self.change_bus(open_bus(self._dir.path()));
    }

    fn copy_log(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&self._dir.path().join("log"), copy.path());
        copy
    }

    /// Why the partitions are halted that are.
    fn halted(&self, running: &Running) -> Vec<String> {
        running.evaluator.stats().partitions().into_values().filter_map(|state| state.halted).collect()
    }

    async fn firings(&self) -> Vec<Firing> {
        let firings = self.store.firings(&Tenant::standard(), None, 0, 1_000).await.unwrap();
        firings.into_iter().map(|(_, firing)| firing).collect()
    }

    async fn accept(&self, from: AcceptFrom) {
        let found = self.control.log().await.unwrap().found;
        self.control.accept_log(&found, from).await.unwrap();
    }

    /// Evaluates what there is, writes a checkpoint, and ends.
    async fn evaluate_until(&self, id: i64, counts: &[f64]) {
        let running = self.start().await;
        self.until_counts(id, counts).await;
        running.stop().await;
    }
}

fn open_bus(dir: &Path) -> Bus {
    let db = EmbeddedDb::open(dir).unwrap();
    Bus::Embedded(EmbeddedBus::open(&db, LogConfig::default(), Arc::new(|| NOW_MS)).unwrap())
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn upto(count: u32) -> Vec<f64> {
    (1..=count).map(f64::from).collect()
}

async fn offsets_of_firings_are_not_used_again_after_a_power_cut(backend: Backend) {
    let mut rig = Rig::new(backend, &[COUNTER]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let running = rig.start().await;
    rig.publish("X", &[GOOD; 5]).await;
    rig.until_counts(id, &upto(5)).await;
    let before = rig.copy_log();
    rig.publish("X", &[GOOD; 6]).await;
    rig.until_counts(id, &upto(11)).await;
    rig.crash(running).await;

    // What was not on the disk is gone: six ticks that alerts fired on. No checkpoint was written.
    rig.restore_log(Some(before.path()));
    let running = rig.start().await;
    rig.publish("X", &[GOOD; 3]).await;
    let expect = [upto(11), vec![6.0, 7.0, 8.0]].concat();
    rig.until_counts(id, &expect).await;
    running.stop().await;
    let firings = rig.firings().await;
    let offsets: Vec<u64> = firings.iter().map(|firing| firing.position.offset).collect();
    assert_eq!(offsets, [(0..11).collect::<Vec<_>>(), vec![11, 12, 13]].concat());
}

async fn offsets_of_new_alerts_are_not_used_again_after_a_power_cut(backend: Backend) {
    let mut rig = Rig::new(backend, &[COUNTER]).await;
    rig.publish("X", &[GOOD; 3]).await;
    let before = rig.copy_log();
    rig.publish("X", &[GOOD; 4]).await;
    // It counts from offset 7 on.
    let id = rig.create("counter", &["X"]).await.unwrap();
    rig.restore_log(Some(before.path()));
    let running = rig.start().await;
    rig.publish("X", &[GOOD; 3]).await;
    rig.until_counts(id, &upto(3)).await;
    running.stop().await;
}

async fn a_log_that_was_deleted_halts_evaluation_until_another_is_accepted(backend: Backend) {
    let mut rig = Rig::new(backend, &[COUNTER]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    rig.publish("X", &[GOOD; 2]).await;
    rig.evaluate_until(id, &upto(2)).await;
    let log = rig.control.log().await.unwrap();
    assert_eq!(log.expected.unwrap().identity, log.found);
    let nothing = rig.control.accept_log(&log.found, AcceptFrom::Earliest).await;
    assert!(matches!(&nothing, Err(ControlError::Conflict(text)) if text.contains("nothing to accept")), "{nothing:?}");

    rig.restore_log(None);
    // More than before: by their offsets alone they could be new ticks of the log before.
    rig.publish("X", &[GOOD; 3]).await;
    let running = rig.start().await;
    let halted = rig.halted(&running);
    assert_eq!(halted.len(), rig.bus.partitions() as usize);
    assert!(halted.iter().all(|why| why.contains(&log.found) && why.contains("`tocsin log accept`")), "{halted:?}");
    let refused = rig.create("counter", &["X"]).await;
    assert!(
        matches!(&refused, Err(ControlError::Unavailable(why)) if why.contains("tocsin log accept")),
        "{refused:?}"
    );
    let other = rig.control.accept_log(&log.found, AcceptFrom::Earliest).await;
    assert!(matches!(&other, Err(ControlError::Conflict(text)) if text.contains("tocsin log show")), "{other:?}");
    assert_eq!(rig.counts(id).await, upto(2));

    rig.accept(AcceptFrom::Earliest).await;
    // The same evaluator goes on, and the alert with what it remembers.
    rig.until_counts(id, &upto(5)).await;
    wait_until(async || rig.halted(&running).is_empty()).await;
    let firings = rig.firings().await;
    assert_eq!(firings.iter().map(|firing| firing.position.offset).collect::<Vec<_>>(), [0, 1, 0, 1, 2]);
    assert_eq!(firings.iter().map(|firing| firing.id).collect::<HashSet<_>>().len(), 5);
    running.stop().await;
    rig.publish("X", &[GOOD]).await;
    rig.evaluate_until(id, &upto(6)).await;
}

/// A rig on a topic, with one alert whose symbol is known to be on a partition.
async fn on_topic(backend: Backend) -> (Rig, i64, u32) {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::on(fresh_topic().await, dir, backend, &[COUNTER]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let partition = rig.bus.partition_of(&Symbol::parse("X").unwrap());
    (rig, id, partition)
}

fn ticks(count: usize) -> Vec<Tick> {
    let tick = Tick::new(Symbol::parse("X").unwrap(), GOOD, 1.0, NOW_MS, Conditions::default()).unwrap();
    vec![tick; count]
}

async fn a_topic_made_anew_halts_evaluation_until_it_is_accepted(backend: Backend) {
    // With fewer records than were evaluated before, with as many, and with more.
    for records in [1, 4, 9] {
        let (mut rig, id, partition) = on_topic(backend).await;
        append(&rig.bus, partition, &ticks(4)).await;
        rig.evaluate_until(id, &upto(4)).await;
        let bus = remake_topic(&rig.bus).await;
        rig.change_bus(bus);
        append(&rig.bus, partition, &ticks(records)).await;
        let running = rig.start().await;
        let halted = rig.halted(&running);
        assert_eq!(halted.len(), rig.bus.partitions() as usize, "{records}: {halted:?}");
        assert!(halted.iter().all(|why| why.contains("`tocsin log accept`")), "{halted:?}");
        assert_eq!(rig.counts(id).await, upto(4));
        rig.accept(AcceptFrom::Earliest).await;
        let all = upto(4 + records as u32);
        rig.until_counts(id, &all).await;
        running.stop().await;
        append(&rig.bus, partition, &ticks(1)).await;
        rig.evaluate_until(id, &upto(5 + records as u32)).await;
    }
    // Or from its end on.
    let (mut rig, id, partition) = on_topic(backend).await;
    append(&rig.bus, partition, &ticks(4)).await;
    rig.evaluate_until(id, &upto(4)).await;
    let bus = remake_topic(&rig.bus).await;
    rig.change_bus(bus);
    append(&rig.bus, partition, &ticks(3)).await;
    rig.accept(AcceptFrom::End).await;
    append(&rig.bus, partition, &ticks(2)).await;
    rig.evaluate_until(id, &upto(6)).await;
    let offsets: Vec<u64> = rig.firings().await.iter().map(|firing| firing.position.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 3, 4]);
}

async fn a_topic_made_anew_while_it_is_evaluated_is_noticed(backend: Backend) {
    let (mut rig, id, partition) = on_topic(backend).await;
    let running = rig.start_with(Duration::from_millis(50)).await;
    append(&rig.bus, partition, &ticks(4)).await;
    rig.until_counts(id, &upto(4)).await;
    // The group may lose the partitions of a topic that is deleted: what no checkpoint has is not remembered then.
    wait_until(async || running.evaluator.stats().partitions()[&partition].next_offset == Some(4)).await;
    let bus = remake_topic(&rig.bus).await;
    rig.change_bus(bus);
    wait_until(async || rig.halted(&running).iter().any(|why| why.contains("tocsin log accept"))).await;
    append(&rig.bus, partition, &ticks(3)).await;
    rig.accept(AcceptFrom::Earliest).await;
    rig.until_counts(id, &upto(7)).await;
    wait_until(async || rig.halted(&running).is_empty()).await;
    running.stop().await;
}

async fn a_symbol_whose_partition_is_gone_waits_for_its_first_tick(backend: Backend) {
    let (mut rig, id, _) = on_topic(backend).await;
    append(&rig.bus, 6, &ticks(4)).await;
    rig.evaluate_until(id, &upto(4)).await;
    let bus = remake_topic_with(&rig.bus, 2).await;
    rig.change_bus(bus);
    append(&rig.bus, 1, &ticks(3)).await;
    let running = rig.start().await;
    assert_eq!(rig.halted(&running).len(), 2);
    let found = rig.control.log().await.unwrap().found;
    let (_, moved) = rig.control.accept_log(&found, AcceptFrom::Earliest).await.unwrap();
    assert_eq!(moved, 1);
    // What it remembers stays with the partition that is gone.
    wait_until(async || rig.firings().await.len() == 7).await;
    let firings = rig.firings().await;
    let positions: Vec<_> = firings.iter().map(|firing| (firing.position.partition, firing.position.offset)).collect();
    assert_eq!(positions, [(6, 0), (6, 1), (6, 2), (6, 3), (1, 0), (1, 1), (1, 2)]);
    append(&rig.bus, 1, &ticks(1)).await;
    rig.until_counts(id, &[upto(4), upto(4)].concat()).await;
    running.stop().await;
}

async fn a_topic_that_lost_its_end_halts_its_partition(backend: Backend) {
    let (rig, id, partition) = on_topic(backend).await;
    append(&rig.bus, partition, &ticks(4)).await;
    rig.evaluate_until(id, &upto(4)).await;
    // As if three more had been there, and been fired on.
    let log = rig.bus.identity().await.unwrap();
    let claim = rig.store.claim_in(&log, partition).await.unwrap();
    let mut lost = rig.firings().await.remove(3);
    lost.position.offset = 6;
    lost.id = tocsin_engine::domain::FiringId::derive(lost.binding, lost.position);
    let commit = Commit { firings: vec![(lost, false)], ..Commit::default() };
    assert_eq!(rig.store.commit(&[claim], &commit).await.unwrap(), 1);

    let running = rig.start().await;
    let halted = rig.halted(&running);
    assert_eq!(halted.len(), 1, "the other partitions go on: {halted:?}");
    let expect = format!("partition {partition}: the log ends at offset 4, and offsets before 7 were used");
    assert!(halted[0].starts_with(&expect) && halted[0].contains("`tocsin log accept`"), "{halted:?}");
    rig.accept(AcceptFrom::End).await;
    append(&rig.bus, partition, &ticks(3)).await;
    // The checkpoint was at the end: nothing is evaluated again, and the third new tick is not the one that is lost.
    wait_until(async || rig.firings().await.len() == 8).await;
    let firings = rig.firings().await;
    let offsets: Vec<u64> = firings.iter().map(|firing| firing.position.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 6, 4, 5, 6]);
    assert_eq!(firings.iter().map(|firing| firing.id).collect::<HashSet<_>>().len(), 8);
    wait_until(async || rig.halted(&running).is_empty()).await;
    running.stop().await;
}

async fn a_topic_that_is_evaluated_has_nothing_to_accept(backend: Backend) {
    let (rig, _, partition) = on_topic(backend).await;
    let running = rig.start_with(Duration::from_millis(20)).await;
    let found = rig.control.log().await.unwrap().found;
    let accepting = async {
        wait_until(async || !rig.firings().await.is_empty()).await;
        for _ in 0..40 {
            let refused = rig.control.accept_log(&found, AcceptFrom::Earliest).await;
            let nothing = matches!(&refused, Err(ControlError::Conflict(why)) if why.contains("nothing to accept"));
            assert!(nothing, "partitions are evaluated further while their ends are read: {refused:?}");
        }
    };
    let publishing = async {
        loop {
            append(&rig.bus, partition, &ticks(50)).await;
        }
    };
    tokio::select! {
        () = accepting => {}
        () = publishing => {}
    }
    running.stop().await;
}
