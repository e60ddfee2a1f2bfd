//! Clients that others wrote, and the transcript of the original application.

mod official;
mod reconnecting;
mod replay;
