//! The log of the program: lines on standard error, written by a thread of their own.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use causerie::config::LogFormat;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// How many buffers full of log lines, of 8 KiB each, may wait to be written. When more come in faster than they can be written, lines are
/// dropped, not requests held up.
const LOG_BUFFERS: usize = 1_024;
/// How long a log line may wait in a buffer that is not full.
const LOG_FLUSH: Duration = Duration::from_millis(20);

/// The log, for as long as the program runs. Dropped, it writes what is left.
pub struct Log {
    lines: Arc<LogLines>,
    _writer: WorkerGuard,
}

/// Log lines on their way to the thread that writes them to standard error. They go there many at a time: waking it for every line would
/// cost more than the line.
struct LogLines(Mutex<io::BufWriter<NonBlocking>>);

impl Write for &LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

impl Log {
    /// Starts to write what passes the filter to standard error.
    pub fn start(filter: EnvFilter, format: LogFormat) -> Self {
        let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LOG_BUFFERS).finish(io::stderr());
        let lines = Arc::new(LogLines(Mutex::new(io::BufWriter::new(writer))));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Arc::clone(&lines)).with_ansi(io::stderr().is_terminal());
        match format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
        Self { lines, _writer: guard }
    }

    /// Passes on what is in the buffer, again and again.
    pub fn keep_flushing(&self) -> impl Future<Output = ()> + use<> {
        let lines = Arc::clone(&self.lines);
        async move {
            let mut ticks = tokio::time::interval(LOG_FLUSH);
            loop {
                ticks.tick().await;
                // What cannot be written has nobody to be told to.
                let _ = lines.as_ref().flush();
            }
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = self.lines.as_ref().flush();
    }
}
