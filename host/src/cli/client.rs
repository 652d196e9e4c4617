//! The server's REST API as the CLI uses it. Answers stay JSON: commands print them, or render what they know of.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::{Value, json};

use super::failure::Failure;

/// How long a connection may take: servers are near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take. Uploads are compiled first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a stream may be silent. The server sends a comment far more often, so a longer silence is a lost one.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Items of a page: the most that the server gives.
const PAGE: usize = 500;

/// Talks to one server.
pub(super) struct Client {
    http: reqwest::Client,
    server: Url,
    /// How long an answer may take.
    timeout: Duration,
}

impl Client {
    pub(super) fn new(server: &Url) -> Result<Self, Failure> {
        Self::with_timeout(server, REQUEST_TIMEOUT)
    }

    /// For what takes longer than most requests.
    pub(super) fn with_timeout(server: &Url, timeout: Duration) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT.max(timeout))
            // The server is named; whatever proxy is set for the web does not know it.
            .no_proxy()
            .user_agent(concat!("tocsin/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::Local(format!("the HTTP client cannot start: {error}")))?;
        Ok(Self { http, server: server.clone(), timeout })
    }

    /// One resource under `/api/v1`.
    pub(super) async fn get(&self, path: &[&str]) -> Result<Value, Failure> {
        self.answer(self.request(Method::GET, path)).await.map(|(_, body)| body)
    }

    /// Every item of a list, page by page.
    pub(super) async fn list(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        member: &str,
    ) -> Result<Vec<Value>, Failure> {
        let (mut items, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut request = self.request(Method::GET, path).query(query).query(&[("limit", PAGE)]);
            if let Some(after) = &after {
                request = request.query(&[("after", after)]);
            }
            let (_, mut page) = self.answer(request).await?;
            let Value::Array(page_items) = page[member].take() else { return Err(self.stranger()) };
            items.extend(page_items);
            match page["next"].as_str().map(str::to_owned) {
                None => return Ok(items),
                next if next == after => return Err(Failure::Local("the server's list does not end".into())),
                next => after = next,
            }
        }
    }

    /// Uploads a module; the flag is false if the server had it.
    pub(super) async fn upload(&self, module: Vec<u8>) -> Result<(Value, bool), Failure> {
        let request = self.request(Method::POST, &["rules"]).header("content-type", "application/wasm").body(module);
        let (status, body) = self.answer(request).await?;
        Ok((body, status == StatusCode::CREATED))
    }

    pub(super) async fn post(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        self.answer(self.request(Method::POST, path).json(body)).await.map(|(_, body)| body)
    }

    pub(super) async fn delete(&self, path: &[&str]) -> Result<Value, Failure> {
        self.answer(self.request(Method::DELETE, path)).await.map(|(_, body)| body)
    }

    /// Opens a stream of server-sent events: of firings, behind `after`.
    pub(super) async fn stream(
        &self,
        query: &[(&str, String)],
        last_event_id: Option<&str>,
    ) -> Result<Response, Failure> {
        let mut request = self.request(Method::GET, &["firings", "stream"]).query(query);
        request = request.header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.map_err(|error| self.unanswered(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// What became of a connection, for people.
    pub(super) fn unanswered(&self, error: &reqwest::Error) -> Failure {
        let server = &self.server;
        Failure::Local(if error.is_connect() {
            format!("no server at {server}: start one with `tocsin serve`, or name it with --server")
        } else if error.is_timeout() {
            format!("{server} did not answer in time: look at its log, or try again later")
        } else {
            let mut text = format!("{server}: {error}");
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            text
        })
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.server.clone();
        url.path_segments_mut().expect("an http URL has a path").pop_if_empty().extend(["api", "v1"]).extend(path);
        self.http.request(method, url)
    }

    async fn answer(&self, request: RequestBuilder) -> Result<(StatusCode, Value), Failure> {
        let response = request.timeout(self.timeout).send().await.map_err(|error| self.unanswered(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.refusal(response).await);
        }
        let body = response.bytes().await.map_err(|error| self.unanswered(&error))?;
        if body.is_empty() {
            return Ok((status, Value::Null));
        }
        serde_json::from_slice(&body).map(|body| (status, body)).map_err(|_| self.stranger())
    }

    /// An answer that is no success: a problem document, if it is from Tocsin.
    async fn refusal(&self, response: Response) -> Failure {
        let status = response.status();
        match response.json::<Value>().await {
            Ok(problem) if problem.is_object() => Failure::Problem(problem),
            // What stands before a server answers in its own words.
            _ if status.is_server_error() => Failure::Problem(json!({
                "status": status.as_u16(), "title": format!("{} answers {status}: look at its log", self.server),
            })),
            _ => self.stranger(),
        }
    }

    fn stranger(&self) -> Failure {
        Failure::Local(format!("{} does not answer as Tocsin does: name a Tocsin server with --server", self.server))
    }
}
