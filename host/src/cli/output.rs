//! Where output is written: results to standard output, failures to standard error.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

use super::failure::Failure;

/// How results are written.
#[derive(Clone, Copy)]
pub(super) struct Output {
    /// As JSON, for programs.
    pub(super) json: bool,
}

impl Output {
    /// Writes a result: as JSON, or as the text that `render` makes of it.
    pub(super) fn result(self, value: &Value, render: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { self.text(&format!("{value:#}")) } else { self.text(&render()) }
    }

    /// Writes one of many results, on a line of its own.
    pub(super) fn line(self, value: &Value, render: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { self.text(&value.to_string()) } else { self.text(&render()) }
    }

    /// Writes a text and the end of its last line. Flushed, since its reader may wait for it.
    pub(super) fn text(self, text: &str) -> Result<(), Failure> {
        write(&mut io::stdout().lock(), text)
    }

    /// Writes a remark that is not part of the result.
    pub(super) fn remark(self, text: &str) {
        // If standard error is closed there is nowhere to report that.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Reports how a command ended, and returns its exit code.
    pub(super) fn finish(self, done: Result<(), Failure>) -> ExitCode {
        match done {
            Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
            Err(failure) => {
                self.remark(&if self.json { failure.problem().to_string() } else { failure.text() });
                ExitCode::FAILURE
            }
        }
    }
}

fn write(to: &mut impl Write, text: &str) -> Result<(), Failure> {
    let written = to.write_all(text.trim_end_matches('\n').as_bytes()).and_then(|()| to.write_all(b"\n"));
    written.and_then(|()| to.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Failure::Local(format!("cannot write to standard output: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pipe(io::ErrorKind);

    impl Write for Pipe {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_enough_is_no_failure() {
        assert!(matches!(write(&mut Pipe(io::ErrorKind::BrokenPipe), "text"), Err(Failure::ReaderGone)));
        assert!(matches!(write(&mut Pipe(io::ErrorKind::StorageFull), "text"), Err(Failure::Local(_))));
        let mut written = Vec::new();
        write(&mut written, "one\ntwo\n").unwrap();
        assert_eq!(written, b"one\ntwo\n");
    }
}
