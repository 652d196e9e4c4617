// volume-above in AssemblyScript: fires each time that so much volume has been traded at or above a price.

@unmanaged class Tick { price: f64; volume: f64; timeMs: i64; conditions: u64; }
@unmanaged class Params { price: f64; volume: f64; }
@unmanaged class State { volume: f64; trades: i64; }
@unmanaged class Verdict {
  evidence0: f64; evidence1: f64; evidence2: f64; evidence3: f64;
  wakeLow: f64; wakeHigh: f64; wakeUntilMs: i64;
}

const HOLD = 0;
const FIRE = 1;
const ASLEEP = 2;

export function evaluate(tick: Tick, params: Params, state: State, verdict: Verdict): i32 {
  if (tick.price < params.price) {
    // Nothing counts until the price is back: the host need not ask before.
    verdict.wakeLow = -Infinity;
    verdict.wakeHigh = params.price;
    verdict.wakeUntilMs = i64.MAX_VALUE;
    return HOLD | ASLEEP;
  }
  state.volume += tick.volume;
  state.trades += 1;
  if (state.volume < params.volume) return HOLD;
  verdict.evidence0 = tick.price;
  verdict.evidence1 = state.volume;
  verdict.evidence2 = <f64>state.trades;
  state.volume = 0;
  state.trades = 0;
  return FIRE;
}
