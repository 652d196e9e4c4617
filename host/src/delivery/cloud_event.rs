//! A firing as a Kafka record: CloudEvents 1.0 in the binary mode of its Kafka binding. The attributes are headers, the
//! value is the data alone, the key is the alert's number.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>

use tocsin_engine::domain::Firing;

use super::Body;

const SPEC_VERSION: &str = "1.0";

/// What happened. A body that means something else would have another type.
const TYPE: &str = "tocsin.alert.fired.v1";

/// A record to be published.
#[derive(Debug, PartialEq)]
pub(super) struct Event {
    pub(super) key: String,
    pub(super) headers: [(&'static str, String); 6],
    pub(super) value: String,
}

pub(super) fn of(firing: Firing, body: Body) -> Event {
    // The last hours of the year 9999 are no timestamps to the library; they are ticks.
    let time = jiff::Timestamp::from_millisecond(firing.tick.time_ms).unwrap_or(jiff::Timestamp::MAX);
    let key = firing.alert.0.to_string();
    let headers = [
        ("ce_specversion", SPEC_VERSION.to_owned()),
        ("ce_id", firing.id.to_string()),
        ("ce_source", format!("/tenants/{}/alerts/{key}", firing.tenant.as_str())),
        ("ce_type", TYPE.to_owned()),
        ("ce_time", time.to_string()),
        ("content-type", "application/json".to_owned()),
    ];
    Event { key, headers, value: body(firing) }
}
