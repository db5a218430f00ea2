//! tracing's events → lines on standard error, as text or JSON, written above a bar that may be there.

use std::io;

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Log lines and bars share a terminal: the bars are taken away while a line is written.
#[derive(Clone, Debug)]
struct Lines {
    bars: MultiProgress,
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.bars.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Sends what is logged from here on to standard error. Where a subscriber is set already, it stays.
pub fn start(filter: EnvFilter, json: bool, colours: bool, bars: &MultiProgress) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours && !json)
        .with_writer(Lines { bars: bars.clone() });
    // An error says that there is one already, which is only so in tests.
    drop(if json {
        lines.json().try_init()
    } else {
        lines.try_init()
    });
}
