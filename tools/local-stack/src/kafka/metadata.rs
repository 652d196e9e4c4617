//! The Metadata request of Kafka's protocol, version 4, by which a broker is known to be ready
//! (<https://kafka.apache.org/41/design/protocol/#The_Messages_Metadata>). Numbers are big-endian; a string is
//! preceded by its length in two bytes, where -1 is null.

use std::io::{Error, ErrorKind, Read, Result, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const METADATA: i16 = 3;
const VERSION: i16 = 4;

/// A broker that takes longer to respond counts as not ready.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest response, in bytes: three brokers and no topics take about two hundred.
const MAX_RESPONSE_BYTES: u32 = 65_536;

/// A cluster, as a broker describes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) id: String,
    /// The ids of the brokers that are registered and alive.
    pub(super) brokers: Vec<i32>,
}

/// Requests the cluster's metadata from a broker.
pub(super) fn cluster(address: &str) -> Result<Cluster> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    stream.write_all(&request())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_RESPONSE_BYTES {
        return Err(Error::new(ErrorKind::InvalidData, "the response is longer than any broker's"));
    }
    let mut response = vec![0; length as usize];
    stream.read_exact(&mut response)?;
    read(&mut response.as_slice())
}

fn request() -> Vec<u8> {
    // Correlation id 0, null client id, no topics, no automatic creation.
    let body = [METADATA.to_be_bytes(), VERSION.to_be_bytes(), [0; 2], [0; 2], [0xFF; 2]].concat();
    let body = [&body[..], &[0; 4], &[0]].concat();
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

fn read(response: &mut &[u8]) -> Result<Cluster> {
    let _correlation_id = int(response)?;
    let _throttle_ms = int(response)?;
    let mut brokers = Vec::new();
    for _ in 0..int(response)? {
        brokers.push(int(response)?);
        let _host = string(response)?;
        let _port = int(response)?;
        let _rack = string(response)?;
    }
    Ok(Cluster { id: string(response)?, brokers })
}

fn int(response: &mut &[u8]) -> Result<i32> {
    let mut bytes = [0; 4];
    response.read_exact(&mut bytes)?;
    Ok(i32::from_be_bytes(bytes))
}

fn string(response: &mut &[u8]) -> Result<String> {
    let mut bytes = [0; 2];
    response.read_exact(&mut bytes)?;
    let length = i16::from_be_bytes(bytes).max(0);
    let mut text = vec![0; length as usize];
    response.read_exact(&mut text)?;
    String::from_utf8(text).map_err(|error| Error::new(ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_of_kafka_is_read() {
        // Recorded from Kafka 4.1.1, without the length.
        let response =
            b"\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0\x01\0\x09127.0.0.1\0\0q\xa4\xff\xff\0\x160123456789abcdef01234A\
                       \0\0\0\x01\0\0\0\0";
        let expect = Cluster { id: "0123456789abcdef01234A".into(), brokers: vec![1] };
        assert_eq!(read(&mut &response[..]).unwrap(), expect);
        for end in 0..response.len() - 8 {
            assert!(read(&mut &response[..end]).is_err(), "{end}");
        }
    }
}
