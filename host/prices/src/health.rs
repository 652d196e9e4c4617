//! The prices' probe: whether prices and candles can be read and written.

use futures_util::future::BoxFuture;
use tocsin_health::{ANSWER_TIMEOUT, CachedQuery, Health, Probe, Problems};

use super::Prices;

struct PricesProbe {
    prices: Prices,
    problems: CachedQuery<Vec<String>>,
}

/// Registers the probe `prices`.
pub fn register(health: &Health, prices: Prices) {
    health.register("prices", PricesProbe { prices, problems: CachedQuery::default() });
}

impl Probe for PricesProbe {
    fn check(&self) -> BoxFuture<'_, Problems> {
        Box::pin(async {
            let prices = self.prices.clone();
            let problems = self.problems.run(async move { prices.problems().await }).await;
            let no_answer = || vec![format!("prices do not answer within {} s", ANSWER_TIMEOUT.as_secs())];
            // Alerts fire without them.
            Problems::tolerable(problems.unwrap_or_else(no_answer))
        })
    }
}
