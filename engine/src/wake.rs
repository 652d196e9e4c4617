//! The index of the wake bands of a group's bindings, by which a tick finds the bindings that it wakes without visiting the
//! others.
//!
//! A band has up to three ends: a low price, a high price and a time. There is a heap for each kind of end, with an entry for
//! each finite end, ordered by which tick reaches it first. So a tick that wakes no binding costs three comparisons, and one
//! that wakes k of n bindings O(k log n).

use crate::ids::Slot;

/// A wake band: the prices and times in which a binding's answer cannot change. All ends are exclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// The low end, a price.
    pub low: f64,
    /// The high end, a price.
    pub high: f64,
    /// The end in event time, Unix milliseconds.
    pub until_ms: i64,
}

impl Band {
    /// Returns whether a tick is inside of the band. No tick is inside of a band with a NaN.
    pub fn holds(&self, price: f64, time_ms: i64) -> bool {
        self.low < price && price < self.high && time_ms < self.until_ms
    }
}

/// Which of a group's slots are asleep, with their wake bands, and which are awake.
#[derive(Default)]
pub(crate) struct Sleepers {
    /// By the negated low end, since the highest one is reached first.
    lows: WakeHeap,
    highs: WakeHeap,
    untils: WakeHeap,
    /// The slots that are awake, in any order.
    awake: Vec<Slot>,
    /// For each slot, its index in `awake`, or [`NOWHERE`].
    awake_at: Vec<u32>,
}

impl Sleepers {
    /// Adds the next slot, awake.
    pub(crate) fn push(&mut self) {
        let slot = Slot::new(self.awake_at.len());
        self.awake_at.push(self.awake.len() as u32);
        self.awake.push(slot);
    }

    /// Removes a slot. The last slot takes its index.
    pub(crate) fn swap_remove(&mut self, slot: Slot) {
        self.leave_awake(slot);
        let last = Slot::new(self.awake_at.len() - 1);
        for heap in [&mut self.lows, &mut self.highs, &mut self.untils] {
            heap.remove(slot);
            heap.rename(last, slot);
        }
        let place = self.awake_at[last.index()];
        if last != slot {
            self.awake_at[slot.index()] = place;
            if place != NOWHERE {
                self.awake[place as usize] = slot;
            }
        }
        self.awake_at.pop();
    }

    /// Wakes the slots whose bands a tick is outside of.
    pub(crate) fn wake(&mut self, price: f64, time_ms: i64) {
        let reached = [(true, -price), (false, price)].map(|(low, price)| (low, ordered(price)));
        for (low, key) in reached {
            while let Some(slot) = if low { &self.lows } else { &self.highs }.first(key) {
                self.wake_slot(slot);
            }
        }
        while let Some(slot) = self.untils.first(time_ms) {
            self.wake_slot(slot);
        }
    }

    /// Puts a slot to sleep until a tick is outside of the band.
    pub(crate) fn sleep(&mut self, slot: Slot, band: Band) {
        self.leave_awake(slot);
        if band.low > f64::NEG_INFINITY {
            self.lows.push(ordered(-band.low), slot);
        }
        if band.high < f64::INFINITY {
            self.highs.push(ordered(band.high), slot);
        }
        if band.until_ms < i64::MAX {
            self.untils.push(band.until_ms, slot);
        }
    }

    /// Returns the slots that are awake, in any order.
    pub(crate) fn awake(&self) -> &[Slot] {
        &self.awake
    }

    /// Returns whether a slot is asleep.
    pub(crate) fn sleeps(&self, slot: Slot) -> bool {
        self.awake_at[slot.index()] == NOWHERE
    }

    /// Returns the band of a slot that is asleep. A negative zero is returned as a positive one.
    pub(crate) fn band(&self, slot: Slot) -> Option<Band> {
        let price = |heap: &WakeHeap| heap.key(slot).map(float);
        self.sleeps(slot).then(|| Band {
            low: price(&self.lows).map_or(f64::NEG_INFINITY, |low| -low),
            high: price(&self.highs).unwrap_or(f64::INFINITY),
            until_ms: self.untils.key(slot).unwrap_or(i64::MAX),
        })
    }

    fn wake_slot(&mut self, slot: Slot) {
        for heap in [&mut self.lows, &mut self.highs, &mut self.untils] {
            heap.remove(slot);
        }
        self.awake_at[slot.index()] = self.awake.len() as u32;
        self.awake.push(slot);
    }

    fn leave_awake(&mut self, slot: Slot) {
        let place = std::mem::replace(&mut self.awake_at[slot.index()], NOWHERE);
        if place != NOWHERE {
            self.awake.swap_remove(place as usize);
            if let Some(moved) = self.awake.get(place as usize) {
                self.awake_at[moved.index()] = place;
            }
        }
    }

    /// Releases memory that is no longer needed since the group shrank.
    pub(crate) fn shrink(&mut self) {
        for heap in [&mut self.lows, &mut self.highs, &mut self.untils] {
            heap.entries.shrink_to(heap.entries.len() * 2);
            heap.place_of.shrink_to(heap.place_of.len() * 2);
        }
        self.awake.shrink_to(self.awake.len() * 2);
        self.awake_at.shrink_to(self.awake_at.len() * 2);
    }
}

/// Marks a slot that is not in a list.
const NOWHERE: u32 = u32::MAX;

/// The children of an entry of the heap: four are in one cache line.
const CHILDREN: usize = 4;

/// A heap of slots by key, the least first. Each slot is in it at most once, and can be found by its index.
#[derive(Default)]
struct WakeHeap {
    entries: Vec<Entry>,
    /// For each slot, its index in `entries`, or [`NOWHERE`]. Only as long as the highest slot that was ever in it.
    place_of: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Entry {
    key: i64,
    slot: Slot,
}

impl WakeHeap {
    /// Returns the first slot, if its key is at most `reached`.
    #[inline]
    fn first(&self, reached: i64) -> Option<Slot> {
        self.entries.first().filter(|entry| entry.key <= reached).map(|entry| entry.slot)
    }

