//! What is answered by a process without an API, or before and after it is served.

use std::sync::Arc;

use serde_json::{Value, json};
use tocsin_health::{About, Health};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::rest::serve_status;
use crate::api::{ProcessStatus, RoleFigures};
use crate::connections::Connections;

/// Status and body of a request for alerts.
async fn asked_for_alerts(has_api: bool) -> (u16, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (health, connections) = (Health::new(About::default(), &[]), Connections::new(4, 1));
    let status = ProcessStatus { health, connections, figures: Arc::new(RoleFigures::default) };
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let serving = tokio::spawn(async move {
        serve_status(listener, status, has_api, stopped).await;
    });
    let answer = reqwest::get(format!("{url}/api/v1/alerts")).await.unwrap();
    let answer = (answer.status().as_u16(), answer.json().await.unwrap());
    stop.cancel();
    serving.await.unwrap();
    answer
}

#[tokio::test]
async fn an_api_that_is_not_served_now_asks_to_be_tried_again_and_none_is_not_found() {
    let (status, answer) = asked_for_alerts(true).await;
    assert_eq!((status, &answer["type"]), (503, &json!("urn:tocsin:problem:unavailable")), "{answer}");
    let (status, answer) = asked_for_alerts(false).await;
    assert_eq!((status, &answer["type"]), (404, &json!("urn:tocsin:problem:not-found")), "{answer}");
}
