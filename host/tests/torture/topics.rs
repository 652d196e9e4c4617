//! What is on a topic, from its beginning to its end.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::OwnedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, Message as _};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the brokers may take to return where a topic ends.
const PATIENCE: Duration = Duration::from_secs(180);

const RETRY_WAIT: Duration = Duration::from_millis(200);

/// How long a topic may give nothing before it is given up.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// How long brokers may take to delete a topic, and to create it again.
const REMAKE_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Topic {
    consumer: BaseConsumer,
    name: String,
}

impl Topic {
    pub(crate) fn new(brokers: &str, name: String) -> anyhow::Result<Self> {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", brokers).set("group.id", "torture").set("enable.auto.commit", "false");
        Ok(Self { consumer: settings.create()?, name })
    }

    /// Where each partition ends, as soon as the brokers return that: one may have been killed just now.
    pub(crate) fn ends(&self) -> anyhow::Result<Vec<i64>> {
        let begun = Instant::now();
        loop {
            match self.ends_now() {
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.context("the brokers return no ends")),
                Err(_) => std::thread::sleep(RETRY_WAIT),
                ends => return ends,
            }
        }
    }

    fn ends_now(&self) -> anyhow::Result<Vec<i64>> {
        let metadata = self.consumer.fetch_metadata(Some(&self.name), ANSWER_TIMEOUT)?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions().iter().map(|it| it.id()));
        let mut partitions: Vec<i32> = partitions.collect();
        partitions.sort_unstable();
        let end = |partition| Ok(self.consumer.fetch_watermarks(&self.name, partition, ANSWER_TIMEOUT)?.1);
        partitions.into_iter().map(end).collect()
    }

    /// Reads all of it; each partition's messages come in their order.
    pub(crate) fn read(&self, mut take: impl FnMut(OwnedMessage) -> anyhow::Result<()>) -> anyhow::Result<u64> {
        let ends = self.ends()?;
        let mut from = TopicPartitionList::new();
        for partition in 0..ends.len() as i32 {
            from.add_partition_offset(&self.name, partition, Offset::Beginning)?;
        }
        self.consumer.assign(&from)?;
        let (total, mut read, mut newest) = (ends.iter().sum::<i64>() as u64, 0, Instant::now());
        while read < total {
            if let Some(message) = self.consumer.poll(Duration::from_millis(200)) {
                take(message?.detach())?;
                (read, newest) = (read + 1, Instant::now());
            }
            ensure!(newest.elapsed() < READ_PATIENCE, "{} gave {read} of {total} messages", self.name);
        }
        Ok(total)
    }
}

/// Deletes a topic and creates an empty one of the same name, with as many partitions, as the program creates its topics.
pub(crate) fn remake(brokers: &str, name: &str) -> anyhow::Result<()> {
    let partitions = Topic::new(brokers, name.to_owned())?.ends()?.len();
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", brokers);
    let admin: AdminClient<DefaultClientContext> = settings.create()?;
    let (options, begun) = (AdminOptions::new().operation_timeout(Some(ANSWER_TIMEOUT)), Instant::now());
    let topic = NewTopic::new(name, i32::try_from(partitions)?, TopicReplication::Fixed(-1))
        .set("message.timestamp.type", "LogAppendTime");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let deleted = admin.delete_topics(&[name], &options).await?;
        ensure!(deleted.iter().all(Result::is_ok), "the brokers did not delete {name}: {deleted:?}");
        // It is there for a moment after it is deleted.
        loop {
            let created = admin.create_topics([&topic], &options).await?;
            if created.iter().all(Result::is_ok) {
                return Ok(());
            }
            ensure!(begun.elapsed() < REMAKE_PATIENCE, "the brokers did not create {name} again: {created:?}");
            tokio::time::sleep(RETRY_WAIT).await;
        }
    })?;
    // Brokers hear of a new topic one after the other.
    while Topic::new(brokers, name.to_owned())?.ends_now().map_or(0, |ends| ends.len()) != partitions {
        ensure!(begun.elapsed() < REMAKE_PATIENCE, "the brokers do not know {name}");
        std::thread::sleep(RETRY_WAIT);
    }
    Ok(())
}

/// A message's key, as text.
pub(crate) fn key(message: &OwnedMessage) -> String {
    String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned()
}