    fn key(&self, slot: Slot) -> Option<i64> {
        let place = self.place_of.get(slot.index()).filter(|place| **place != NOWHERE)?;
        Some(self.entries[*place as usize].key)
    }

    fn push(&mut self, key: i64, slot: Slot) {
        if self.place_of.len() <= slot.index() {
            self.place_of.resize(slot.index() + 1, NOWHERE);
        }
        self.entries.push(Entry { key, slot });
        self.rise(self.entries.len() - 1);
    }

    fn remove(&mut self, slot: Slot) {
        let Some(place) = self.leave(slot) else { return };
        let last = self.entries.pop().expect("a slot with a place has an entry");
        if place < self.entries.len() {
            self.entries[place] = last;
            // At most one of the two moves it.
            self.sink(place);
            self.rise(self.place_of[last.slot.index()] as usize);
        }
    }

    /// Changes the slot of an entry, if there is one.
    fn rename(&mut self, from: Slot, to: Slot) {
        if from != to
            && let Some(place) = self.leave(from)
        {
            self.entries[place].slot = to;
            self.place_of[to.index()] = place as u32;
        }
    }

    /// Marks a slot as removed. Returns the index of its entry, if it has one.
    fn leave(&mut self, slot: Slot) -> Option<usize> {
        let place = std::mem::replace(self.place_of.get_mut(slot.index())?, NOWHERE);
        (place != NOWHERE).then_some(place as usize)
    }

    fn rise(&mut self, mut place: usize) {
        let entry = self.entries[place];
        while place > 0 {
            let parent = (place - 1) / CHILDREN;
            if self.entries[parent].key <= entry.key {
                break;
            }
            self.put(place, self.entries[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sink(&mut self, mut place: usize) {
        let entry = self.entries[place];
        loop {
            let first = place * CHILDREN + 1;
            let children = first..(first + CHILDREN).min(self.entries.len());
            let Some(least) = children.min_by_key(|child| self.entries[*child].key) else { break };
            if entry.key <= self.entries[least].key {
                break;
            }
            self.put(place, self.entries[least]);
            place = least;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.entries[place] = entry;
        self.place_of[entry.slot.index()] = place as u32;
    }
}

/// Maps floats to integers of the same order. Both zeroes map to the same one. Not for NaN.
#[inline]
fn ordered(float: f64) -> i64 {
    let bits = (float + 0.0).to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

/// The inverse of [`ordered`].
fn float(ordered: i64) -> f64 {
    f64::from_bits((ordered ^ ((ordered >> 63) as u64 >> 1) as i64) as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordered_keeps_the_order_of_floats() {
        let floats = [f64::NEG_INFINITY, -1e300, -1.0, -5e-324, 0.0, 5e-324, 1.0, 1e300, f64::INFINITY];
        for pair in floats.windows(2) {
            assert!(ordered(pair[0]) < ordered(pair[1]), "{pair:?}");
        }
        assert_eq!(ordered(-0.0), ordered(0.0));
        for number in floats {
            assert_eq!(float(ordered(number)), number);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        Remove(prop::sample::Index),
        Sleep(prop::sample::Index, f64, f64, i64),
        Tick(f64, i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let price = prop_oneof![
            8 => (-9..9_i32).prop_map(f64::from),
            1 => Just(f64::NEG_INFINITY),
            1 => Just(f64::INFINITY),
            1 => Just(-0.0),
        ];
        let time = prop_oneof![3 => 0..9_i64, 1 => Just(i64::MAX)];
        prop_oneof![
            3 => Just(Step::Push),
            1 => any::<prop::sample::Index>().prop_map(Step::Remove),
            4 => (any::<prop::sample::Index>(), price.clone(), price, time)
                .prop_map(|(slot, low, high, until_ms)| Step::Sleep(slot, low, high, until_ms)),
            4 => ((-9..9_i32).prop_map(f64::from), 0..9_i64).prop_map(|(price, time_ms)| Step::Tick(price, time_ms)),
        ]
    }

    proptest! {
        /// The index agrees with a linear search over the bands.
        #[test]
        fn the_index_wakes_the_slots_that_a_linear_search_wakes(steps in prop::collection::vec(step(), 1..200)) {
            let mut index = Sleepers::default();
            let mut naive: Vec<Option<Band>> = Vec::new();
            for step in steps {
                match step {
                    Step::Push => {
                        index.push();
                        naive.push(None);
                    }
                    Step::Remove(slot) if !naive.is_empty() => {
                        let slot = slot.index(naive.len());
                        index.swap_remove(Slot::new(slot));
                        naive.swap_remove(slot);
                    }
                    Step::Sleep(slot, low, high, until_ms) if !naive.is_empty() => {
                        let slot = slot.index(naive.len());
                        if naive[slot].is_none() {
                            index.sleep(Slot::new(slot), Band { low, high, until_ms });
                            naive[slot] = Some(Band { low, high, until_ms });
                        }
                    }
                    Step::Tick(price, time_ms) => {
                        index.wake(price, time_ms);
                        for band in &mut naive {
                            *band = band.filter(|band| band.holds(price, time_ms));
                        }
                    }
                    Step::Remove(_) | Step::Sleep(..) => {}
                }
                let mut awake = index.awake().to_vec();
                awake.sort_unstable();
                let expect: Vec<Slot> = (0..naive.len()).filter(|slot| naive[*slot].is_none()).map(Slot::new).collect();
                prop_assert_eq!(awake, expect);
            }
        }
    }
}
