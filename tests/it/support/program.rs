//! The real program as a separate process.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::support::harness::PATIENCE;

/// The real program as a separate process.
pub struct Program {
    pub base: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Returns the command that starts the program, without environment variables of this process
    /// that could be settings.
    pub fn command(folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_causerie"));
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CAUSERIE_") || name == "PORT")
        {
            command.env_remove(name);
        }
        command.current_dir(folder).stdin(Stdio::null());
        command
    }

    /// Starts the program in `folder` and waits until it reports that it is ready. It logs to the
    /// file `log` in that folder.
    pub fn start(folder: &Path, settings: &[(&str, &str)]) -> Self {
        Self::started_by(&mut Self::command(folder), folder, settings)
    }

    /// Starts the program with a given command, which may do something else first.
    pub fn started_by(command: &mut Command, folder: &Path, settings: &[(&str, &str)]) -> Self {
        let log = folder.join("log");
        command
            .env("CAUSERIE_LISTEN", "127.0.0.1:0")
            .envs(settings.iter().copied());
        let log_file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let base = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        let Some(base) = base else {
            panic!(
                "no address in {line:?}; log: {}",
                std::fs::read_to_string(&log).unwrap()
            )
        };
        Self {
            base: base.to_owned(),
            child,
            log,
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Returns the peak memory of the process in MiB, or `None` where the system does not report
    /// it.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let peak: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()?;
        Some(peak / 1024)
    }

    /// Kills the process, as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, name: &str) {
        let killed = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
    }

    /// Waits until the process ends.
    pub async fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the program did not end; log: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The process has already ended if the test waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn run(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    Program::command(folder)
        .args(arguments)
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

/// Checks that the program refuses to start: one line on standard error with this text, and exit
/// code 2.
#[track_caller]
pub fn refuses(folder: &Path, settings: &[(&str, &str)], mention: &str) {
    let output = run(folder, &[], settings);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.starts_with("causerie: ")
            && text.trim_end().lines().count() == 1
            && text.contains(mention),
        "{text:?} should mention {mention:?}"
    );
}

/// Allows other machines to reach a server in open mode.
pub const ALLOWED: (&str, &str) = ("CAUSERIE_ALLOW_OPEN_NETWORK", "true");

/// Runs `--health` for the server at this address. Returns `Ok` if it printed nothing and exited
/// with 0, or the reason if it printed one line and exited with 1.
#[track_caller]
pub fn health(address: &str) -> Result<(), String> {
    let folder = TempDir::new().unwrap();
    let output = run(
        folder.path(),
        &["--health"],
        &[("CAUSERIE_LISTEN", address), ALLOWED],
    );
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.stdout.is_empty() && !folder.path().join("data").exists(),
        "nothing is started"
    );
    if output.status.code() == Some(0) {
        assert_eq!(text, "");
        return Ok(());
    }
    assert_eq!(output.status.code(), Some(1), "{text}");
    let reason = text
        .strip_prefix("causerie: ")
        .unwrap_or_else(|| panic!("{text}"));
    assert!(
        reason.contains("127.0.0.1:") && text.trim_end().lines().count() == 1,
        "{text}"
    );
    Err(reason.to_owned())
}

pub fn run_with_bytes(folder: &Path, arguments: &[&str], settings: &[(&str, &[u8])]) -> Output {
    let settings = settings
        .iter()
        .map(|(name, value)| (name, OsStr::from_bytes(value)));
    Program::command(folder)
        .args(arguments)
        .envs(settings)
        .output()
        .unwrap()
}
