//! A running `tocsin` and a feed, for tests. Both end with the value that holds them.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything that must happen may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tocsin");

/// A `tocsin serve` process.
pub(crate) struct Server {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// Where REST is served.
    pub(crate) url: String,
    /// Where gRPC is served; empty if it is not.
    pub(crate) grpc_url: String,
    /// What it logged until then.
    pub(crate) said: Vec<String>,
    client: reqwest::blocking::Client,
}

impl Server {
    /// Starts a server on free ports and waits until it says where it listens.
    #[track_caller]
    pub(crate) fn start(data_dir: &Path, arguments: &[&str]) -> Self {
        running(Self::launch(serve(data_dir, arguments)))
    }

    /// The same with settings in its environment.
    #[track_caller]
    pub(crate) fn start_with(data_dir: &Path, arguments: &[&str], environment: &[(&str, String)]) -> Self {
        let mut command = serve(data_dir, arguments);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        running(Self::launch(command))
    }

    /// The same; None if it ends in place of listening.
    pub(crate) fn try_start(data_dir: &Path, arguments: &[&str]) -> Option<Self> {
        Self::launch(serve(data_dir, arguments)).ok()
    }

    /// The same under a limit of open files.
    #[track_caller]
    pub(crate) fn start_limited(data_dir: &Path, arguments: &[&str], files: u64) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]).arg(BINARY);
        running(Self::launch(serve_by(command, data_dir, arguments)))
    }

    /// Starts what who types `tocsin` in a folder gets, on free ports and without the settings of this environment.
    pub(crate) fn start_bare(folder: &Path) -> Self {
        let mut command = Command::new(BINARY);
        command.current_dir(folder);
        for setting in ["FINNHUB_API_KEY", "FINNHUB_URL", "TICKERS", "TOCSIN_DATA_DIR", "TOCSIN_FEED"] {
            command.env_remove(setting);
        }
        running(Self::launch(command))
    }

    /// One whose log is no longer read once it has the address.
    pub(crate) fn start_unheard(data_dir: &Path, arguments: &[&str]) -> Self {
        running(Self::launch_heard_by(serve(data_dir, arguments), drop))
    }

    fn launch(command: Command) -> Result<Self, Vec<String>> {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let hears = heard.clone();
        // The pipe must not fill up.
        let hear = move |log: Lines<BufReader<ChildStderr>>| {
            drop(std::thread::spawn(move || log.for_each(|line| hears.lock().unwrap().extend(line))));
        };
        let mut server = Self::launch_heard_by(command, hear)?;
        server.log = heard;
        Ok(server)
    }

    /// A running server, or what one that ended had said.
    fn launch_heard_by(
        mut command: Command,
        hear: impl FnOnce(Lines<BufReader<ChildStderr>>),
    ) -> Result<Self, Vec<String>> {
        command.env("PORT", "0").env("GRPC_PORT", "0").stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let (url, grpc_url) = loop {
            let Some(line) = log.next() else {
                child.wait().unwrap();
                return Err(said);
            };
            let line = line.unwrap();
            let json: Value = serde_json::from_str(&line).unwrap_or_default();
            // Only a process with the role `api` serves gRPC.
            if let Some(rest) = json["rest"].as_str() {
                break (rest.to_owned(), json["grpc"].as_str().unwrap_or_default().to_owned());
            }
            said.push(line);
        };
        hear(log);
        Ok(Self { child, log: Arc::default(), said, url, grpc_url, client: reqwest::blocking::Client::new() })
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged since it said where it listens.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Memory that it has of the machine's, MiB.
    pub(crate) fn rss_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.client.get(format!("{}{path}", self.url)).send().unwrap().json().unwrap()
    }

    /// Posts JSON and returns the status and the answer.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.client.post(format!("{}{path}", self.url)).json(body).send().unwrap();
        (answer.status().as_u16(), answer.json().unwrap())
    }

    /// Uploads a module.
    pub(crate) fn upload(&self, module: Vec<u8>) -> (u16, Value) {
        let request = self.client.post(format!("{}/api/v1/rules", self.url)).header("Content-Type", "application/wasm");
        let answer = request.body(module).send().unwrap();
        (answer.status().as_u16(), answer.json().unwrap())
    }

    /// All firings so far.
    pub(crate) fn firings(&self) -> Vec<Value> {
        let mut firings = Vec::new();
        self.read_firings(&mut firings);
        firings
    }

    /// Reads on behind the last firing that was read.
    pub(crate) fn read_firings(&self, firings: &mut Vec<Value>) {
        loop {
            let after = firings.last().map_or("", |firing| firing["id"].as_str().unwrap());
            let page = self.get(&format!("/api/v1/firings?limit=500&after={after}"));
            firings.extend(page["firings"].as_array().unwrap().iter().cloned());
            if page["next"].is_null() {
                return;
            }
        }
    }

    /// Waits until it ends by itself; the exit code.
    #[cfg(feature = "failpoints")]
    pub(crate) fn exit_status(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Shown where the test fails.
        self.log().iter().for_each(|line| println!("{} logged: {line}", self.url));
    }
}

fn serve(data_dir: &Path, arguments: &[&str]) -> Command {
    serve_by(Command::new(BINARY), data_dir, arguments)
}

fn serve_by(mut command: Command, data_dir: &Path, arguments: &[&str]) -> Command {
    command.args(["serve", "--log-format", "json", "--data-dir"]).arg(data_dir).args(arguments);
    // Out of reach of a `.env` in the repository.
    command.current_dir(data_dir);
    // Tests fire as fast as they can.
    command.env("TOCSIN_FIRINGS_AT_ONCE", "1000000");
    command
}

#[track_caller]
fn running(launched: Result<Server, Vec<String>>) -> Server {
    launched.unwrap_or_else(|said| panic!("the server ended: {said:#?}"))
}

/// A `tocsin feed` process.
pub(crate) struct FeedServer {
    child: Child,
    pub(crate) url: String,
}

impl FeedServer {
    pub(crate) fn start(file: &Path, symbols: usize) -> Self {
        // A port that was free a moment ago.
        let address: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(BINARY)
            .args(["feed", "--speed", "max", "--start-after", &symbols.to_string(), "--listen", &address.to_string()])
            .arg("--file")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the feed to listen", || std::net::TcpStream::connect(address).is_ok());
        Self { child, url: format!("ws://{address}") }
    }
}

impl Drop for FeedServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the command line; its exit code and what it printed.
pub(crate) fn tocsin(server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(BINARY).args(arguments).env("TOCSIN_SERVER", &server.url).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Waits until something holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
