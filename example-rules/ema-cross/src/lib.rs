//! ema-cross
