//! The progress of a long command, on the terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar on standard error, if that is a terminal. It is removed when it is dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// Shows the progress of a task of this length.
    pub fn new(task: &'static str, length: u64) -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3}% {eta:>4}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(length).with_style(style);
        bar.set_message(task);
        Self(bar)
    }

    /// Moves to this position.
    pub fn set(&self, position: u64) {
        self.0.set_position(position);
    }

    /// Moves on.
    pub fn add(&self, done: u64) {
        self.0.inc(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
