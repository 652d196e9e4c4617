//! Promotions that are cancelled while evaluators hand over.

use super::*;

on_each_backend!(promotions_that_are_cancelled_at_any_moment_lose_nothing);

async fn promotions_that_are_cancelled_at_any_moment_lose_nothing(backend: Backend) {
    let mut random = StdRng::seed_from_u64(7);
    let mut history = History::new(backend).await;
    for (i, symbol) in SYMBOLS.into_iter().enumerate() {
        history.create(symbol, i as u64 + 1, 1, false).await;
        history.publish(symbol, 10).await;
    }
    let (mut version, mut cancelled) = (history.upload(Kind::Good).await, 0);
    for round in 0..30 {
        let work = tokio::spawn(promote(history.rig.control.clone(), promote_to(version)));
        history.publish(SYMBOLS[round % SYMBOLS.len()], 5).await;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        let (control, number) = (history.rig.control.clone(), format!("{version}.0.0"));
        let cancel = control.cancel_promotion(&Tenant::standard(), "steps", &number).await;
        match (work.await.unwrap(), cancel) {
            (Ok(_), Err(ControlError::NotFound(_))) => {
                history.moved_to(version);
                version = history.upload(Kind::Good).await;
            }
            (Err(ControlError::Raced(_)), Ok(_)) => cancelled += 1,
            other => panic!("round {round}: {other:?}"),
        }
        if round % 10 == 9 {
            history.check(&format!("round {round}")).await;
            history.crash().await;
            history.start().await;
        }
    }
    assert!(cancelled > 0);
    let before = history.expected.len() as u64;
    let promoted = promote(history.rig.control.clone(), promote_to(version)).await.unwrap();
    assert_eq!(promoted.moved, Moved { alerts: before, bindings: before });
    history.moved_to(version);
    for symbol in SYMBOLS {
        history.publish(symbol, 3).await;
    }
    history.check("the end").await;
    assert_eq!(history.running.as_ref().unwrap().stats().bindings, before, "all are armed");
    history.running.take().unwrap().stop().await;
}
