//! What is on a topic, from its beginning to its end.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::OwnedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, Message as _};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a topic may give nothing before it is given up.
const READ_PATIENCE: Duration = Duration::from_secs(60);

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

    /// Where each partition ends.
    pub(crate) fn ends(&self) -> anyhow::Result<Vec<i64>> {
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

/// A message's key, as text.
pub(crate) fn key(message: &OwnedMessage) -> String {
    String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned()
}
