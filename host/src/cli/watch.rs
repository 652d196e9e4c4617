//! `tocsin alert watch`: firings as they happen, over server-sent events. A lost connection is made again, and goes on
//! behind the last firing that was written.

use backon::BackoffBuilder as _;
use eventsource_stream::Eventsource as _;
use futures_util::StreamExt as _;
use serde_json::Value;
use tocsin_base::retry::RetryPolicy;

use super::alert_view;
use super::client::Client;
use super::failure::Failure;
use super::output::Output;

/// Watches until the reader goes, or the server refuses.
pub(super) async fn run(
    client: &Client,
    alert: Option<i64>,
    after: Option<String>,
    output: Output,
) -> Result<(), Failure> {
    let mut query: Vec<_> = alert.map(|id| ("alert_id", id.to_string())).into_iter().collect();
    query.extend(after.map(|after| ("after", after)));
    let mut last_id = None;
    // The first attempt fails at once if there is no server; later ones wait for it.
    let mut response = client.stream(&query, None).await?;
    loop {
        let lost = follow(response, &mut last_id, output).await?;
        if last_id.is_some() {
            query.retain(|(name, _)| *name != "after");
        }
        output.remark(&format!("the connection is lost ({lost}); connecting again"));
        response = connect_again(client, &query, last_id.as_deref()).await?;
        output.remark("connected again");
    }
}

/// Writes firings until the connection is lost; says why it was.
async fn follow(response: reqwest::Response, last_id: &mut Option<String>, output: Output) -> Result<String, Failure> {
    let mut events = response.bytes_stream().eventsource();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => return Ok(error.to_string()),
        };
        match event.event.as_str() {
            "firing" => {
                let firing: Value = serde_json::from_str(&event.data)
                    .map_err(|error| Failure::Local(format!("the server sent a firing that is not JSON: {error}")))?;
                output.line(&firing, || alert_view::firing(&firing))?;
            }
            // Its id is where the stream begins: a connection that is lost before a firing misses none either.
            "cursor" => {}
            _ => continue,
        }
        *last_id = Some(event.id).filter(|id| !id.is_empty()).or(last_id.take());
    }
    Ok("the server ended it".into())
}

/// Tries until there is a connection, unless the server refuses for good.
async fn connect_again(
    client: &Client,
    query: &[(&str, String)],
    last_id: Option<&str>,
) -> Result<reqwest::Response, Failure> {
    for pause in RetryPolicy::WATCH.builder().build() {
        tokio::time::sleep(pause).await;
        match client.stream(query, last_id).await {
            Ok(response) => return Ok(response),
            Err(Failure::Problem(problem)) if !may_pass(&problem) => return Err(Failure::Problem(problem)),
            Err(_) => {}
        }
    }
    Err(Failure::Local("the server did not come back".into()))
}

/// Whether a refusal may be another one later: the server is in trouble, or has as many streams as it may have.
fn may_pass(problem: &Value) -> bool {
    problem["status"].as_u64().is_some_and(|status| status == 429 || status >= 500)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_that_is_full_or_in_trouble_is_asked_again_and_one_that_refuses_is_not() {
        for (status, expect) in [(429, true), (500, true), (503, true), (400, false), (403, false), (404, false)] {
            assert_eq!(may_pass(&json!({ "status": status })), expect, "{status}");
        }
        assert!(!may_pass(&json!({})));
    }
}
