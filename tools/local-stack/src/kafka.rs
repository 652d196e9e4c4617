//! Apache Kafka in KRaft mode, without a distribution: Maven downloads the broker's jars, once for all stacks.
//! Each node is both broker and controller; several form a cluster that can lose one.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::process::{self, Condition};
use crate::service::Service;
use crate::state::State;
use crate::{apt, tools};

mod metadata;

const POM: &str = include_str!("kafka/pom.xml");
const LOG_SETTINGS: &str = include_str!("kafka/log4j2.properties");

/// The folder of the jars, below that of the tools; another version has another folder.
const FOLDER: &str = "kafka-4.1.1";

/// A broker's heap, in MiB: three brokers fit on a small machine.
const HEAP_MIB: u32 = 512;

/// The partitions of Kafka's internal topics. The default of 50 delays the first consumer of a group, since the topic is
/// created when it joins.
const OWN_TOPIC_PARTITIONS: u32 = 4;

/// Installs Java, Maven and the jars, where they are missing.
pub(crate) fn install() -> Result<()> {
    let lock = tools::folder()?.join("lock");
    let folder = folder()?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let lock = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
    lock.lock().context("cannot lock the folder of the tools")?;
    if !is_installed("java", "-version") {
        apt::install(&["default-jre-headless"]);
        ensure!(
            is_installed("java", "-version"),
            "Kafka needs Java 17 or later; on Debian: apt-get install default-jre-headless"
        );
    }
    write(&folder.join("log4j2.properties"), LOG_SETTINGS)?;
    if folder.join("libs").is_dir() {
        return Ok(());
    }
    if !is_installed("mvn", "-version") {
        apt::install(&["maven"]);
        ensure!(
            is_installed("mvn", "-version"),
            "Kafka's jars are downloaded by Maven; on Debian: apt-get install maven"
        );
    }
    fetch(&folder)
}

/// Downloads the jars. The folder `libs` exists only once it is complete.
fn fetch(folder: &Path) -> Result<()> {
    write(&folder.join("pom.xml"), POM)?;
    let mut mvn = Command::new("mvn");
    mvn.args([
        "--quiet",
        "--batch-mode",
        "-Dstyle.color=never",
        "dependency:copy-dependencies",
        "-DoutputDirectory=libs.part",
    ]);
    let status = mvn.current_dir(folder).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    ensure!(status.context("cannot start mvn")?.success(), "Maven did not download Kafka's jars: see above");
    std::fs::rename(folder.join("libs.part"), folder.join("libs")).context("cannot rename the folder of Kafka's jars")
}

/// Formats a node's folder unless that is done, and returns the command that starts the node.
pub(crate) fn prepare(number: u8, state: &State, folder: &Path) -> Result<Command> {
    let own = folder.join(Service::Kafka(number).to_string());
    std::fs::create_dir_all(&own).with_context(|| format!("cannot make the folder {}", own.display()))?;
    let (settings, data) = (own.join("server.properties"), own.join("data"));
    write(&settings, &properties(number, state, &data))?;
    if !data.join("meta.properties").is_file() {
        let mut format = java()?;
        format.args(["kafka.tools.StorageTool", "format", "-t", &state.id, "-c"]).arg(&settings);
        process::run(&mut format, &own.join("format.log"))?;
    }
    let mut start = java()?;
    start.arg("kafka.Kafka").arg(settings);
    Ok(start)
}

/// Returns whether the node answers, belongs to this cluster, and has all running nodes in its metadata.
pub(crate) fn is_ready(number: u8, state: &State) -> bool {
    let runs = |number: &u8| state.condition(Service::Kafka(*number)) == Condition::Running;
    let mut running = (1..=state.brokers.len() as u8).filter(runs);
    let cluster = metadata::cluster(&state.address(Service::Kafka(number)));
    cluster
        .is_ok_and(|cluster| cluster.id == state.id && running.all(|number| cluster.brokers.contains(&number.into())))
}

/// Returns how many replicas must have a record before it is acknowledged: with three, one may be down.
pub(crate) fn in_sync(replicas: usize) -> usize {
    replicas.div_ceil(2)
}

/// Returns a node's settings: <https://kafka.apache.org/41/configuration/broker-configs/>.
fn properties(number: u8, state: &State, data: &Path) -> String {
    let nodes = (1..).zip(&state.brokers);
    let voters: Vec<String> =
        nodes.map(|(number, broker)| format!("{number}@127.0.0.1:{}", broker.controller_port)).collect();
    let (own, replicas) = (state.brokers[usize::from(number) - 1], state.brokers.len());
    let in_sync = in_sync(replicas);
    let settings = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", number.to_string()),
        ("controller.quorum.voters", voters.join(",")),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("listeners", format!("PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}", own.port, own.controller_port)),
        ("log.dirs", data.display().to_string()),
        ("default.replication.factor", replicas.to_string()),
        ("min.insync.replicas", in_sync.to_string()),
        ("offsets.topic.replication.factor", replicas.to_string()),
        ("offsets.topic.num.partitions", OWN_TOPIC_PARTITIONS.to_string()),
        ("transaction.state.log.replication.factor", replicas.to_string()),
        ("transaction.state.log.min.isr", in_sync.to_string()),
        ("transaction.state.log.num.partitions", OWN_TOPIC_PARTITIONS.to_string()),
        // Otherwise a group's first member waits for others.
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
    ];
    settings.into_iter().fold(String::new(), |mut text, (name, value)| {
        // Backslashes are escapes in a properties file.
        let _ = writeln!(text, "{name}={}", value.replace('\\', "\\\\"));
        text
    })
}

fn java() -> Result<Command> {
    let folder = folder()?;
    let mut java = Command::new("java");
    java.arg(format!("-Xmx{HEAP_MIB}m"));
    java.arg(format!("-Dlog4j2.configurationFile={}", folder.join("log4j2.properties").display()));
    java.arg("-cp").arg(folder.join("libs").join("*"));
    Ok(java)
}

fn folder() -> Result<PathBuf> {
    Ok(tools::folder()?.join(FOLDER))
}

fn is_installed(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Broker, Engine};

    #[test]
    fn settings_replicate_so_that_a_cluster_can_lose_one_node() {
        let check = |brokers: u16, expect: [&str; 3]| {
            let mut state = State::new(Engine::Local, brokers as u8).unwrap();
            state.brokers = (1..=brokers).map(|n| Broker { port: n, controller_port: 10 + n }).collect();
            let text = properties(1, &state, Path::new("/d"));
            for line in expect {
                assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
            }
        };
        let one = "controller.quorum.voters=1@127.0.0.1:11";
        check(1, [one, "default.replication.factor=1", "min.insync.replicas=1"]);
        check(2, ["node.id=1", "default.replication.factor=2", "min.insync.replicas=1"]);
        let three = "controller.quorum.voters=1@127.0.0.1:11,2@127.0.0.1:12,3@127.0.0.1:13";
        check(3, [three, "default.replication.factor=3", "min.insync.replicas=2"]);
    }
}
