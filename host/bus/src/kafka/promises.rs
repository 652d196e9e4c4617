//! What a topic must promise so that no offset is ever given to two records: what a record was acknowledged for stays,
//! whichever broker dies. The producer's part, `acks=all`, comes with idempotence, which is never off.

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::util::Timeout;

use super::{BusError, KafkaConfig, REQUEST_TIMEOUT, failed, on_waiting_thread};

/// Copies of a record that are on disks before it is acknowledged: one may be lost then.
const MIN_IN_SYNC: usize = 2;

/// What a topic says of itself.
#[derive(Debug)]
struct Topic<'a> {
    name: &'a str,
    /// The fewest copies that a partition has.
    copies: usize,
    in_sync: Option<usize>,
    unclean_election: Option<bool>,
}

/// What is missing, for people.
pub(super) async fn missing(config: &KafkaConfig) -> Result<Vec<String>, BusError> {
    let admin: AdminClient<DefaultClientContext> = config.client().create().map_err(failed("create a client"))?;
    let options = AdminOptions::new().request_timeout(Some(Timeout::After(REQUEST_TIMEOUT)));
    let topic = ResourceSpecifier::Topic(&config.topic);
    let answers = admin.describe_configs([&topic], &options).await.map_err(failed("describe the topic"))?;
    let answer = answers.into_iter().next().ok_or_else(|| BusError::Kafka("the topic was not described".into()))?;
    let answer = answer.map_err(|code| BusError::Kafka(format!("the brokers did not describe the topic: {code}")))?;
    let setting = |name: &str| setting(&answer, name);
    let topic = Topic {
        name: &config.topic,
        copies: copies(config).await?,
        in_sync: setting("min.insync.replicas").and_then(|value| value.parse().ok()),
        unclean_election: setting("unclean.leader.election.enable").and_then(|value| value.parse().ok()),
    };
    Ok(topic.missing())
}

fn setting<'a>(resource: &'a ConfigResource, name: &str) -> Option<&'a str> {
    resource.entries.iter().find(|entry| entry.name == name)?.value.as_deref()
}

/// The fewest copies that a partition of the topic has.
async fn copies(config: &KafkaConfig) -> Result<usize, BusError> {
    let (settings, topic) = (config.client(), config.topic.clone());
    on_waiting_thread(move || {
        let consumer: BaseConsumer = settings.create().map_err(failed("create a client"))?;
        let found = consumer.fetch_metadata(Some(&topic), REQUEST_TIMEOUT).map_err(failed("describe the topic"))?;
        let partitions = found.topics().iter().flat_map(|topic| topic.partitions());
        Ok(partitions.map(|partition| partition.replicas().len()).min().unwrap_or(0))
    })
    .await
}

impl Topic<'_> {
    fn missing(&self) -> Vec<String> {
        let Self { name, copies, in_sync, unclean_election } = self;
        let mut missing = Vec::new();
        let mut add = |what: String| {
            missing.push(format!(
                "Kafka may lose ticks of the topic {name} that alerts have fired on, and give their offsets to others: \
                 {what}; see What Kafka must promise in docs/operations.md"
            ));
        };
        if *copies < MIN_IN_SYNC {
            add(format!("a partition has {copies} copies, and needs {MIN_IN_SYNC}"));
        } else if in_sync.is_some_and(|in_sync| in_sync < MIN_IN_SYNC) {
            let in_sync = in_sync.unwrap_or_default();
            add(format!("min.insync.replicas is {in_sync}, and must be at least {MIN_IN_SYNC}"));
        }
        if *unclean_election == Some(true) {
            add("unclean.leader.election.enable is true, and must be false".into());
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_that_is_missing_is_named() {
        for (copies, in_sync, unclean_election, expect) in [
            (3, Some(2), Some(false), &[][..]),
            (3, None, None, &[]),
            (2, Some(2), Some(false), &[]),
            (3, Some(1), Some(false), &["min.insync.replicas is 1"]),
            (3, Some(2), Some(true), &["unclean.leader.election.enable is true"]),
            (3, Some(1), Some(true), &["min.insync.replicas is 1", "unclean.leader.election.enable is true"]),
            (1, Some(1), Some(false), &["a partition has 1 copies"]),
        ] {
            let topic = Topic { name: "ticks", copies, in_sync, unclean_election };
            let missing = topic.missing();
            assert_eq!(missing.len(), expect.len(), "{topic:?}: {missing:?}");
            for (found, expect) in missing.iter().zip(expect) {
                assert!(found.contains(expect) && found.contains("topic ticks"), "{found}");
            }
        }
    }
}
