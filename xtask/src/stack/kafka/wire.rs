//! The one request of Kafka's protocol that tells whether a broker is ready: Metadata, version 4
//! (<https://kafka.apache.org/41/design/protocol/#The_Messages_Metadata>). Numbers are big-endian; a string has its length
//! before it, in two bytes, and -1 is none.

use std::io::{Error, ErrorKind, Read, Result, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const METADATA: i16 = 3;
const VERSION: i16 = 4;

/// How long a broker may think before it counts as not ready.
const ANSWER_BOUND: Duration = Duration::from_secs(2);

/// The longest answer, in bytes: three brokers and no topics take some two hundred.
const MAX_ANSWER_BYTES: u32 = 65_536;

/// What a broker knows of its cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) id: String,
    /// The ids of all brokers that are registered and alive.
    pub(super) brokers: Vec<i32>,
}

/// Asks a broker.
pub(super) fn cluster(address: &str) -> Result<Cluster> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    stream.write_all(&request())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_ANSWER_BYTES {
        return Err(Error::new(ErrorKind::InvalidData, "no broker answers at such length"));
    }
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer)?;
    read(&mut answer.as_slice())
}

fn request() -> Vec<u8> {
    // Correlation id 0, no client id, no topics, none created.
    let body = [METADATA.to_be_bytes(), VERSION.to_be_bytes(), [0; 2], [0; 2], [0xFF; 2]].concat();
    let body = [&body[..], &[0; 4], &[0]].concat();
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

fn read(answer: &mut &[u8]) -> Result<Cluster> {
    let _correlation_id = int(answer)?;
    let _throttle_ms = int(answer)?;
    let mut brokers = Vec::new();
    for _ in 0..int(answer)? {
        brokers.push(int(answer)?);
        let _host = string(answer)?;
        let _port = int(answer)?;
        let _rack = string(answer)?;
    }
    Ok(Cluster { id: string(answer)?, brokers })
}

fn int(answer: &mut &[u8]) -> Result<i32> {
    let mut bytes = [0; 4];
    answer.read_exact(&mut bytes)?;
    Ok(i32::from_be_bytes(bytes))
}

fn string(answer: &mut &[u8]) -> Result<String> {
    let mut bytes = [0; 2];
    answer.read_exact(&mut bytes)?;
    let length = i16::from_be_bytes(bytes).max(0);
    let mut text = vec![0; length as usize];
    answer.read_exact(&mut text)?;
    String::from_utf8(text).map_err(|error| Error::new(ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_kafka_is_read() {
        // What Kafka 4.1.1 answered, without its length.
        let answer =
            b"\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0\x01\0\x09127.0.0.1\0\0q\xa4\xff\xff\0\x160123456789abcdef01234A\
                       \0\0\0\x01\0\0\0\0";
        let expect = Cluster { id: "0123456789abcdef01234A".into(), brokers: vec![1] };
        assert_eq!(read(&mut &answer[..]).unwrap(), expect);
        for end in 0..answer.len() - 8 {
            assert!(read(&mut &answer[..end]).is_err(), "{end}");
        }
    }
}
