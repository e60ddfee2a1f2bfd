//! `causerie create-user`: adds a user from the command line, for instance the first support user.

use std::io::{self, BufRead, IsTerminal, Write};

use causerie::{
    clock::Clock,
    config::Config,
    operator::{NewUser, NotAdded},
};

use crate::Problem;

/// The maximum number of bytes that are read in search of the end of a line.
const MAX_LINE: u64 = 64 * 1024;

/// Add a user who logs in with a username and a password. The server may be running, and knows the
/// user at once
///
/// The password is asked for twice, and not shown, when standard input is a terminal. Otherwise it
/// is the first line of standard input. The id of the new user is printed.
#[derive(clap::Args)]
pub struct CreateUser {
    /// What kind of user: consumer or support
    #[arg(long = "type", value_name = "TYPE")]
    kind: String,
    /// The name to log in with: 3 to 32 of a-z 0-9 . _ -
    #[arg(long, value_name = "NAME")]
    username: String,
    /// Given name, at most 200 characters
    #[arg(long, value_name = "NAME")]
    first_name: String,
    /// Family name, at most 200 characters
    #[arg(long, value_name = "NAME")]
    last_name: String,
}

impl CreateUser {
    /// Reads the password, adds the user, and prints the user's id.
    pub fn run(self, config: &Config) -> Result<(), Problem> {
        let new = NewUser::read(&self.kind, &self.username, self.first_name, self.last_name)?;
        let password = if io::stdin().is_terminal() {
            ask()?
        } else {
            read_line(io::stdin().lock())?
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the async runtime: {error}"))?;
        let id = runtime
            .block_on(new.add(password, config, &Clock::system()))
            .map_err(to_problem)?;
        // An error is ignored: the user has been added even if the id cannot be printed.
        let _ = writeln!(io::stdout(), "{id}");
        Ok(())
    }
}

/// Returns an error of opening the database as itself, because the exit code depends on it.
fn to_problem(error: NotAdded) -> Problem {
    match error {
        NotAdded::Open(error) => error.into(),
        error => error.into(),
    }
}

fn ask() -> Result<String, Problem> {
    let ask = |prompt| {
        rpassword::prompt_password(prompt)
            .map_err(|error| format!("password: cannot ask for it: {error}"))
    };
    let password = ask("Password: ")?;
    if ask("The same again: ")? == password {
        Ok(password)
    } else {
        Err("password: the two are not the same".into())
    }
}

fn read_line(from: impl BufRead) -> Result<String, Problem> {
    let line = from
        .take(MAX_LINE)
        .lines()
        .next()
        .ok_or("password: there is no line on standard input")?;
    line.map_err(|error| format!("password: cannot read standard input: {error}").into())
}
