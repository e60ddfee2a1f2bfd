//! The log of the program: lines on standard error, written by a separate thread.

use std::{
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use causerie::config::LogFormat;
use parking_lot::Mutex;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// The maximum number of buffers of log lines, 8 KiB each, that wait to be written. Beyond that,
/// lines are dropped instead of delaying requests.
const LOG_BUFFERS: usize = 1_024;
/// The maximum time that a log line waits in a buffer that is not full.
const LOG_FLUSH: Duration = Duration::from_millis(20);

/// The log of the running program. Flushes the remaining lines when dropped.
pub struct Log {
    lines: Arc<LogLines>,
    _writer: WorkerGuard,
}

/// Buffers log lines for the thread that writes them to standard error. They are passed on in
/// batches: waking the thread for every line would cost more than the line itself.
struct LogLines(Mutex<io::BufWriter<NonBlocking>>);

impl Write for &LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().flush()
    }
}

impl Log {
    /// Starts to write log lines that pass the filter to standard error.
    pub fn start(filter: EnvFilter, format: LogFormat) -> Self {
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(LOG_BUFFERS)
            .finish(io::stderr());
        let lines = Arc::new(LogLines(Mutex::new(io::BufWriter::new(writer))));
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(Arc::clone(&lines))
            .with_ansi(io::stderr().is_terminal());
        match format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
        Self {
            lines,
            _writer: guard,
        }
    }

    /// Returns a future that flushes the buffer periodically and never completes.
    pub fn keep_flushing(&self) -> impl Future<Output = ()> + use<> {
        let lines = Arc::clone(&self.lines);
        async move {
            let mut ticks = tokio::time::interval(LOG_FLUSH);
            loop {
                ticks.tick().await;
                // An error is ignored: it cannot be logged.
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
