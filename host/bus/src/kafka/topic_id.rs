//! The id that brokers give a topic when they create it (KIP-516): another one for a topic of the same name that is made
//! anew. librdkafka reads it; the crate that wraps it has no function for that yet, so this one calls it directly.
#![expect(unsafe_code, reason = "a call into librdkafka that its crate does not wrap")]

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as sys;
use rdkafka::client::Client;

/// Asks the brokers for the id of a topic, as Kafka's tools print it. None from brokers that give no ids, which
/// are those before 2.8. Waits for the answer.
pub(super) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<String>, String> {
    let name = CString::new(topic).map_err(|_| "a topic's name holds no NUL".to_owned())?;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let rk = client.native_ptr();
    let no_memory = || "librdkafka has no memory".to_owned();
    // SAFETY: `rk` lives as long as `client`, which is borrowed. All that is made of it is destroyed by the guards, in the
    // reverse order, before this returns; librdkafka keeps none of the pointers: it copies names and options.
    unsafe {
        let queue = Owned::new(sys::rd_kafka_queue_new(rk), sys::rd_kafka_queue_destroy).ok_or_else(no_memory)?;
        let for_api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = sys::rd_kafka_AdminOptions_new(rk, for_api);
        let options = Owned::new(options, sys::rd_kafka_AdminOptions_destroy).ok_or_else(no_memory)?;
        sys::rd_kafka_AdminOptions_set_request_timeout(options.get(), timeout_ms, std::ptr::null_mut(), 0);
        let mut names = [name.as_ptr()];
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let topics = Owned::new(topics, sys::rd_kafka_TopicCollection_destroy).ok_or_else(no_memory)?;
        sys::rd_kafka_DescribeTopics(rk, topics.get(), options.get(), queue.get());
        // The request has a timeout of its own, and answers with that; the queue waits a little longer.
        let event = sys::rd_kafka_queue_poll(queue.get(), timeout_ms.saturating_add(1000));
        let event = Owned::new(event, sys::rd_kafka_event_destroy).ok_or("the brokers have not answered in time")?;
        id_of(event.get())
    }
}

/// The id in an answer about one topic.
///
/// # Safety
/// `event` must be a live event of librdkafka's.
unsafe fn id_of(event: *mut sys::rd_kafka_event_t) -> Result<Option<String>, String> {
    // SAFETY: what is read of the event lives as long as it does, and is copied. Counts say how long lists are.
    unsafe {
        if sys::rd_kafka_event_error(event) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text(sys::rd_kafka_event_error_string(event)));
        }
        let answer = NonNull::new(sys::rd_kafka_event_DescribeTopics_result(event).cast_mut());
        let answer = answer.ok_or("the brokers have answered something else")?;
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(answer.as_ptr(), &mut count);
        if topics.is_null() || count == 0 {
            return Err("the brokers have answered nothing about the topic".into());
        }
        let topic = *topics;
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() && sys::rd_kafka_error_code(error) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text(sys::rd_kafka_error_string(error)));
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let is_none = id.is_null()
            || (sys::rd_kafka_Uuid_most_significant_bits(id) == 0
                && sys::rd_kafka_Uuid_least_significant_bits(id) == 0);
        // librdkafka writes the common alphabet, Kafka's own tools the one for URLs.
        Ok((!is_none).then(|| text(sys::rd_kafka_Uuid_base64str(id)).replace('+', "-").replace('/', "_")))
    }
}

/// Copies a text of librdkafka's.
///
/// # Safety
/// `text` must be null, or end with a NUL.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return "librdkafka says nothing".into();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What librdkafka has made, and how it is destroyed.
struct Owned<T> {
    made: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// None where nothing was made. `destroy` must be the function for what was.
    fn new(made: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        Some(Self { made: NonNull::new(made)?, destroy })
    }

    fn get(&self) -> *mut T {
        self.made.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: it was made by librdkafka, is destroyed once, and was given together with this function.
        unsafe { (self.destroy)(self.made.as_ptr()) }
    }
}
