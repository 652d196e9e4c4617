//! Reads records again that a processor has passed.

use tocsin_bus::{BusError, Reader};
use tocsin_engine::domain::Position;
use tracing::warn;

use super::{MAX_BATCH, POLL_TIMEOUT, Worker};
use crate::evaluator::EvaluatorError;
use crate::evaluator::processor::{Input, RereadRange};

impl Worker {
    /// Serves all that the processor asks for. A stop interrupts it: then nothing more of the partition is written, and it
    /// begins again at its checkpoint.
    pub(super) fn reread(&mut self) -> Result<(), EvaluatorError> {
        while let Some(range) = self.processor.reread() {
            if let Some(partition) = self.reread_range(range)? {
                self.stop_reading(&[partition]);
            }
        }
        self.outputs.count(&self.processor);
        self.outputs.flush()
    }

    /// Reads a range again. Returns the partition of an evaluation that was interrupted.
    fn reread_range(&mut self, range: RereadRange) -> Result<Option<u32>, EvaluatorError> {
        let mut reader = self.reader_from(range)?;
        let mut batch = Vec::new();
        while self.processor.reread() == Some(range) {
            if reader.position(range.partition) >= range.until {
                self.step(Input::RereadEnd)?;
                break;
            }
            reader.poll(&mut batch, MAX_BATCH, POLL_TIMEOUT)?;
            for record in batch.iter().filter(|record| record.position.offset < range.until) {
                if self.stop.is_cancelled() {
                    self.step(Input::GiveUp(&[range.partition]))?;
                    return Ok(Some(range.partition));
                }
                self.step(Input::Reread(record))?;
                if let Some(partition) = self.outputs.take_interrupted() {
                    return Ok(Some(partition));
                }
            }
            self.outputs.flush()?;
        }
        Ok(None)
    }

    /// Returns a reader of a range: from where retention has left something, but never from past its end.
    fn reader_from(&mut self, range: RereadRange) -> Result<Reader, EvaluatorError> {
        let RereadRange { partition, from, until, .. } = range;
        let opened = self.retry_bus(|worker| match worker.bus.reader(vec![Position { partition, offset: from }]) {
            Err(BusError::OffsetOutOfRange { earliest, .. }) => {
                warn!(partition, first = from, earliest, "a new alert missed ticks that retention removed");
                worker.bus.reader(vec![Position { partition, offset: earliest.min(until) }])
            }
            other => other,
        });
        Ok(opened?)
    }
}
