//! volume-above in Zig: fires each time that so much volume has been traded at or above a price.

const std = @import("std");

const Tick = extern struct { price: f64, volume: f64, time_ms: i64, conditions: u64 };
const Params = extern struct { price: f64, volume: f64 };
const State = extern struct { volume: f64, trades: i64 };
const Verdict = extern struct { evidence: [4]f64, wake_low: f64, wake_high: f64, wake_until_ms: i64 };

const hold = 0;
const fire = 1;
const asleep = 2;

// Addresses may be 0, which `*` rules out.
export fn evaluate(
    tick: *allowzero const Tick,
    params: *allowzero const Params,
    state: *allowzero State,
    verdict: *allowzero Verdict,
) i32 {
    if (tick.price < params.price) {
        // Nothing counts until the price is back: the host need not ask before.
        verdict.wake_low = -std.math.inf(f64);
        verdict.wake_high = params.price;
        verdict.wake_until_ms = std.math.maxInt(i64);
        return hold | asleep;
    }
    state.volume += tick.volume;
    state.trades += 1;
    if (state.volume < params.volume) return hold;
    verdict.evidence[0] = tick.price;
    verdict.evidence[1] = state.volume;
    verdict.evidence[2] = @floatFromInt(state.trades);
    state.* = .{ .volume = 0, .trades = 0 };
    return fire;
}
