//! tracing's events → lines on standard error, as text or JSON, written above a bar that may be there.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Log lines and bars share a terminal: the bars are taken away while a line is written.
#[derive(Clone, Debug)]
struct Lines {
    bars: MultiProgress,
    /// Standard error under a descriptor of its own: the SQL parser puts a pipe in the place of descriptor 2 while it
    /// parses, and what other threads write there meanwhile is lost.
    out: Arc<File>,
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.bars.suspend(|| (&*self.out).write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.out).flush()
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Sends what is logged from here on to standard error. Where a subscriber is set already, it stays.
///
/// # Errors
/// When standard error is closed.
pub fn start(filter: EnvFilter, json: bool, colours: bool, bars: &MultiProgress) -> io::Result<()> {
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours && !json)
        .with_writer(Lines {
            bars: bars.clone(),
            out: Arc::new(out),
        });
    // An error says that there is one already, which is only so in tests.
    drop(if json {
        lines.json().try_init()
    } else {
        lines.try_init()
    });
    Ok(())
}
