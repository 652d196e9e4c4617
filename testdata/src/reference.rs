//! What the example rules must fire on, by their definitions: each written again the slow and obvious way, over whole
//! lists, with nothing shared with the rules. The rules' own tests compare with it, and so do those of the server.

/// What fires: the tick's index and the evidence.
pub type Fired = Vec<(usize, Vec<f64>)>;

/// The directions that an alert counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    /// Only up.
    Up,
    /// Only down.
    Down,
    /// Both.
    Either,
}

/// `percent-move`: every tick, a price and its event time in ms, looks back at all ticks of its window. The evidence is
/// the change in percent and the price that it is counted from.
pub fn percent_move(ticks: &[(f64, i64)], percent: f64, window_ms: i64, direction: Direction) -> Fired {
    let bucket_ms = (window_ms as f64 / 32.0).ceil() as i64;
    let mut buckets: Vec<i64> = Vec::new();
    let mut fired = Vec::new();
    for (now, &(price, time_ms)) in ticks.iter().enumerate() {
        // A late tick is put into the newest bucket.
        let bucket = time_ms / bucket_ms;
        buckets.push(buckets.last().map_or(bucket, |&newest| bucket.max(newest)));
        let first = buckets.iter().rposition(|&b| b < buckets[now] - 31).map_or(0, |before| before + 1);
        let prices = || ticks[first..=now].iter().map(|(price, _)| *price);
        let (lowest, highest) = (prices().fold(f64::INFINITY, f64::min), prices().fold(f64::NEG_INFINITY, f64::max));

        let change = |reference: f64| (price - reference) / reference * 100.0;
        if direction != Direction::Down && lowest > 0.0 && change(lowest) >= percent {
            fired.push((now, vec![change(lowest), lowest]));
        } else if direction != Direction::Up && highest > 0.0 && change(highest) <= -percent {
            fired.push((now, vec![change(highest), highest]));
        }
    }
    fired
}

/// `ema-cross`: the averages as lists, their order at each tick, and the places where it turns. The evidence is the fast
/// average and the slow one.
pub fn ema_cross(prices: &[f64], fast: u32, slow: u32, direction: Direction) -> Fired {
    let (fasts, slows) = (averages(prices, fast), averages(prices, slow));
    let unequal = |n: &usize| fasts[*n] != slows[*n];
    let sides: Vec<(usize, bool)> = (0..prices.len()).filter(unequal).map(|n| (n, fasts[n] > slows[n])).collect();
    let turns = sides.windows(2).filter(|pair| pair[0].1 != pair[1].1).map(|pair| pair[1]);
    turns
        .filter(|(n, _)| *n >= slow as usize)
        .filter(|(_, is_up)| match direction {
            Direction::Up => *is_up,
            Direction::Down => !*is_up,
            Direction::Either => true,
        })
        .map(|(n, _)| (n, vec![fasts[n], slows[n]]))
        .collect()
}

fn averages(prices: &[f64], period: u32) -> Vec<f64> {
    let alpha = 2.0 / (f64::from(period) + 1.0);
    let mut averages = Vec::with_capacity(prices.len());
    for &price in prices {
        let last = averages.last().copied().unwrap_or(price);
        averages.push(last + alpha * (price - last));
    }
    averages
}

/// `volume-spike`: every trade looks back at the volumes of the `trades` before it. The evidence is the z-score and the
/// mean.
pub fn volume_spike(volumes: &[f64], trades: usize, z_score: f64) -> Fired {
    let real: Vec<(usize, f64)> = volumes.iter().copied().enumerate().filter(|(_, volume)| *volume != 0.0).collect();
    let mut fired = Vec::new();
    for window in real.windows(trades + 1) {
        let (before, (index, volume)) = (&window[..trades], window[trades]);
        let mean = before.iter().map(|(_, v)| v).sum::<f64>() / trades as f64;
        let variance = before.iter().map(|(_, v)| (v - mean).powi(2)).sum::<f64>() / trades as f64;
        let deviation = variance.sqrt();
        if deviation < 1e-9 * mean {
            continue;
        }
        let score = (volume - mean) / deviation;
        if score >= z_score {
            fired.push((index, vec![score, mean]));
        }
    }
    fired
}

/// `volume-above`: every trade, a price and its volume, looks back at those since the last firing that were not below
/// `price`. The evidence is the trade's price, the volume of all of them, and their number.
pub fn volume_above(trades: &[(f64, f64)], price: f64, volume: f64) -> Fired {
    let mut counted: Vec<f64> = Vec::new();
    let mut fired = Vec::new();
    for (now, &(at, traded)) in trades.iter().enumerate().filter(|(_, trade)| trade.0 >= price) {
        counted.push(traded);
        let sum = counted.iter().fold(0.0, |sum, traded| sum + traded);
        if sum >= volume {
            fired.push((now, vec![at, sum, counted.len() as f64]));
            counted.clear();
        }
    }
    fired
}
