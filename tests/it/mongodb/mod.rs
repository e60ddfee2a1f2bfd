//! What only MongoDB has: several servers on one database, outages, takeovers of existing data, and
//! changes that it delays or refuses.

mod delayed_commands;
mod deleted_members;
mod deployments;
mod events_of_other_servers;
mod interrupted_takeover;
mod large_changes;
mod outages;
mod pending_effects;
mod starting;
mod takeover;
mod two_servers;
mod unfinished_work;
