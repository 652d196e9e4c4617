//! Which partition a key belongs to.
//!
//! The function is that of librdkafka's `consistent` partitioner: CRC-32 (the one of zlib) of the key, modulo the number
//! of partitions. So the embedded log, our Kafka producer and any producer built on librdkafka with that partitioner
//! agree on a symbol's partition.

/// The partition of `key` among `partitions`, which must not be 0.
pub(super) fn partition_of(key: &[u8], partitions: u32) -> u32 {
    crc32fast::hash(key) % partitions
}

#[cfg(test)]
mod tests {
    use super::partition_of;

    #[test]
    fn it_is_the_crc_32_of_zlib() {
        // The check value of CRC-32/ISO-HDLC in the catalogue of parametrised CRC algorithms.
        assert_eq!(partition_of(b"123456789", u32::MAX), 0xcbf4_3926);
        assert_eq!(partition_of(b"123456789", 8), 0xcbf4_3926 % 8);
        assert_eq!(partition_of(b"", 8), 0);
    }

    #[test]
    fn one_partition_takes_all_keys() {
        for key in ["AAPL", "BINANCE:BTCUSDT", "IC MARKETS:1"] {
            assert_eq!(partition_of(key.as_bytes(), 1), 0);
        }
    }
}
