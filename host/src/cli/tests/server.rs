//! The client against servers that are away, are strangers, or go away: canned answers over real HTTP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::{rule, rule_view, watch};

async fn serve(router: Router) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Client::new(&server).unwrap()
}

#[tokio::test]
async fn a_missing_server_is_an_error_with_what_to_do() {
    // Bound and closed: the port refuses connections.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::new(&Url::parse(&format!("http://{address}")).unwrap()).unwrap();
    let text = client.get(&["rules"]).await.unwrap_err().text();
    assert_eq!(
        text,
        format!("error: no server at http://{address}/: start one with `tocsin serve`, or name it with --server")
    );
}

#[tokio::test]
async fn a_list_is_followed_to_its_end() {
    let page = async |Query(query): Query<HashMap<String, String>>| {
        assert_eq!((query["limit"].as_str(), query["user_id"].as_str()), ("500", "1"));
        Json(match query.get("after").map(String::as_str) {
            None => json!({ "alerts": [1, 2], "next": "2" }),
            Some("2") => json!({ "alerts": [3], "next": null }),
            Some(other) => panic!("{other}"),
        })
    };
    let client = serve(Router::new().route("/api/v1/alerts", get(page))).await;
    let alerts = client.list(&["alerts"], &[("user_id", "1".into())], "alerts").await.unwrap();
    assert_eq!(alerts, [json!(1), json!(2), json!(3)]);
}

#[tokio::test]
async fn a_list_without_end_is_not_followed() {
    let page = async || Json(json!({ "rules": [], "next": "a" }));
    let client = serve(Router::new().route("/api/v1/rules", get(page))).await;
    let text = client.list(&["rules"], &[], "rules").await.unwrap_err().text();
    assert_eq!(text, "error: the server's list does not end");
}

#[tokio::test]
async fn an_upload_reports_whether_the_server_had_it() {
    let answer = async || (StatusCode::OK, Json(json!({ "name": "mine" })));
    let client = serve(Router::new().route("/api/v1/rules", axum::routing::post(answer))).await;
    assert_eq!(rule::upload(&client, Vec::new()).await.unwrap(), json!({ "name": "mine", "created": false }));
}

#[tokio::test]
async fn problems_of_the_server_and_of_others_are_distinguished() {
    let problem = json!({ "title": "not found", "status": 404, "detail": "there is no rule a/b" });
    let body = problem.clone();
    let client = serve(
        Router::new()
            .route("/api/v1/rules/{name}", get(async move || (StatusCode::NOT_FOUND, Json(body))))
            .route("/api/v1/page", get(async || "<html>"))
            .route("/api/v1/proxy", get(async || StatusCode::BAD_GATEWAY)),
    )
    .await;
    let Failure::Problem(answer) = client.get(&["rules", "a/b"]).await.unwrap_err() else { panic!("no problem") };
    assert_eq!(answer, problem);
    let advised = Failure::Problem(answer).advise(StatusCode::NOT_FOUND, "see `tocsin rule list`");
    assert_eq!(advised.text(), "error: there is no rule a/b; see `tocsin rule list`");
    let advised = advised.advise(StatusCode::CONFLICT, "this is for another status");
    assert_eq!(advised.problem()["error"], "there is no rule a/b; see `tocsin rule list`");
    for path in ["page", "absent"] {
        let text = client.get(&[path]).await.unwrap_err().text();
        assert!(text.contains("does not answer as Tocsin does"), "{text}");
    }
    let text = client.get(&["proxy"]).await.unwrap_err().text();
    assert!(text.contains("502 Bad Gateway"), "{text}");
}

#[tokio::test]
async fn a_promotion_is_cancelled_by_name_and_version() {
    let answer = async |Path(path): Path<(String, String)>| {
        assert_eq!(path, ("my-rule".to_owned(), "2.0.0".to_owned()));
        Json(json!({ "name": "my-rule", "version": "2.0.0", "given_back": 3 }))
    };
    let client =
        serve(Router::new().route("/api/v1/rules/{name}/versions/{version}/promote", axum::routing::delete(answer)))
            .await;
    let cancelled = client.delete(&["rules", "my-rule", "versions", "2.0.0", "promote"]).await.unwrap();
    let expect = "the promotion of my-rule to 2.0.0 is cancelled; 3 live symbols are evaluated again";
    assert_eq!(rule_view::cancelled(&cancelled), expect);
}

/// What a watch asked: its query, and the Last-Event-ID.
type Asked = Arc<Mutex<Vec<(HashMap<String, String>, Option<String>)>>>;

/// Sends where it begins and ends; sends a firing and ends; breaks; refuses for good.
async fn stream(
    State(asked): State<Asked>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap().to_owned());
    asked.lock().unwrap().push((query, last));
    let turn = asked.lock().unwrap().len();
    let events = |text: String| ([("content-type", "text/event-stream")], text).into_response();
    match turn {
        1 => events("event: cursor\nid: start\ndata: {\"after\":\"start\"}\n\n".into()),
        2 => events(": hello\n\nevent: firing\nid: a\ndata: {\"id\":\"a\"}\n\nevent: other\ndata: x\n\n".into()),
        3 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        4 => events("event: firing\nid: b\ndata: {\"id\":\ndata: \"b\"}\n\n".into()),
        _ => (StatusCode::NOT_FOUND, Json(json!({ "title": "gone", "status": 404 }))).into_response(),
    }
}

#[tokio::test]
async fn a_watch_resumes_after_the_last_firing() {
    let asked = Asked::default();
    let router = Router::new().route("/api/v1/firings/stream", get(stream)).with_state(asked.clone());
    let client = serve(router).await;
    let ended = watch::run(&client, Some(7), Some("given".into()), Output { json: true }).await;
    let Err(Failure::Problem(problem)) = ended else { panic!("{ended:?}") };
    assert_eq!(problem["title"], Value::from("gone"));
    let query = |members: &[(&str, &str)]| -> HashMap<String, String> {
        members.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let again = query(&[("alert_id", "7")]);
    assert_eq!(
        *asked.lock().unwrap(),
        [
            (query(&[("alert_id", "7"), ("after", "given")]), None),
            (again.clone(), Some("start".into())),
            (again.clone(), Some("a".into())),
            (again.clone(), Some("a".into())),
            (again, Some("b".into())),
        ]
    );
}
